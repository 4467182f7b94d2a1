//! What is told while an input keeps somebody waiting: that standard input is being read if nothing comes, and a line of
//! how much has been read and how fast, which is gone before anything else is shown.
//!
//! Our own, as the line must not come between records of the log nor wait for a terminal that is stopped: the
//! [`Journal`]'s screen draws it. A crate for progress bars (indicatif) has a lock and a handle of its own, and waits.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::pending;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use task_host::control::Reading;
use task_host::journal::Journal;
use task_proto::limits::{IDLE_STDIN_NOTE, PROGRESS, PROGRESS_AFTER};
use tokio::time::sleep;

use crate::args::{Asking, Verbosity};
use crate::ask::{notes, write};
use crate::exit;
use crate::inputs::READING_STDIN;
use crate::status::bytes;

/// Over how many drawings the rate is taken: about a second.
const RATE: usize = 5;

/// What keeps somebody waiting.
pub struct Wait<'a, B> {
    /// How to tell.
    pub asking: &'a Asking,
    /// Where the line is drawn.
    pub journal: &'a Journal,
    /// Whether standard input is read.
    pub reads_stdin: bool,
    /// How many bytes there are to read, if that is known.
    pub size: Option<u64>,
    /// How far it has been read, if that can be seen.
    pub reading: B,
}

impl<B: AsyncFn() -> Option<Reading>> Wait<'_, B> {
    /// Tells of it until it is dropped, which takes the line away; never returns.
    pub async fn tell(self) -> Infallible {
        let began = Instant::now();
        if self.reads_stdin && notes(self.asking) && stdin_is_idle() {
            sleep(IDLE_STDIN_NOTE).await;
            if self.seen().await.consumed == 0 && stdin_is_idle() {
                let _ = write(|| exit::say(&format!("task: {READING_STDIN}"))).await;
            }
        }
        if self.asking.verbosity > Verbosity::Quiet && can_erase() {
            sleep(PROGRESS_AFTER.saturating_sub(began.elapsed())).await;
            return self.draw().await;
        }
        pending().await
    }

    async fn seen(&self) -> Reading {
        (self.reading)().await.unwrap_or_default()
    }

    async fn draw(self) -> Infallible {
        let line = Line(self.journal);
        let mut seen = VecDeque::new();
        let mut most = 0;
        loop {
            let Reading { read, .. } = self.seen().await;
            most = most.max(read);
            if read == 0 && most > 0 {
                // What is executing now no longer reads.
                line.0.pass(Some(&cut(
                    shown(self.size.unwrap_or(most), self.size.or(Some(most)), None),
                    width(),
                )));
            } else if read > 0 {
                let now = Instant::now();
                seen.push_back((now, read));
                let (then, before) = seen[0];
                if seen.len() > RATE {
                    seen.pop_front();
                }
                let seconds = now.duration_since(then).as_secs_f64();
                let rate = (seconds > 0.0).then(|| read.saturating_sub(before) as f64 / seconds);
                line.0.pass(Some(&cut(shown(read, self.size, rate), width())));
            }
            sleep(PROGRESS).await;
        }
    }
}

/// The line, while it may be there.
struct Line<'a>(&'a Journal);

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.0.pass(None);
    }
}

/// `read 1.2 GiB of 3.4 GiB, 35 %, 410.0 MiB/s`
fn shown(read: u64, size: Option<u64>, rate: Option<f64>) -> String {
    let mut text = format!("read {}", bytes(read));
    // One that has grown since has no percent.
    let size = size.filter(|size| (1..=*size).contains(&read));
    // Writing to a String cannot fail.
    if let Some(size) = size {
        let percent = u128::from(read) * 100 / u128::from(size);
        let _ = write!(text, " of {}, {percent} %", bytes(size));
    }
    match rate.map(|rate| rate as u64) {
        // Its numbers are computed with.
        _ if size == Some(read) => text.push_str(", computing"),
        Some(rate @ 1..) => {
            let _ = write!(text, ", {}/s", bytes(rate));
        }
        _ => {}
    }
    text
}

/// A line that is broken over two cannot be erased.
fn cut(mut line: String, width: usize) -> String {
    line.truncate(width);
    line
}

/// What fits a line, with a place for the cursor.
fn width() -> usize {
    match rustix::termios::tcgetwinsize(rustix::stdio::stderr()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col) - 1,
        _ => 79,
    }
}

fn can_erase() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    !dumb && rustix::termios::isatty(rustix::stdio::stderr())
}

fn stdin_is_idle() -> bool {
    let stdin = rustix::stdio::stdin();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&now)) == Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_known() {
        let mib = |count: u64| count << 20;
        assert_eq!(
            shown(mib(100), Some(mib(400)), Some(50e6)),
            "read 100.0 MiB of 400.0 MiB, 25 %, 47.7 MiB/s"
        );
        assert_eq!(shown(mib(2000), None, Some(2.5e9)), "read 2.0 GiB, 2.3 GiB/s");
        assert_eq!(shown(mib(3), None, None), "read 3.0 MiB");
        assert_eq!(shown(mib(3), None, Some(0.0)), "read 3.0 MiB", "it waits");
        assert_eq!(shown(mib(3), Some(mib(2)), None), "read 3.0 MiB", "it has grown");
        assert_eq!(shown(mib(3), Some(mib(3)), Some(1e6)), "read 3.0 MiB of 3.0 MiB, 100 %, computing");
        assert_eq!(
            shown(u64::MAX - 1, Some(u64::MAX), None),
            "read 17179869184.0 GiB of 17179869184.0 GiB, 99 %"
        );
        assert_eq!(cut(shown(mib(100), None, None), 8), "read 100");
    }
}
