//! What `task status`, `restart` and `stop`, and clients that lost a connection, ask of the host that runs `serve`.

mod caller;
mod server;

use serde::{Deserialize, Serialize};
use task_proto::crash::TraceId;
use task_proto::handshake::Sandbox;
use task_proto::limits::Limits;

pub use self::caller::{Caller, ControlError};
pub use self::server::serve;
use crate::verdict::Verdict;

/// Name of the control socket, beside that of the workers.
pub const CONTROL_SOCKET: &str = "control.sock";

/// The host's own service, on a socket beside that of its worker.
#[tarpc::service]
pub trait Control {
    /// How the service stands.
    async fn status() -> Report;
    /// Starts the next generation beside the one that serves, and returns its number once it serves in its place.
    async fn restart() -> Result<u64, NotRestarted>;
    /// Begins an orderly stop. The connection ends when the service has.
    async fn stop();
    /// What is known of a connection to this generation, of the host whose run is called `instance`: another host has
    /// other generations of the same numbers, and knows nothing of this one's.
    async fn verdict(instance: String, generation: u64, connection: u64) -> Verdict;
    /// How far the calls of this trace id have read their input; `None` where none is executing.
    async fn reading(trace_id: TraceId) -> Option<Reading>;
}

/// How far a call has read its input, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Of any input.
    pub read: u64,
    /// Of input that cannot be read again.
    pub consumed: u64,
}

/// Why no other worker serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{why}")]
pub struct NotRestarted {
    /// What became of it.
    pub why: String,
    /// The last lines of its stderr, oldest first, fit to be shown.
    pub stderr_tail: Vec<String>,
}

/// How a service stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What it is at.
    pub state: State,
    /// The host's process id.
    pub pid: u32,
    /// Name of the host's run, as in its log.
    pub run: String,
    /// Path of the socket that the workers serve.
    pub socket: String,
    /// Since the host began, in seconds.
    pub uptime_s: f64,
    /// How many workers came to serve after another, after a death or for a hand-over.
    pub restarts: u64,
    /// The last of these.
    pub last_restart: Option<Restart>,
    /// How much of the sandbox is in force; `None` while no worker serves.
    pub sandbox: Option<Sandbox>,
    /// The worker that serves.
    pub child: Option<Child>,
    /// Those that no longer accept, and answer what they were asked.
    pub draining: Vec<Child>,
    /// Over all workers of this host.
    pub calls: Calls,
    /// Of the worker that serves.
    pub connections: Connections,
    /// What all of them keep; that of memory as a number once a worker serves.
    pub limits: Limits,
    /// The host's resident memory, in bytes.
    pub memory_bytes: u64,
}

/// What a service is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A worker is starting.
    Starting,
    /// A worker answers.
    Serving,
    /// A worker answers, and its successor is starting.
    Reloading,
    /// A start has failed; the next is waited for.
    Waiting,
    /// It is ending.
    Stopping,
}

/// Why a worker followed another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// When, as in the log.
    pub time: String,
    /// Why, in words: `killed by SIGKILL`, `no heartbeat for 3 s`, `hand-over`.
    pub reason: String,
}

/// A worker process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Child {
    /// Its process id.
    pub pid: u32,
    /// Which worker of this host, from 1.
    pub generation: u64,
    /// Version of its build.
    pub build: String,
    /// Since it was ready, in seconds.
    pub uptime_s: f64,
    /// Its resident memory, in bytes.
    pub memory_bytes: u64,
}

/// Counts of calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls {
    /// Answered, the failed ones too.
    pub total: u64,
    /// Answered with a fault, or refused as no call could be made of what was sent.
    pub failed: u64,
    /// Executing now.
    pub in_flight: u64,
    /// Half of them took no longer, in µs; `None`: there were none.
    pub p50_us: Option<u64>,
    /// 99 of 100 took no longer, in µs.
    pub p99_us: Option<u64>,
}

/// Counts of connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Open now.
    pub open: u64,
    /// Accepted since the worker began.
    pub total: u64,
    /// How many may be open.
    pub limit: u64,
}
