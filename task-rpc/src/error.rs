//! Why a worker ended.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use task_proto::handshake::{EXIT_REFUSED, HandshakeError, PROTOCOL};

/// Why a worker could not start, or ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The parent is not the host that was named: the host has died, or this was started by hand.
    #[error("process {host} is not my parent; --supervised is for task alone")]
    NotTheHost {
        /// The pid that was named.
        host: u32,
    },
    /// No handshake with the host.
    #[error("no handshake with the host on standard input: {0}")]
    Handshake(#[from] HandshakeError),
    /// No protocol in common with the host.
    #[error("the host speaks protocols {} to {}, this program {} to {}: install both from one build", .host[0], .host[1], PROTOCOL[0], PROTOCOL[1])]
    Refused {
        /// Oldest and newest protocol that the host speaks.
        host: [u32; 2],
    },
    /// What is asked of the sandbox cannot be had.
    #[error("{reason}")]
    Sandbox {
        /// Why not.
        reason: String,
    },
    /// The system refused something.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// What a service manager gave cannot be served.
    #[error("LISTEN_FDS: {problem}")]
    Given {
        /// What is wrong with it.
        problem: String,
    },
    /// The socket's path cannot be used.
    #[error("{}: {problem}", .path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl WorkerError {
    /// The exit status that says it: [`EXIT_REFUSED`] where another try will not help, else 1.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            WorkerError::Refused { .. } | WorkerError::Sandbox { .. } => EXIT_REFUSED.into(),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Says what was tried when the system refuses it.
pub(crate) trait Context<T> {
    fn context(self, what: &'static str) -> Result<T, WorkerError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: &'static str) -> Result<T, WorkerError> {
        self.map_err(|cause| WorkerError::System { what, cause: cause.into() })
    }
}
