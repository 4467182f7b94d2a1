//! The mean of eight numbers, called over a Unix socket: by this project's protocol and by its peers'.
//!
//! `calls server KIND SOCKET` serves until it is killed. `calls client KIND SOCKET` connects and measures what its standard
//! input asks for: `latency N` prints the median and the 99th percentile of N calls in nanoseconds, `flight N` the calls a
//! second of N calls, 64 at a time. `calls handover SOCKET ROUNDS` times 256 MiB in a memfd. Runtimes have one thread.

mod bincode;
mod grpc;
mod handover;
mod measure;
mod messagepack;
mod ours;
mod raw;

use std::error::Error;
use std::path::Path;

type Failure = Box<dyn Error + Send + Sync>;

/// What is asked: as many numbers as people type.
const NUMBERS: [f64; 8] = [3.0, 1.0, 3.5, 1.25, 2.0, 8.0, 13.0, 0.25];

const USAGE: &str =
    "usage: calls server|client raw|messagepack|bincode|grpc|ours SOCKET, calls handover SOCKET ROUNDS";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let [role, kind, last] = words[..] else { return Err(USAGE.into()) };
    match (role, kind) {
        ("server", "raw") => raw::serve(Path::new(last)).await,
        ("server", "messagepack") => messagepack::serve(Path::new(last)).await,
        ("server", "bincode") => bincode::serve(Path::new(last)).await,
        ("server", "grpc") => grpc::serve(Path::new(last)).await,
        ("client", "raw") => measure::ask(raw::Caller::connect(Path::new(last)).await?).await,
        ("client", "messagepack") => measure::ask(messagepack::Caller::connect(Path::new(last)).await?).await,
        ("client", "bincode") => measure::ask(bincode::Caller::connect(Path::new(last)).await?).await,
        ("client", "grpc") => measure::ask(grpc::Caller::connect(Path::new(last)).await?).await,
        ("client", "ours") => measure::ask(ours::Caller::connect(Path::new(last)).await?).await,
        ("handover", socket) => handover::measure(Path::new(socket), last.parse()?).await,
        _ => Err(USAGE.into()),
    }
}

/// What every server answers. It is the cheapest part of a call: no peer gains by how it sums.
fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}
