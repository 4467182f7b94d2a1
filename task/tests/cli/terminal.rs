//! Runs `task` on a terminal: a pseudo-terminal of the test's own, in a session of its own, as a shell in a window
//! would start it.

use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::invocation::{Home, Owned, PATIENCE, TASK, exits, leaves_nothing, unignore_signals};

/// Names the terminal for [`enter_terminal`], and the words of its command line, each on a line.
const DEVICE: &str = "CLI_TEST_TERMINAL";
const WORDS: &str = "CLI_TEST_WORDS";

/// A terminal and the `task` that runs on it.
pub struct Terminal<'a> {
    device: OwnedFd,
    child: Owned,
    /// Without carriage returns.
    seen: Vec<u8>,
    /// How much of it was waited for.
    read: usize,
    /// It must outlive the run, so it is borrowed.
    home: &'a Home,
}

impl<'a> Terminal<'a> {
    pub fn start(home: &'a Home, words: &[&str]) -> Self {
        Terminal::start_as(home, words, None)
    }

    /// On a terminal of this kind.
    pub fn start_as(home: &'a Home, words: &[&str], kind: Option<&str>) -> Self {
        let device = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&device).unwrap();
        unlockpt(&device).unwrap();
        tcsetwinsize(&device, Winsize { ws_row: 40, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        // A session of one's own can only be made from within, between fork and exec: this program does it.
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "terminal::enter_terminal", "--ignored", "--nocapture"])
            .env_clear()
            .envs(home.environment())
            .env(DEVICE, ptsname(&device, Vec::new()).unwrap().to_str().unwrap())
            .env(WORDS, words.join("\n"))
            .envs(kind.map(|kind| ("TERM", kind)))
            .current_dir(home.path("files"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Terminal { device, child: Owned(child), seen: Vec::new(), read: 0, home }
    }

    /// Waits until the screen shows this after what was waited for before.
    pub fn shows(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let unread = &self.seen[self.read..];
            if let Some(at) = unread.windows(text.len()).position(|part| part == text.as_bytes()) {
                self.read += at + text.len();
                return;
            }
            assert!(self.more(until), "the screen never showed {text:?}:\n{}", self.screen());
        }
    }

    pub fn types(&self, keys: &str) {
        rustix::io::write(&self.device, keys.as_bytes()).unwrap();
    }

    /// Waits for the end: the whole screen, and how it ended.
    pub fn ends(self) -> (String, ExitStatus) {
        let (pid, home) = (Pid::from_child(&self.child.0), self.home);
        let ended = self.ends_beside_others();
        leaves_nothing(pid, &home.path("runtime/task"));
        ended
    }

    /// Likewise, where a service may be running in the same home.
    pub fn ends_beside_others(mut self) -> (String, ExitStatus) {
        let until = Instant::now() + PATIENCE;
        while self.more(until) {}
        let pid = Pid::from_child(&self.child.0);
        assert!(exits(pid), "no end within {PATIENCE:?}:\n{}", self.screen());
        let status = self.child.0.wait().unwrap();
        (self.screen(), status)
    }

    /// Goes away with everything on it: how the run ended.
    pub fn hangs_up(self) -> ExitStatus {
        let Terminal { device, mut child, home, .. } = self;
        drop(device);
        let pid = Pid::from_child(&child.0);
        assert!(exits(pid), "no end within {PATIENCE:?} after its terminal");
        let status = child.0.wait().unwrap();
        leaves_nothing(pid, &home.path("runtime/task"));
        status
    }

    /// Dies of Ctrl-C: the whole screen.
    pub fn dies_of_ctrl_c(self) -> String {
        let (seen, status) = self.ends();
        assert_eq!(status.signal(), Some(rustix::process::Signal::INT.as_raw()), "{status}\n{seen}");
        seen
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Reads what is there, or comes before `until`; false when there will be no more.
    fn more(&mut self, until: Instant) -> bool {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap();
        let mut ready = [PollFd::new(&self.device, PollFlags::IN)];
        if poll(&mut ready, Some(&left)) == Ok(0) {
            return false;
        }
        let mut buffer = [0; 4096];
        // EIO: nobody has the terminal open any more.
        match rustix::io::read(&self.device, &mut buffer) {
            Ok(count @ 1..) => {
                self.seen.extend(buffer[..count].iter().filter(|byte| **byte != b'\r'));
                true
            }
            _ => false,
        }
    }
}

/// Not a test: what [`Terminal::start`] runs, to become `task` in a new session on a terminal.
#[test]
#[ignore = "becomes the task that other tests watch"]
fn enter_terminal() {
    let device = std::env::var(DEVICE).unwrap();
    let words = std::env::var(WORDS).unwrap();
    unignore_signals();
    rustix::process::setsid().unwrap();
    // The first terminal that the leader of a session opens is its controlling one.
    let terminal = rustix::fs::open(&device, OFlags::RDWR, Mode::empty()).unwrap();
    rustix::stdio::dup2_stdin(&terminal).unwrap();
    rustix::stdio::dup2_stdout(&terminal).unwrap();
    rustix::stdio::dup2_stderr(&terminal).unwrap();
    drop(terminal);
    let failed = Command::new(TASK).args(words.lines()).env_remove(DEVICE).env_remove(WORDS).exec();
    panic!("{failed}");
}
