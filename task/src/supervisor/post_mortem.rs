//! What is known of a worker that is gone, and why a supervisor ended.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use signal_hook::consts::SIGSYS;
use signal_hook::low_level::signal_name;
use task_proto::handshake::{HandshakeError, PROTOCOL};
use task_proto::limits::HAND_OVER;
use task_proto::scoreboard::{Consumed, Snapshot};

use super::health::Sickness;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCause {
    /// It exited with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// Somebody traces it, and holds back how it ended.
    Unknown,
}

/// What is known of a worker that is gone.
#[derive(Debug, Clone)]
pub struct PostMortem {
    /// Which worker of this supervisor it was, from 1.
    pub generation: u64,
    /// Its process id.
    pub pid: u32,
    /// How it ended.
    pub cause: ExitCause,
    /// Why its host killed it, if it did because the worker hung.
    pub sickness: Option<Sickness>,
    /// From spawn to exit.
    pub lived: Duration,
    /// The last lines of its stderr, oldest first, fit to be shown.
    pub stderr_tail: Vec<String>,
    /// Both its pipes ended. If not, somebody whom it started still holds one.
    pub pipes_closed: bool,
    /// Its scoreboard as it left it: which calls were executing, what they had read. `None` if it is unreadable.
    pub scoreboard: Option<Snapshot>,
}

/// Why a worker never became ready.
#[derive(Debug, thiserror::Error)]
#[error("{} {fault}", .program.display())]
pub struct StartFailure {
    /// What was run.
    pub program: PathBuf,
    /// What went wrong.
    pub fault: StartFault,
    /// The last lines of its stderr, oldest first, fit to be shown.
    pub stderr_tail: Vec<String>,
}

/// What went wrong at a start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// There is no process.
    #[error("cannot be run: {0}")]
    Spawn(#[source] std::io::Error),
    /// It exited before it was ready.
    #[error("{0} before it was ready")]
    Died(ExitCause),
    /// It said nothing in time.
    #[error("was not ready within {0:?}, so it was killed")]
    TimedOut(Duration),
    /// It shares no protocol with this host.
    #[error("speaks protocols {} to {}, this program {} to {}: install both from one build", .0[0], .0[1], PROTOCOL[0], PROTOCOL[1])]
    Refused([u32; 2]),
    /// It says why it does not serve: it is told to have a sandbox that cannot be had.
    #[error("does not serve: {0}")]
    Unwilling(String),
    /// What it said made no sense.
    #[error("broke the handshake: {0}")]
    Handshake(#[source] HandshakeError),
}

/// Why a supervisor has no worker, and will have none.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Ended {
    /// It was asked to stop.
    #[error("the service was stopped")]
    Stopped,
    /// A worker never became ready.
    #[error("{0}")]
    StartFailed(Arc<StartFailure>),
    /// A worker died and was not to be replaced.
    #[error("{0}")]
    Died(Arc<PostMortem>),
}

/// Why a hand-over did not come about.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HandOverError {
    /// The new worker did not start; the old one goes on.
    #[error("{0}; the old worker goes on")]
    Start(Arc<StartFailure>),
    /// The new worker did not start, and there is no other; the next is tried.
    #[error("{0}; no worker serves, and another start follows")]
    NoWorker(Arc<StartFailure>),
    /// It will come about, later.
    #[error(
        "not within {HAND_OVER:?}: an earlier worker still answers what it was asked, or the new one is slow to start; the hand-over follows"
    )]
    Queued,
    /// There is nothing to hand over.
    #[error("{0}")]
    Ended(Ended),
}

impl PostMortem {
    /// How it ended, in words: `killed by SIGABRT`, `exited 3`, `killed by SIGKILL: no heartbeat for 3 s`.
    pub fn why(&self) -> String {
        match &self.sickness {
            Some(sickness) => format!("{}: {sickness}", self.cause),
            None => self.cause.to_string(),
        }
    }

    /// What had been read on this connection of input that cannot be read again.
    pub fn consumed(&self, connection: u64) -> Consumed {
        self.scoreboard.as_ref().map_or(Consumed::Unknown, |seen| seen.consumed(connection))
    }
}

impl From<ExitStatus> for ExitCause {
    fn from(status: ExitStatus) -> Self {
        status.signal().map_or_else(|| ExitCause::Code(status.code().unwrap_or(-1)), ExitCause::Signal)
    }
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ExitCause::Code(code) => write!(f, "exited {code}"),
            // The signal alone would tell nobody what to do.
            ExitCause::Signal(SIGSYS) => f.write_str(
                "killed by SIGSYS: it made a system call that its sandbox forbids (the kernel's log says which; --sandbox off allows all)",
            ),
            ExitCause::Signal(signal) => match signal_name(signal) {
                Some(name) => write!(f, "killed by {name}"),
                None => write!(f, "killed by signal {signal}"),
            },
            ExitCause::Unknown => f.write_str("exited, and whoever traces it holds back how"),
        }
    }
}

impl fmt::Display for PostMortem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PostMortem { generation, pid, .. } = self;
        write!(f, "the worker (pid {pid}, generation {generation}) {}", self.why())
    }
}
