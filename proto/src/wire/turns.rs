//! Turns: a task that has much to do lets the others on its thread have theirs.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use tokio::task::yield_now;

/// Counts what is done in a row.
#[derive(Debug)]
pub(super) struct Turns {
    most: usize,
    /// What they may take together.
    time: Option<Duration>,
    done: usize,
    /// When the first of them was done.
    began: Option<Instant>,
    given: Option<Arc<Given>>,
}

/// The others' turn. It ends when the runtime has looked at its sockets: until then it would not see a connection that
/// has become ready, and a task that is woken by anything else (its own handlers do) would go on dozens of times.
#[derive(Debug, Default)]
struct Given {
    over: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Given {
    fn wake(self: Arc<Self>) {
        self.over.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Turns {
    /// Of so many in a row.
    pub(super) fn new(most: usize) -> Self {
        Turns { most, time: None, done: 0, began: None, given: None }
    }

    /// Of fewer, once they have taken so long.
    pub(super) fn lasting(self, time: Duration) -> Self {
        Turns { time: Some(time), ..self }
    }

    /// To be called before each look for one: ready when it may be done. `now`, if it is known that there is one.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, now: Option<Instant>) -> Poll<()> {
        if self.is_over(now) {
            let begins = self.given.is_none();
            let given = self.given.get_or_insert_default();
            given.task.register(cx.waker());
            if begins {
                let waker = Arc::clone(given).into();
                // Who yields is woken when the runtime has looked.
                let _ = pin!(yield_now()).poll(&mut Context::from_waker(&waker));
            }
            if !given.over.load(Ordering::Acquire) {
                return Poll::Pending;
            }
            self.reset();
        }
        self.done += 1;
        Poll::Ready(())
    }

    /// To be called when one was found: from the first on they may take their time.
    pub(super) fn found(&mut self) {
        self.began.get_or_insert_with(Instant::now);
    }

    fn is_over(&self, now: Option<Instant>) -> bool {
        let is_late = || Some(now?.duration_since(self.began?) >= self.time?);
        self.given.is_some() || self.done == self.most || is_late().unwrap_or(false)
    }

    /// Whether others have their turn now; who asks is woken when it ends.
    pub(super) fn are_others(&self, cx: &mut Context<'_>) -> bool {
        let Some(given) = &self.given else { return false };
        given.task.register(cx.waker());
        !given.over.load(Ordering::Acquire)
    }

    /// There is nothing more to do: others have their turn anyway.
    pub(super) fn reset(&mut self) {
        self.done = 0;
        self.began = None;
        self.given = None;
    }
}
