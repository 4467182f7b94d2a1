//! `task-rpc`: serves mean, median and mode of numbers on a Unix socket.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use task_proto::limits::Limits;
use task_proto::stats::{Stats, json};
use task_worker::engine::{Budget, Engine, Simd};
use task_worker::{SandboxMode, Worker, WorkerError};

mod service;

/// Serves mean, median and mode of numbers to other programs, on a Unix socket.
///
/// It speaks JSON-RPC 2.0, one message a line, and tarpc: see PROTOCOL.md. The socket is open to its owner alone; it is
/// removed when the process ends. INT or TERM answers what has been asked, then ends; a second one ends at once. The log is on
/// stderr. Under systemd it takes the socket of a socket unit in place of --socket, and says when it serves. For
/// answers on the command line use `task`, which starts this program by itself.
#[derive(Parser)]
#[command(version, override_usage = "task-rpc --socket PATH", after_long_help = limits())]
struct Args {
    /// Serve on a new socket at this path; a stale one there is replaced
    #[arg(long, value_name = "PATH", conflicts_with = "supervised")]
    socket: Option<PathBuf>,
    /// What is asked of the sandbox, in which there are no files, no network and no programs
    ///
    /// best-effort, the default, is what the kernel has of it.
    #[arg(long, env = "TASK_SANDBOX", hide_env = true, value_name = "HOW", value_parser = PossibleValuesParser::new(SandboxMode::NAMES).try_map(|name| name.parse::<SandboxMode>()))]
    sandbox: Option<SandboxMode>,
    /// Another limit than the usual, as often as there are some: held=32M, drain=30s
    ///
    /// Several go with commas between them, as they do in the variable `TASK_LIMIT`, whose limits hold where this names
    /// others. The table below has all.
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "supervised")]
    limit: Vec<String>,
    /// Compute with these instructions instead of the best: portable, avx2 or avx512
    #[arg(long, env = "TASK_SIMD", value_name = "LEVEL", hide = true, value_parser = Simd::named)]
    simd: Option<Simd>,
    /// Serve under the parent with this pid, which talks on stdin
    #[arg(long, value_name = "PID", hide = true)]
    supervised: Option<u32>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let (sandbox, simd) = (args.sandbox, args.simd.unwrap_or_else(Simd::best));
    let sandboxed = |worker: Worker| match sandbox {
        Some(mode) => worker.sandbox(mode),
        None => worker,
    };
    worker(args).map(sandboxed).and_then(|worker| serve(worker, simd)).map_or_else(
        |error| {
            eprintln!("task-rpc: {error}");
            error.exit_code()
        },
        |()| ExitCode::SUCCESS,
    )
}

fn limits() -> String {
    format!("Limits:\n{}", Limits::default().help())
}

fn worker(Args { socket, supervised, limit, .. }: Args) -> Result<Worker, WorkerError> {
    if let Some(host) = supervised {
        return Worker::supervised(host);
    }
    let limits = Limits::default()
        .with(std::env::var_os("TASK_LIMIT"), &limit)
        .unwrap_or_else(|why| usage(ErrorKind::ValueValidation, &why));
    match (Worker::activated(&limits)?, socket) {
        (Some(worker), None) => Ok(worker),
        (None, Some(path)) => Worker::standalone(path, &limits),
        (Some(_), Some(_)) => usage(
            ErrorKind::ArgumentConflict,
            "a service manager has given a socket (LISTEN_FDS): leave --socket out",
        ),
        (None, None) => usage(
            ErrorKind::MissingRequiredArgument,
            "for answers run `task`; to serve other programs give --socket PATH",
        ),
    }
}

fn usage(kind: ErrorKind, message: &str) -> ! {
    Args::command().error(kind, message).exit()
}

fn serve(worker: Worker, simd: Simd) -> Result<(), WorkerError> {
    // Before it serves, as the memory of the machine is read from files.
    let engine = Engine::new(simd, Budget::new(worker.limits().memory));
    let service = move |connection: &_| service::Service::new(connection, &engine).serve();
    worker.serve_json("Stats", service, json::METHODS)
}
