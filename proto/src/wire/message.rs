//! tarpc's messages as they are on the wire: the layout of tarpc's own serde forms (a stock client in `MessagePack`
//! reads and writes the same), with a deadline that is not yet an instant and an error kind that survives.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tarpc::trace::SamplingDecision;
use tarpc::{ServerError, context, trace};

use crate::limits::NO_DEADLINE;

/// Mirror of [`tarpc::ClientMessage`]; `T` is the request, a reference to it, or what skips it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ClientMessage<T> {
    Request(Request<T>),
    Cancel {
        #[serde(default)]
        trace_context: trace::Context,
        request_id: u64,
    },
}

/// Mirror of [`tarpc::Request`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request<T> {
    pub(super) context: Context,
    pub(super) id: u64,
    pub(super) message: T,
}

/// Mirror of [`context::Context`].
///
/// tarpc adds the duration to the clock while it decodes, which panics on overflow, and hands it to a timer that
/// panics beyond 2.2 years; so it is bounded here, before tarpc sees it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Context {
    #[serde(default = "no_deadline")]
    pub(super) deadline: Duration,
    /// A stock server wants one; ours takes none for that of no trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trace_context: Option<trace::Context>,
}

fn no_deadline() -> Duration {
    NO_DEADLINE
}

impl Context {
    pub(super) fn of(context: &context::Context, now: Instant) -> Self {
        let deadline = context.deadline.saturating_duration_since(now).min(NO_DEADLINE);
        Context { deadline, trace_context: Some(context.trace_context) }
    }

    /// The same for a server of ours. Where nothing is traced, tarpc's client gives each call a number within no trace: to
    /// write that and to read it takes as long as eight numbers.
    pub(super) fn shortened(self) -> Self {
        let is_traced = |context: &trace::Context| {
            !context.trace_id.is_none() || context.sampling_decision == SamplingDecision::Sampled
        };
        Context { trace_context: self.trace_context.filter(is_traced), ..self }
    }

    /// When the client of a message that arrived then gives up.
    pub(super) fn deadline(&self, arrived: Instant) -> Instant {
        arrived + self.deadline.min(NO_DEADLINE)
    }

    /// tarpc's context, of a message that arrived then. The template is any: that type has no constructor.
    pub(super) fn into_tarpc(self, arrived: Instant, mut template: context::Context) -> context::Context {
        template.deadline = self.deadline(arrived);
        template.trace_context = self.trace_context.unwrap_or_default();
        template
    }
}

/// Mirror of [`tarpc::Response`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Response<T> {
    pub(super) request_id: u64,
    pub(super) message: Result<T, WireError>,
}

/// The id of a reply that answers no request but says why the connection is about to be closed.
pub(super) const NOTICE_ID: u64 = u64::MAX;

/// The id of the reply that answers no request but says, before any other, who serves the connection.
pub(super) const GREETING_ID: u64 = NOTICE_ID - 1;

/// Who serves a connection. It is sent before the first request is read: a connection that ends without it has
/// executed nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// Name of the host's run; empty where there is no host.
    pub instance: String,
    /// Which worker of this host, from 1; 0 where there is no host.
    pub generation: u64,
    /// Number of the connection, from 1, among those of this worker; 0 where it is not known.
    #[serde(default)]
    pub connection: u64,
}

/// Mirror of [`ServerError`], whose own form writes the kind as `i32` and reads it as `u32`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireError {
    kind: u32,
    detail: String,
}

/// A kind's number is its place. The first 18 are tarpc's; it reads all others as `Other`.
const KINDS: [ErrorKind; 39] = [
    ErrorKind::NotFound,
    ErrorKind::PermissionDenied,
    ErrorKind::ConnectionRefused,
    ErrorKind::ConnectionReset,
    ErrorKind::ConnectionAborted,
    ErrorKind::NotConnected,
    ErrorKind::AddrInUse,
    ErrorKind::AddrNotAvailable,
    ErrorKind::BrokenPipe,
    ErrorKind::AlreadyExists,
    ErrorKind::WouldBlock,
    ErrorKind::InvalidInput,
    ErrorKind::InvalidData,
    ErrorKind::TimedOut,
    ErrorKind::WriteZero,
    ErrorKind::Interrupted,
    ErrorKind::Other,
    ErrorKind::UnexpectedEof,
    ErrorKind::HostUnreachable,
    ErrorKind::NetworkUnreachable,
    ErrorKind::NetworkDown,
    ErrorKind::NotADirectory,
    ErrorKind::IsADirectory,
    ErrorKind::DirectoryNotEmpty,
    ErrorKind::ReadOnlyFilesystem,
    ErrorKind::StaleNetworkFileHandle,
    ErrorKind::StorageFull,
    ErrorKind::NotSeekable,
    ErrorKind::QuotaExceeded,
    ErrorKind::FileTooLarge,
    ErrorKind::ResourceBusy,
    ErrorKind::ExecutableFileBusy,
    ErrorKind::Deadlock,
    ErrorKind::CrossesDevices,
    ErrorKind::TooManyLinks,
    ErrorKind::InvalidFilename,
    ErrorKind::ArgumentListTooLong,
    ErrorKind::Unsupported,
    ErrorKind::OutOfMemory,
];

impl From<&ServerError> for WireError {
    fn from(error: &ServerError) -> Self {
        let place = |kind| KINDS.iter().position(|known| *known == kind);
        let kind = place(error.kind).or_else(|| place(ErrorKind::Other)).unwrap_or(KINDS.len());
        WireError { kind: kind as u32, detail: error.detail.clone() }
    }
}

impl From<WireError> for ServerError {
    fn from(error: WireError) -> Self {
        let kind = KINDS.get(error.kind as usize).copied().unwrap_or(ErrorKind::Other);
        ServerError::new(kind, error.detail)
    }
}

/// This context with its deadline at most [`NO_DEADLINE`] away: tarpc's client panics beyond 2.2 years.
#[must_use]
pub fn clamped(mut context: context::Context) -> context::Context {
    context.deadline = context.deadline.min(Instant::now() + NO_DEADLINE);
    context
}
