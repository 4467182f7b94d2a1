//! `task-rpc`: serves mean, median and mode of numbers on a Unix socket.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use task_proto::stats::Stats;
use task_worker::engine::{Budget, Engine};
use task_worker::{Worker, WorkerError};

mod service;

/// Serves mean, median and mode of numbers to other programs, on a Unix socket.
///
/// Any tarpc client may call it: see examples/call.rs. The socket is open to its owner alone; it is removed when
/// the process ends. INT or TERM answers what has been asked, then ends; a second one ends at once. The log is on
/// stderr. For answers on the command line use `task`, which starts this program by itself.
#[derive(Parser)]
#[command(version, override_usage = "task-rpc --socket PATH")]
struct Args {
    /// Serve on a new socket at this path; a stale one there is replaced
    #[arg(long, value_name = "PATH", conflicts_with = "supervised")]
    socket: Option<PathBuf>,
    /// Serve under the parent with this pid, which talks on stdin
    #[arg(long, value_name = "PID", hide = true)]
    supervised: Option<u32>,
}

fn main() -> ExitCode {
    let Args { socket, supervised } = Args::parse();
    let worker = match (supervised, socket) {
        (Some(host), _) => Worker::supervised(host),
        (None, Some(path)) => Worker::standalone(path),
        (None, None) => Args::command()
            .error(
                ErrorKind::MissingRequiredArgument,
                "for answers run `task`; to serve other programs give --socket PATH",
            )
            .exit(),
    };
    worker.and_then(serve).map_or_else(
        |error| {
            eprintln!("task-rpc: {error}");
            error.exit_code()
        },
        |()| ExitCode::SUCCESS,
    )
}

fn serve(worker: Worker) -> Result<(), WorkerError> {
    // Before it serves, as the memory of the machine is read from files.
    let engine = Engine::new(Budget::new(worker.limits().memory));
    worker.serve("Stats", move |connection| service::Service::new(connection, &engine).serve())
}
