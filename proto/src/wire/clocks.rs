//! The two clocks of a connection: how long a message may take from its first byte to its last, and how long replies
//! may wait for a client that takes none.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::limits::{FRAME_BYTES_PER_SECOND, TIMER_LATE};

/// Runs while bytes of a begun message are wanted and none come. There is no timer but then: most messages come whole.
#[derive(Debug)]
pub(super) struct Begun {
    limit: Duration,
    /// Waited for this message before.
    waited: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Begun {
    pub(super) fn new(limit: Duration) -> Self {
        Begun { limit, waited: Duration::ZERO, since: None, timer: None }
    }

    /// From here on it is not the client that is waited for.
    pub(super) fn pause(&mut self) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }

    /// The message is whole.
    pub(super) fn reset(&mut self) {
        self.waited = Duration::ZERO;
        self.since = None;
        self.timer = None;
    }

    /// To be called when the socket has been found empty; so many bytes of the message have come. Ready with the
    /// reason when it has taken too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, bytes: u64) -> Poll<io::Error> {
        if bytes == 0 {
            self.reset();
            return Poll::Pending;
        }
        let now = Instant::now();
        let allowed = self.limit + Duration::from_secs(bytes / FRAME_BYTES_PER_SECOND);
        let looked_late = self.timer.as_ref().is_some_and(|timer| now > timer.deadline() + TIMER_LATE);
        if self.waited >= allowed && looked_late {
            // We were late ourselves, so the client may have been kept waiting: once more.
            self.waited = allowed.saturating_sub(TIMER_LATE);
        }
        let left = allowed.saturating_sub(self.waited);
        if !left.is_zero() {
            self.since = Some(now);
            let end = now + left;
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
            timer.as_mut().reset(end);
            if timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        let seconds = allowed.as_secs_f64();
        let reason = format!("a request was begun and did not end within {seconds} s; it was not executed");
        Poll::Ready(io::Error::new(ErrorKind::TimedOut, reason))
    }
}

/// Runs while replies wait to be written and the client takes no byte.
#[derive(Debug)]
pub(super) struct Unread {
    limit: Duration,
    written: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Unread {
    pub(super) fn new(limit: Duration) -> Self {
        Unread { limit, written: 0, timer: None }
    }

    /// All is written.
    pub(super) fn reset(&mut self) {
        self.timer = None;
    }

    /// To be called when the socket takes no more, after so many bytes in all. Ready with the reason once that has
    /// been so for too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, written: u64) -> Poll<io::Error> {
        let end = Instant::now() + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if written != self.written {
            self.written = written;
            timer.as_mut().reset(end);
        }
        ready!(timer.as_mut().poll(cx));
        let seconds = self.limit.as_secs_f64();
        let reason = format!("the client has taken no byte of its replies for {seconds} s");
        Poll::Ready(io::Error::new(ErrorKind::TimedOut, reason))
    }
}
