//! The start of a worker under a host, in order; each step relies on those before it.

use std::os::unix::net::UnixListener;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use rustix::stdio::stdin;
use task_proto::handshake::{self, Answer, HandshakeError, Heard, Hello, PROTOCOL, Ready};
use task_proto::limits::{Limits, READERS};
use task_proto::scoreboard::Scores;

use crate::error::{Context, WorkerError};
use crate::sandbox::InForce;
use crate::{signals, sys};

/// What the host gave.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) hello: Hello,
    pub(crate) protocol: u32,
    pub(crate) listener: UnixListener,
    pub(crate) scores: Scores,
}

/// Before anything is opened: signals, the bond to the host, stray descriptors.
pub(crate) fn prepare(host: u32) -> Result<(), WorkerError> {
    signals::reset().context("cannot reset signals")?;
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot ask for the host's death signal")?;
    // The host may have died before that call; then no signal will ever come.
    if getppid().map_or(0, Pid::as_raw_pid) != host.cast_signed() {
        return Err(WorkerError::NotTheHost { host });
    }
    sys::close_stray_descriptors().context("cannot close inherited descriptors")
}

/// The handshake's first half, and what the limits in it ask for.
pub(crate) fn greet() -> Result<Start, WorkerError> {
    let Heard { protocol, hello, listener, scoreboard } = match handshake::receive_hello(stdin()) {
        Err(HandshakeError::Foreign(host)) => {
            handshake::send_answer(stdin(), &Answer::Refused { protocol: PROTOCOL, reason: None })?;
            return Err(WorkerError::Refused { host });
        }
        heard => heard?,
    };
    let scores = Scores::map(scoreboard).context("cannot map the scoreboard")?;
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true).context("cannot use the listener")?;
    limit_resources(&hello.limits)?;
    // So as to hold no directory: nothing of the worker's is relative.
    std::env::set_current_dir("/").context("cannot leave the working directory")?;
    Ok(Start { hello, protocol, listener, scores })
}

/// Tells the host, where this worker cannot have the sandbox that it is asked for.
pub(crate) fn or_refuse<T>(sandbox: Result<T, WorkerError>) -> Result<T, WorkerError> {
    if let Err(WorkerError::Sandbox { reason }) = &sandbox {
        let refusal = Answer::Refused { protocol: PROTOCOL, reason: Some(reason.clone()) };
        handshake::send_answer(stdin(), &refusal)?;
    }
    sandbox
}

/// The handshake's second half: from here on the host counts on this worker.
pub(crate) fn ready(
    protocol: u32,
    memory: Option<u64>,
    InForce { sandbox, lacks }: InForce,
) -> Result<(), WorkerError> {
    let (build, pid) = (env!("CARGO_PKG_VERSION").into(), std::process::id());
    let ready = Ready { protocol, build, pid, sandbox, lacks, memory };
    Ok(handshake::send_answer(stdin(), &Answer::Ready(ready))?)
}

/// Tells the host that this worker accepts no more: anybody may have sent the signal.
pub(crate) fn draining() {
    // It fails only where the host is gone, and then so is this process.
    let _ = handshake::send_answer(stdin(), &Answer::Draining);
}

/// No core dumps, as they would hold other people's numbers; descriptors enough for what the limits allow.
pub(crate) fn limit_resources(limits: &Limits) -> Result<(), WorkerError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).context("cannot forbid core dumps")?;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let needed = descriptors(limits);
    if current.is_some_and(|current| current < needed) {
        let current = Some(maximum.map_or(needed, |maximum| needed.min(maximum)));
        setrlimit(Resource::Nofile, Rlimit { current, maximum })
            .context("cannot raise the limit of descriptors")?;
    }
    Ok(())
}

/// What all connections may hold at once (each its socket, the epolls that tell of a hang-up and of
/// room, attachments and a cancel eventfd for each), a pipe for each reader, and 64 for the worker itself.
fn descriptors(limits: &Limits) -> u64 {
    let each = limits.attachments.saturating_mul(2).saturating_add(3);
    limits.connections.saturating_mul(each).saturating_add(2 * READERS + 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_limits_need_more_descriptors_than_most_systems_give() {
        assert_eq!(descriptors(&Limits::default()), 64 * (2 * 16 + 3) + 2 * 256 + 64);
        assert_eq!(descriptors(&Limits { connections: usize::MAX, ..Limits::default() }), u64::MAX);
    }
}
