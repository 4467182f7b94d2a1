//! The signals of a run, as typed events.
//!
//! Who sends them: INT a terminal's Ctrl-C, QUIT its Ctrl-\, HUP a terminal that closes, TERM kill(1), timeout(1)
//! and service managers. What was ignored at start stays ignored: nohup(1) ignores HUP, a shell without job
//! control ignores INT and QUIT of what it runs with `&`.

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::StreamExt as _;
use nix::sys::signal::{self, SigSet};
use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// A signal that ends a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: stop and clean up.
    Interrupt,
    /// SIGTERM: stop and clean up.
    Terminate,
    /// SIGHUP: the terminal has gone; stop and clean up.
    HangUp,
    /// SIGQUIT: kill and clean up.
    Quit,
    /// SIGPIPE: never received, only died of, when standard output is closed.
    Pipe,
}

/// The signals that reach this process, from registration on.
pub struct Signals {
    stream: signal_hook_tokio::Signals,
    /// The number of the last that came, or 0. The stream knows of it only once the runtime has looked.
    last: Arc<AtomicUsize>,
    /// Once true, a signal acts as if nobody had registered it.
    over: Arc<AtomicBool>,
}

impl Signals {
    /// Registers all that were not ignored at start. To be called on a tokio runtime, before anything is spawned:
    /// a signal in between would kill this process with its child alive.
    pub fn register() -> io::Result<Self> {
        let ignored = ignored(&std::fs::read_to_string("/proc/self/status")?)?;
        let wanted =
            [SIGINT, SIGTERM, SIGHUP, SIGQUIT].into_iter().filter(|number| ignored & bit(*number) == 0);
        // One that comes while its actions are being registered has no action yet, and would be lost: it waits.
        let waiting = wanted.clone().map(signal::Signal::try_from).collect::<nix::Result<SigSet>>()?;
        waiting.thread_block()?;
        let stream = signal_hook_tokio::Signals::new(wanted.clone())?;
        let (last, over) = (Arc::default(), Arc::default());
        for number in wanted {
            flag::register_usize(number, Arc::clone(&last), number as usize)?;
            flag::register_conditional_default(number, Arc::clone(&over))?;
        }
        waiting.thread_unblock()?;
        Ok(Signals { stream, last, over })
    }

    /// Says that everything is cleaned up: from here on signals act by default, also while the last words wait for
    /// somebody to read them. Returns the last that came before, looked at or not.
    pub fn over(self) -> Option<Signal> {
        self.over.store(true, Ordering::SeqCst);
        Signal::from_number(self.last.load(Ordering::SeqCst) as i32)
    }

    /// The next signal; never returns when there is none.
    pub async fn next(&mut self) -> Signal {
        loop {
            match self.stream.next().await.map(Signal::from_number) {
                Some(Some(signal)) => return signal,
                Some(None) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// Makes a write beyond `ulimit -f` an error instead of a death by SIGXFSZ, which would leave everything behind.
pub fn outlive_size_limit() -> io::Result<()> {
    flag::register(SIGXFSZ, Arc::default()).map(drop)
}

/// Dies of this signal with its default action, so that the shell sees the truth. Call it last, with everything
/// cleaned up. Should the system refuse, it is the code that a shell gives to such a death.
pub fn reraise(signal: Signal) -> ExitCode {
    let number = signal.number();
    match signal_hook::low_level::emulate_default_handler(number) {
        Ok(()) | Err(_) => ExitCode::from(128 | number as u8),
    }
}

impl Signal {
    fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            SIGINT => Signal::Interrupt,
            SIGTERM => Signal::Terminate,
            SIGHUP => Signal::HangUp,
            SIGQUIT => Signal::Quit,
            _ => return None,
        })
    }

    fn number(self) -> i32 {
        match self {
            Signal::Interrupt => SIGINT,
            Signal::Terminate => SIGTERM,
            Signal::HangUp => SIGHUP,
            Signal::Quit => SIGQUIT,
            Signal::Pipe => SIGPIPE,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Signal::Interrupt => "SIGINT",
            Signal::Terminate => "SIGTERM",
            Signal::HangUp => "SIGHUP",
            Signal::Quit => "SIGQUIT",
            Signal::Pipe => "SIGPIPE",
        })
    }
}

/// The ignored signals as proc(5) shows them: a hexadecimal mask, bit 0 for signal 1.
fn ignored(status: &str) -> io::Result<u64> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("/proc/self/status does not tell which signals are ignored"))
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_and_background_shells_are_seen_in_the_ignored_mask() {
        let status =
            |mask: &str| format!("Name:\ttask\nSigBlk:\tffffffffffffffff\nSigIgn:\t{mask}\nSigCgt:\t0\n");
        assert_eq!(ignored(&status("0000000000000001")).unwrap(), bit(SIGHUP));
        assert_eq!(ignored(&status("0000000000000006")).unwrap(), bit(SIGINT) | bit(SIGQUIT));
        assert!(ignored("Name:\ttask\n").is_err());
    }

    /// Without the wait of those that come meanwhile, one in some thousand starts under fire never hears its signal.
    #[test]
    fn what_comes_during_registration_is_heard() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            SigSet::from(signal::Signal::SIGHUP).thread_block().unwrap();
            // To this thread, which alone blocks it: it waits, as one does that comes in the midst.
            signal::raise(signal::Signal::SIGHUP).unwrap();
            let mut signals = Signals::register().unwrap();
            let heard = tokio::time::timeout(task_proto::limits::START, signals.next()).await;
            assert_eq!(heard, Ok(Signal::HangUp));
        });
    }

    fn raise(signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::getpid(), signal).unwrap();
    }

    /// Run by the test below in a process that ignores HUP: were HUP delivered, it would come first.
    #[test]
    #[ignore = "needs a process that ignores HUP"]
    fn hang_up_is_not_heard() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut signals = Signals::register().unwrap();
            raise(rustix::process::Signal::HUP);
            raise(rustix::process::Signal::TERM);
            assert_eq!(signals.next().await, Signal::Terminate);
        });
        println!("heard TERM alone");
    }

    #[test]
    fn what_nohup_ignores_stays_ignored_and_the_rest_become_events() {
        let run = |shell: &str| {
            let output = std::process::Command::new("sh")
                .args(["-c", shell, "sh"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", "signals::tests::hang_up_is_not_heard", "--ignored", "--nocapture"])
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout).contains("heard TERM alone")
        };
        assert!(run("trap '' HUP; exec \"$@\""));
        assert!(!run("exec \"$@\""), "without nohup, HUP is heard");
    }
}
