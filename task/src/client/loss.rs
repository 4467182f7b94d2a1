//! What the end of a connection says of the calls on it. Pure.

use std::io::{self, ErrorKind};

use tarpc::client::RpcError;
use tarpc::{ChannelError, ServerError};
use task_proto::crash::Crash;
use task_proto::wire::NEVER_SENT;

use super::error::{CallError, in_full};
use crate::verdict::{Death, Verdict};

/// How a call came to its end without a reply.
#[derive(Debug)]
pub(super) enum Loss {
    /// Not by losing its connection: it is over. `None`: its deadline passed.
    None(Option<CallError>),
    /// Nothing of it went out.
    NeverSent,
    /// It went out, but nobody has executed it or will.
    NeverExecuted,
    /// It may have been executed. How the connection ended.
    Unknown(String),
}

/// Input that cannot be read again, and may have been read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) bytes: Option<u64>,
    pub(super) death: Option<Death>,
}

/// `sent`: some of the request may have gone out. `greeted`: the server has said who it is.
pub(super) fn of(error: RpcError, sent: bool, greeted: bool) -> Loss {
    let lost = |error: &RpcError| Loss::None(Some(CallError::Lost { death: None, cause: in_full(error) }));
    match error {
        RpcError::DeadlineExceeded => Loss::None(None),
        // The transport's word for a request that was not written whole.
        RpcError::Server(ServerError { kind: ErrorKind::BrokenPipe, detail, .. }) if detail == NEVER_SENT => {
            Loss::NeverSent
        }
        RpcError::Server(error) => Loss::None(Some(match Crash::from_error(&error) {
            Some(crash) => CallError::Crashed(crash),
            None => CallError::Service(error),
        })),
        RpcError::Send(error) if kind(error.as_ref()) == Some(ErrorKind::BrokenPipe) => Loss::NeverSent,
        RpcError::Send(error) => Loss::None(Some(CallError::NeverSent(error))),
        RpcError::Shutdown | RpcError::Channel(_) if !sent => Loss::NeverSent,
        RpcError::Channel(ChannelError::Read(ref cause))
            // A notice of a living worker, and bytes that are no message: another try would end likewise.
            if matches!(kind(cause.as_ref()), Some(ErrorKind::ConnectionAborted | ErrorKind::InvalidData)) =>
        {
            lost(&error)
        }
        // Everything that the worker wrote was read, and it greets before it reads.
        RpcError::Shutdown | RpcError::Channel(ChannelError::Read(_)) if !greeted => Loss::NeverExecuted,
        RpcError::Shutdown | RpcError::Channel(ChannelError::Read(_)) => Loss::Unknown(in_full(&error)),
        RpcError::Channel(_) => lost(&error),
    }
}

/// What is lost of an input that cannot be read again with a connection of this verdict; `None` where the verdict
/// proves that nothing was read, or will be.
pub(super) fn spent(verdict: Verdict) -> Option<Spent> {
    match verdict {
        Verdict::Died { consumed: None, .. } => None,
        Verdict::Died { consumed: bytes, death } => Some(Spent { bytes, death: Some(death) }),
        // It may begin yet.
        Verdict::Alive { consumed: bytes } => Some(Spent { bytes, death: None }),
        Verdict::Unknown => Some(Spent::default()),
    }
}

impl From<Spent> for CallError {
    fn from(Spent { bytes, death }: Spent) -> Self {
        CallError::InputConsumed { bytes, death }
    }
}

fn kind(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<ErrorKind> {
    error.downcast_ref::<io::Error>().map(io::Error::kind)
}
