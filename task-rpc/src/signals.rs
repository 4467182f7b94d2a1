//! Signals: what a worker ignores from the start, and which ones ask it to drain.

use std::io;

use futures::StreamExt;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use crate::sys;

/// The first step of every worker: nothing blocked, SIGPIPE, SIGXFSZ and SIGTTIN ignored. What was ignored at the start
/// (by `nohup`, by a shell for its background jobs) stays so.
pub(crate) fn reset() -> io::Result<()> {
    sys::ignore_io_signals();
    // A mask is inherited, and the host's need not be ours.
    Ok(SigSet::empty().thread_set_mask()?)
}

/// The signals that ask for an end.
pub(crate) struct Ends {
    signals: Signals,
}

impl Ends {
    /// Under a host: TERM, which is the host's own word for drain, whatever was ignored at the start. INT goes to
    /// the terminal's process group, which is not ours.
    pub(crate) fn of_host() -> io::Result<Self> {
        Self::register(&[SIGTERM])
    }

    /// Alone: INT and TERM, but those that were ignored at the start.
    pub(crate) fn of_people() -> io::Result<Self> {
        let ignored = ignored(&std::fs::read_to_string("/proc/self/status")?);
        let mut heeded = vec![SIGINT, SIGTERM];
        heeded.retain(|signal| ignored & 1 << (signal - 1) == 0);
        Self::register(&heeded)
    }

    fn register(heeded: &[i32]) -> io::Result<Self> {
        // One that comes while its action is being registered has none yet, and would be lost: it waits.
        let waiting = heeded.iter().copied().map(Signal::try_from).collect::<nix::Result<SigSet>>()?;
        waiting.thread_block()?;
        let signals = Signals::new(heeded)?;
        waiting.thread_unblock()?;
        Ok(Ends { signals })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> i32 {
        match self.signals.next().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

/// The set of ignored signals in the text of `/proc/PID/status`; bit 0 is signal 1.
fn ignored(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigSet, Signal, raise};

    use super::*;

    #[test]
    fn what_comes_during_registration_is_heard() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            SigSet::from(Signal::SIGTERM).thread_block().unwrap();
            // To this thread, which alone blocks it: it waits, as one does that comes in the midst.
            raise(Signal::SIGTERM).unwrap();
            let mut ends = Ends::of_host().unwrap();
            let heard = tokio::time::timeout(task_proto::limits::START, ends.next()).await;
            assert_eq!(heard, Ok(SIGTERM));
        });
    }

    #[test]
    fn the_ignored_signals_are_read_from_the_status() {
        assert_eq!(ignored("Name:\ttask-rpc\nSigIgn:\t0000000000001002\nSigCgt:\t0\n"), 0x1002);
        assert_eq!(ignored("no such line"), 0);
    }
}
