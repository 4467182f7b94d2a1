//! A worker that writes 100 MB to standard error before it is ready and again in its first call: as one does that was
//! built with tracing on.

mod canned;

use std::io::Write as _;
use std::sync::Once;
use task_worker::WorkerError;

static CALLED: Once = Once::new();

fn main() -> Result<(), WorkerError> {
    flood();
    canned::serve(|| CALLED.call_once(flood))
}

fn flood() {
    let block = b"trace: and yet another line of 64 bytes that nobody ever reads.\n".repeat(1024);
    let mut stderr = std::io::stderr().lock();
    for _ in 0..100_000_000 / block.len() {
        stderr.write_all(&block).expect("somebody must read this");
    }
    stderr.write_all(b"that was the flood\n").expect("somebody must read this");
}
