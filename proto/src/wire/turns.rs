//! Turns: a task that has much to do lets the others on its thread have theirs.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};

use futures::task::AtomicWaker;
use tokio::task::yield_now;

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
