//! Why a call has no reply, and whether it may have been executed.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use tarpc::ServerError;
use tarpc::client::RpcError;
use task_proto::crash::Crash;
use task_proto::wire::ConnectError;

use crate::supervisor::Ended;
use crate::verdict::Death;

/// Whether a call without a reply may have been executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was not.
    NeverSent,
    /// It may have been, or may yet be.
    Unknown,
}

/// Why a call has no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Its deadline passed.
    #[error("{outcome}: no answer within the deadline")]
    Deadline {
        /// Whether it may have been executed.
        outcome: Outcome,
    },
    /// The service that another process runs takes no connection.
    #[error("{outcome}: cannot connect to {}{}: {cause}", path.display(), again(*.outcome))]
    Unreachable {
        /// Whether an earlier connection may have executed it.
        outcome: Outcome,
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        cause: ConnectError,
    },
    /// The supervisor's service is gone and will not come back.
    #[error("{outcome}: {ended}")]
    Ended {
        /// Whether a worker may have executed it.
        outcome: Outcome,
        /// Why.
        ended: Ended,
    },
    /// The connection was lost after a worker had begun to read input that cannot be read again, or may have begun.
    /// Nothing was computed from the rest.
    #[error("the input cannot be read again, and {}", consumed(*.bytes, .death.as_ref()))]
    InputConsumed {
        /// How many bytes had been read; `None`: nobody knows.
        bytes: Option<u64>,
        /// How the worker died; `None`: nobody knows that it did.
        death: Option<Death>,
    },
    /// Workers die of this call, so it is not executed again.
    #[error("workers died of this call, the last one {0}")]
    Crashed(Crash),
    /// The request cannot be sent.
    #[error("{}", never_sent(&**.0))]
    NeverSent(#[source] Box<dyn Error + Send + Sync>),
    /// The connection closed before the answer came, and the call must not, or need not, be sent again.
    #[error("outcome unknown: {}", lost(.death.as_ref(), .cause))]
    Lost {
        /// How the worker died that had the call; `None`: nobody knows that it did.
        death: Option<Death>,
        /// How the connection ended.
        cause: String,
    },
    /// The service failed outside its method: a panic, a reply over the limit.
    #[error("the service failed: {}", .0.detail)]
    Service(ServerError),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::NeverSent => "never sent",
            Outcome::Unknown => "outcome unknown",
        })
    }
}

/// What may have been executed had a connection before.
fn again(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NeverSent => "",
        Outcome::Unknown => " again",
    }
}

fn consumed(bytes: Option<u64>, death: Option<&Death>) -> String {
    match (bytes, death) {
        (Some(bytes), Some(death)) => format!("{bytes} bytes of it had been read when {death}"),
        (Some(bytes), None) => format!("{bytes} bytes of it had been read when the connection was lost"),
        (None, Some(death)) => format!("it may have been read before {death}"),
        (None, None) => "it may have been read before the connection was lost".to_owned(),
    }
}

/// The transport says it of its own errors already.
fn never_sent(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    let said = Outcome::NeverSent.to_string();
    if text.starts_with(&said) { text } else { format!("{said}: {text}") }
}

fn lost(death: Option<&Death>, cause: &str) -> String {
    match death {
        Some(death) => format!("{death} before it answered"),
        None => format!("the connection was lost before the answer came: {cause}"),
    }
}

/// An error with its causes, each said once.
pub(super) fn in_full(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let causes = std::iter::successors(error.source(), |&error| error.source());
    for cause in causes.map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

impl From<RpcError> for CallError {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::Send(error) => {
                error.downcast::<CallError>().map_or_else(CallError::NeverSent, |error| *error)
            }
            // Of another stub than ours.
            RpcError::DeadlineExceeded => CallError::Deadline { outcome: Outcome::Unknown },
            RpcError::Server(error) => CallError::Service(error),
            RpcError::Shutdown | RpcError::Channel(_) => {
                CallError::Lost { death: None, cause: in_full(&error) }
            }
        }
    }
}
