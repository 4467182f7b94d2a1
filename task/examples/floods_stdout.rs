//! A worker that writes 100 MB to standard output in its first call: as one does with a forgotten `println!`.

mod canned;

use std::io::Write as _;
use std::sync::Once;
use task_worker::WorkerError;

static CALLED: Once = Once::new();

fn main() -> Result<(), WorkerError> {
    canned::serve(|| CALLED.call_once(flood))
}

fn flood() {
    let block = b"answer: and yet another line of 64 bytes that nobody ever wants.\n".repeat(1024);
    let mut stdout = std::io::stdout().lock();
    for _ in 0..100_000_000 / block.len() {
        stdout.write_all(&block).expect("somebody must read this");
    }
}
