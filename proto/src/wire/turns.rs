//! Turns: a task that has much to do lets the others on its thread have theirs.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, ready};

use futures::task::AtomicWaker;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio_util::sync::PollSemaphore;

/// Counts what is done in a row.
#[derive(Debug)]
pub(super) struct Turns {
    most: usize,
    done: usize,
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
        Turns { most, done: 0, given: None }
    }

    /// To be called before each: ready when it may be done.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.done == self.most {
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

    /// Others have their turn before the next.
    pub(super) fn give_way(&mut self) {
        self.done = self.most;
    }

    /// What is done now counts for so many more.
    pub(super) fn spend(&mut self, more: usize) {
        self.done = self.most.min(self.done.saturating_add(more));
    }

    /// There is nothing more to do: others have their turn anyway.
    pub(super) fn reset(&mut self) {
        self.done = 0;
        self.given = None;
    }
}

thread_local! {
    static ONE: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// The right to decode a long message, of which all connections of a thread have one: several decoded in a row would keep
/// the others waiting for as many times as long.
#[derive(Debug, Default)]
pub(super) struct Long {
    asked: Option<PollSemaphore>,
    /// It was asked for since [`Long::settle`], and not given.
    waits: bool,
    held: Option<OwnedSemaphorePermit>,
}

impl Long {
    /// Ready when it is held.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.held.is_none() {
            let asked = self.asked.get_or_insert_with(|| PollSemaphore::new(ONE.with(Arc::clone)));
            self.waits = true;
            self.held = ready!(asked.poll_acquire(cx));
            self.waits = false;
        }
        Poll::Ready(())
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The next may have it.
    pub(super) fn release(&mut self) {
        self.held = None;
    }

    /// To be called when the task is about to wait. If it is not for this any more, it stands in nobody's way: it may
    /// have been given the right without a look at it.
    pub(super) fn settle(&mut self) {
        if !std::mem::take(&mut self.waits) {
            self.asked = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;

    use super::*;

    #[test]
    fn who_was_given_the_right_and_does_not_look_keeps_no_other_from_it() {
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let [mut first, mut second, mut third] = [(); 3].map(|()| Long::default());
        assert!(first.poll(&mut cx).is_ready());
        assert!(second.poll(&mut cx).is_pending());
        assert!(third.poll(&mut cx).is_pending());
        for long in [&mut first, &mut second, &mut third] {
            long.settle();
        }
        // It is the second's now, which has something else to wait for.
        first.release();
        assert!(third.poll(&mut cx).is_pending());
        third.settle();
        second.settle();
        assert!(third.poll(&mut cx).is_ready());
        assert!(first.poll(&mut cx).is_pending());
    }
}
