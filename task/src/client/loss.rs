//! What the end of a connection says of the calls on it. Pure.

use std::io::{self, ErrorKind};

use tarpc::ChannelError;
use tarpc::client::RpcError;
use task_proto::crash::Crash;
use task_proto::scoreboard::Consumed;
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
    /// Nobody has executed anything of its connection, or will.
    NeverExecuted,
    /// The same, as there is no room for the connection: why.
    Refused(String),
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
        error if is_never_sent(&error) => Loss::NeverSent,
        RpcError::Server(error) => Loss::None(Some(match Crash::from_error(&error) {
            Some(crash) => CallError::Crashed(crash),
            None => CallError::Service(error),
        })),
        RpcError::Send(error) => Loss::None(Some(CallError::NeverSent(error))),
        // A notice before the greeting.
        RpcError::Channel(ChannelError::Read(ref cause))
            if !greeted && kind(cause.as_ref()) == Some(ErrorKind::ConnectionAborted) =>
        {
            Loss::Refused(in_full(&error))
        }
        RpcError::Channel(ChannelError::Read(ref cause))
            // A notice of a living worker, which comes after the answers to all that it took: another try would end likewise.
            if sent && kind(cause.as_ref()) == Some(ErrorKind::ConnectionAborted) =>
        {
            Loss::None(Some(CallError::NeverSent(cause.to_string().into())))
        }
        // Bytes that are no message.
        RpcError::Channel(ChannelError::Read(ref cause))
            if sent && kind(cause.as_ref()) == Some(ErrorKind::InvalidData) =>
        {
            lost(&error)
        }
        // Everything that the worker wrote was read, and it greets before it reads.
        RpcError::Shutdown | RpcError::Channel(ChannelError::Read(_)) if !greeted => Loss::NeverExecuted,
        RpcError::Shutdown | RpcError::Channel(_) if !sent => Loss::NeverSent,
        RpcError::Shutdown | RpcError::Channel(ChannelError::Read(_)) => Loss::Unknown(in_full(&error)),
        RpcError::Channel(_) => lost(&error),
    }
}

/// The server took no more requests on the connection: nobody has executed this one, or will.
pub(crate) fn is_never_sent(error: &RpcError) -> bool {
    match error {
        // The transport's word for a request that was not written whole.
        RpcError::Server(error) => error.kind == ErrorKind::BrokenPipe && error.detail == NEVER_SENT,
        RpcError::Send(error) => kind(error.as_ref()) == Some(ErrorKind::BrokenPipe),
        _ => false,
    }
}

/// What is lost of an input that cannot be read again with a connection of this verdict; `None` where the verdict
/// proves that nothing was read, or will be. `may_begin`: a call on it may yet be executed.
pub(super) fn spent(verdict: Verdict, may_begin: bool) -> Option<Spent> {
    match verdict {
        Verdict::Died { consumed: Consumed::Nothing, .. } => None,
        Verdict::Died { consumed, death } => Some(Spent { bytes: consumed.bytes(), death: Some(death) }),
        Verdict::Alive { consumed: Consumed::Nothing } if !may_begin => None,
        Verdict::Alive { consumed } => Some(Spent { bytes: consumed.bytes(), death: None }),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn read(kind: ErrorKind) -> RpcError {
        RpcError::Channel(ChannelError::Read(Arc::new(io::Error::new(kind, "the reason"))))
    }

    fn name(error: RpcError, sent: bool, greeted: bool) -> &'static str {
        match of(error, sent, greeted) {
            Loss::None(None) => "deadline",
            Loss::None(Some(CallError::Lost { .. })) => "over",
            Loss::None(Some(CallError::Crashed(_))) => "crashed",
            Loss::None(Some(CallError::Service(_))) => "service",
            Loss::None(Some(CallError::NeverSent(_))) => "cannot be sent",
            Loss::None(Some(other)) => panic!("{other}"),
            Loss::NeverSent => "never sent",
            Loss::NeverExecuted => "never executed",
            Loss::Refused(_) => "refused",
            Loss::Unknown(_) => "unknown",
        }
    }

    #[test]
    fn what_was_sent_to_a_greeted_worker_may_have_been_executed_and_nothing_else() {
        for end in [|| RpcError::Shutdown, || read(ErrorKind::ConnectionReset), || read(ErrorKind::Other)] {
            assert_eq!(name(end(), false, false), "never executed");
            assert_eq!(name(end(), false, true), "never sent");
            assert_eq!(name(end(), true, false), "never executed");
            assert_eq!(name(end(), true, true), "unknown");
        }
    }

    #[test]
    fn a_connection_that_failed_in_writing_proves_nothing_by_a_missing_greeting() {
        let flush = || RpcError::Channel(ChannelError::Flush(Arc::new(io::Error::other("no room"))));
        assert_eq!(name(flush(), true, false), "over");
        assert_eq!(name(flush(), false, false), "never sent");
    }

    #[test]
    fn a_notice_of_a_living_worker_ends_the_call_that_was_sent() {
        for (kind, sent) in
            [(ErrorKind::ConnectionAborted, "cannot be sent"), (ErrorKind::InvalidData, "over")]
        {
            assert_eq!(name(read(kind), true, true), sent);
            // Another call's connection.
            assert_eq!(name(read(kind), false, true), "never sent");
        }
        assert_eq!(name(read(ErrorKind::InvalidData), true, false), "over", "who knows what a stranger did");
        // A service that refuses the connection has read nothing of it.
        for sent in [true, false] {
            assert_eq!(name(read(ErrorKind::ConnectionAborted), sent, false), "refused");
        }
        let Loss::None(Some(error)) = of(read(ErrorKind::ConnectionAborted), true, true) else { panic!() };
        assert_eq!(error.to_string(), "never sent: the reason");
    }

    #[test]
    fn only_the_transport_can_say_that_a_request_was_never_sent() {
        let server = |kind, detail: &str| RpcError::Server(tarpc::ServerError::new(kind, detail.into()));
        assert_eq!(name(server(ErrorKind::BrokenPipe, NEVER_SENT), true, true), "never sent");
        assert_eq!(name(server(ErrorKind::BrokenPipe, "the service's own pipe"), true, true), "service");
        let send = |kind| RpcError::Send(Box::new(io::Error::new(kind, "x")));
        assert_eq!(name(send(ErrorKind::BrokenPipe), true, true), "never sent");
        assert_eq!(name(send(ErrorKind::InvalidInput), true, true), "cannot be sent");
        assert_eq!(name(RpcError::DeadlineExceeded, true, true), "deadline");
        for text in ["never sent: the request is too long", "the request is too long"] {
            let error = CallError::NeverSent(text.into());
            assert_eq!(error.to_string(), "never sent: the request is too long");
        }
    }

    #[test]
    fn a_condemned_call_is_told_of_its_crash() {
        let crash = Crash { generation: 2, cause: "killed by SIGABRT".into(), stderr_tail: Vec::new() };
        let Loss::None(Some(error)) = of(RpcError::Server(crash.to_error()), true, true) else { panic!() };
        assert_eq!(
            error.to_string(),
            "workers died of this call, the last one killed by SIGABRT (generation 2)"
        );
    }

    fn death() -> Death {
        Death { generation: 1, pid: 5, cause: "killed by SIGKILL".into(), stderr_tail: Vec::new() }
    }

    fn died(consumed: Consumed) -> Verdict {
        Verdict::Died { death: death(), consumed }
    }

    #[test]
    fn input_is_left_only_if_a_dead_worker_proves_that_it_had_not_been_begun() {
        let of = |bytes, death| Some(Spent { bytes, death });
        let spent = |verdict| spent(verdict, true);
        assert_eq!(spent(died(Consumed::Nothing)), None);
        assert_eq!(spent(died(Consumed::Bytes(7))), of(Some(7), Some(death())));
        assert_eq!(spent(died(Consumed::Unknown)), of(None, Some(death())));
        assert_eq!(spent(Verdict::Unknown), of(None, None));
        assert_eq!(spent(Verdict::Alive { consumed: Consumed::Unknown }), of(None, None));
        // It may begin yet.
        assert_eq!(spent(Verdict::Alive { consumed: Consumed::Nothing }), of(None, None));
        assert_eq!(spent(Verdict::Alive { consumed: Consumed::Bytes(3) }), of(Some(3), None));
    }

    #[test]
    fn a_living_worker_that_has_no_call_left_will_not_begin_what_it_has_not() {
        assert_eq!(spent(Verdict::Alive { consumed: Consumed::Nothing }, false), None);
        let begun = Some(Spent { bytes: Some(3), death: None });
        assert_eq!(spent(Verdict::Alive { consumed: Consumed::Bytes(3) }, false), begun);
        assert_eq!(spent(Verdict::Alive { consumed: Consumed::Unknown }, false), Some(Spent::default()));
        assert_eq!(spent(Verdict::Unknown, false), Some(Spent::default()));
    }
}
