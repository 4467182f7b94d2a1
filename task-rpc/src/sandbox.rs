//! The sandbox: what a worker gives up before it reads a client's first byte.
//!
//! In two steps, for the thread of the lifeline starts between them: first memory beyond its limits and all files, by
//! Landlock, which binds the threads that start later; then all system calls but those that serving takes, by seccomp,
//! which binds every thread there is. No new privileges from the first on.

mod calls;
mod files;

use std::fs;
use std::os::fd::BorrowedFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::sched_getaffinity;
use task_proto::handshake::{Sandbox, SandboxMode};
use task_proto::limits::{
    CALL_ROOM, CLOSER_STACK, CLOSING, COMPUTING, DECODING, Limits, READERS, STACK, WORKER_ROOM,
};
use task_proto::number::Number;

use crate::error::{Context, WorkerError};

/// A sandbox whose first half is in force.
#[derive(Debug)]
pub(crate) struct Closing<'a> {
    mode: SandboxMode,
    /// The most memory that the process may have, in bytes.
    memory: u64,
    /// The directory from which its own socket may be removed: only where Landlock keeps it from all others.
    removable: Option<BorrowedFd<'a>>,
    confined: bool,
    lacks: Vec<String>,
}

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InForce {
    pub(crate) sandbox: Sandbox,
    /// What this kernel lacks of it, in words.
    pub(crate) lacks: Option<String>,
}

/// What a host, or whoever started a worker alone, asks for, and the worker itself.
///
/// # Errors
/// One requires what the other cannot do with.
pub(crate) fn agreed(asked: SandboxMode, own: Option<SandboxMode>) -> Result<SandboxMode, WorkerError> {
    match (asked, own.unwrap_or_default()) {
        (SandboxMode::Require, SandboxMode::Off) => {
            Err(refused("a sandbox is required, and this worker is not made for one"))
        }
        (SandboxMode::Off, SandboxMode::Require) => {
            Err(refused("this worker requires a sandbox, and none is wanted"))
        }
        (SandboxMode::Off, _) | (_, SandboxMode::Off) => Ok(SandboxMode::Off),
        (SandboxMode::Require, _) | (_, SandboxMode::Require) => Ok(SandboxMode::Require),
        (SandboxMode::BestEffort, SandboxMode::BestEffort) => Ok(SandboxMode::BestEffort),
    }
}

/// The first half. Afterwards no file can be opened, but one may be removed from the directory `removable`.
///
/// # Errors
/// Something that is required cannot be had.
pub(crate) fn close_files<'a>(
    mode: SandboxMode,
    limits: &Limits,
    removable: Option<BorrowedFd<'a>>,
) -> Result<Closing<'a>, WorkerError> {
    let memory = most_memory(limits);
    let mut closing = Closing { mode, memory, removable, confined: false, lacks: Vec::new() };
    if mode == SandboxMode::Off {
        return Ok(closing);
    }
    let current = getrlimit(Resource::Data).maximum.map_or(memory, |maximum| maximum.min(memory));
    let most = Rlimit { current: Some(current), maximum: Some(current) };
    setrlimit(Resource::Data, most).context("cannot limit memory")?;
    rustix::thread::set_no_new_privs(true).context("cannot give up new privileges")?;
    let alone = fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    match files::close(removable) {
        Ok(()) if alone => closing.confined = true,
        Ok(()) => closing.miss("threads that run already are outside Landlock")?,
        Err(lack) => closing.miss(&lack)?,
    }
    Ok(closing)
}

impl Closing<'_> {
    /// The second half, for all threads. `listener`: the socket that nobody may shut down.
    ///
    /// # Errors
    /// Something that is required cannot be had.
    pub(crate) fn close_calls(mut self, listener: BorrowedFd<'_>) -> Result<InForce, WorkerError> {
        if self.mode == SandboxMode::Off {
            return Ok(InForce { sandbox: Sandbox::None, lacks: None });
        }
        // The first look at the clock asks the system where it is.
        let _ = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let removable = self.removable.filter(|_| self.confined);
        let filtered = match calls::close(listener, removable, self.memory) {
            Ok(()) => true,
            Err(error) => {
                self.miss(&format!("no seccomp: {error}"))?;
                false
            }
        };
        let sandbox = match (self.confined, filtered) {
            (true, true) => Sandbox::Full,
            (false, false) => Sandbox::None,
            _ => Sandbox::Partial,
        };
        let lacks = (!self.lacks.is_empty()).then(|| self.lacks.join("; "));
        Ok(InForce { sandbox, lacks })
    }

    fn miss(&mut self, lack: &str) -> Result<(), WorkerError> {
        if self.mode == SandboxMode::Require {
            return Err(refused(&format!("the sandbox is required, and cannot be had: {lack}")));
        }
        self.lacks.push(lack.to_owned());
        Ok(())
    }
}

fn refused(reason: &str) -> WorkerError {
    WorkerError::Sandbox { reason: reason.to_owned() }
}

/// What the limits allow to be in memory at once: numbers, what connections hold back, read and answer, and stacks.
fn most_memory(limits: &Limits) -> u64 {
    let calls = limits.in_flight.saturating_mul(CALL_ROOM);
    // A byte of a long message may become a number before there is a permit for it.
    let decoded = limits.frame.saturating_mul(size_of::<Number>() + 1);
    let connection = limits.frame.saturating_mul(4).saturating_add(limits.held).saturating_add(calls);
    let connection = connection.saturating_add(decoded);
    let connections = limits.connections.saturating_mul(connection) as u64;
    // It is no smaller than the number that the engine computes on, which takes files to find out.
    let processors = sched_getaffinity(None).map_or(1, |processors| processors.count() as usize);
    // Those that compute may each have another beside them.
    let threads = READERS + 2 * COMPUTING * processors + DECODING + 2;
    let stacks = threads.saturating_mul(STACK) as u64;
    // What is alive may have to be closed, too.
    let closers = limits.connections.saturating_mul(limits.attachments).saturating_add(CLOSING);
    let stacks = stacks.saturating_add(closers.saturating_mul(CLOSER_STACK) as u64);
    let numbers = limits.memory.unwrap_or(u64::MAX);
    let decoding = decoded.saturating_mul(DECODING) as u64;
    numbers
        .saturating_add(decoding)
        .saturating_add(connections)
        .saturating_add(stacks)
        .saturating_add(WORKER_ROOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_wins_over_best_effort_and_nothing_over_require() {
        use SandboxMode::{BestEffort, Off, Require};
        for (asked, own, agreed_on) in [
            (BestEffort, None, Some(BestEffort)),
            (Require, None, Some(Require)),
            (Off, None, Some(Off)),
            (BestEffort, Some(Off), Some(Off)),
            (BestEffort, Some(Require), Some(Require)),
            (Require, Some(Off), None),
            (Off, Some(Require), None),
        ] {
            assert_eq!(agreed(asked, own).ok(), agreed_on, "{asked:?} {own:?}");
        }
    }

    #[test]
    fn memory_is_bounded_above_all_that_the_limits_allow() {
        let limits = Limits { memory: Some(1 << 30), ..Limits::default() };
        let held = (limits.connections * (limits.held + limits.frame)) as u64;
        let most = most_memory(&limits);
        assert!(most > (1 << 30) + held && most < 8 << 30, "{most}");
        assert_eq!(most_memory(&Limits { connections: usize::MAX, ..limits }), u64::MAX);
    }
}
