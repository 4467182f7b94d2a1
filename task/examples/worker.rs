//! A worker of a service of one's own. The host in `host.rs` starts it; by hand:
//!
//! ```console
//! $ cargo build --examples && target/debug/examples/host target/debug/examples/worker
//! ```

mod greeter;

use greeter::Greeter;
use tarpc::context::Context;
use task_worker::{Worker, WorkerError};

#[derive(Clone)]
struct Polite;

impl Greeter for Polite {
    async fn greet(self, _: Context, name: String) -> String {
        format!("Hello, {name}! This is process {}.", std::process::id())
    }
}

fn main() -> Result<(), WorkerError> {
    // The host calls its worker with `--supervised PID`.
    let host = std::env::args().next_back().and_then(|pid| pid.parse().ok()).unwrap_or_default();
    Worker::supervised(host)?.serve("Greeter", |_connection| Polite.serve())
}
