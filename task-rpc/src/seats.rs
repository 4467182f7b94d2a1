//! Seats: every connection has one, and there are so many. When all are taken and somebody waits, the connection
//! that has been idle longest gives its seat up; at the end all do.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The seats of a worker.
#[derive(Debug)]
pub(crate) struct Seats {
    free: Arc<Semaphore>,
    taken: RefCell<Vec<Weak<Seat>>>,
    /// A connection has become idle, or busy, while somebody waits.
    changed: Notify,
    waited_for: Cell<bool>,
    closed: Cell<bool>,
}

/// The seat of a connection, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Rc<Seats>,
    idle_since: Cell<Option<Instant>>,
    told: Cell<bool>,
    leave: Notify,
    _permit: OwnedSemaphorePermit,
}

impl Seats {
    pub(crate) fn new(number: usize) -> Rc<Self> {
        Rc::new(Seats {
            free: Arc::new(Semaphore::new(number.min(Semaphore::MAX_PERMITS))),
            taken: RefCell::default(),
            changed: Notify::new(),
            waited_for: Cell::new(false),
            closed: Cell::new(false),
        })
    }

    /// A seat, as soon as one is free. Once `waited_for` says that somebody waits for it, the connection that has
    /// been idle longest is told to leave; busy ones are left alone.
    pub(crate) async fn take(self: &Rc<Self>, waited_for: impl Future<Output = ()>) -> Rc<Seat> {
        let permit = tokio::select! {
            biased;
            permit = Arc::clone(&self.free).acquire_owned() => permit,
            never = async {
                waited_for.await;
                self.waited_for.set(true);
                loop {
                    self.ask_one();
                    self.changed.notified().await;
                }
            } => never,
        };
        self.waited_for.set(false);
        let Ok(permit) = permit else { unreachable!("nobody closes the semaphore") };
        let seat = Rc::new(Seat {
            seats: Rc::clone(self),
            idle_since: Cell::new(Some(Instant::now())),
            told: Cell::new(false),
            leave: Notify::new(),
            _permit: permit,
        });
        if self.closed.get() {
            seat.give_up();
        }
        let mut taken = self.taken.borrow_mut();
        taken.retain(|seat| seat.strong_count() > 0);
        taken.push(Rc::downgrade(&seat));
        seat
    }

    /// Tells all connections to leave, those to come too.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.taken.borrow().iter().filter_map(Weak::upgrade).for_each(|seat| seat.give_up());
    }

    /// Tells the connection that has been idle longest to leave; it stays that one until it has left.
    fn ask_one(&self) {
        let taken = self.taken.borrow();
        let idle =
            taken.iter().filter_map(Weak::upgrade).filter_map(|seat| Some((seat.idle_since.get()?, seat)));
        if let Some((since, seat)) = idle.min_by_key(|(since, _)| *since) {
            let idle_ms = since.elapsed().as_millis() as u64;
            tracing::debug!(
                log.target = "worker",
                idle_ms,
                "others wait: closing the connection that was idle longest"
            );
            seat.give_up();
        }
    }
}

impl Seat {
    /// Says whether the connection is idle: no call in flight, nothing half read or half written.
    pub(crate) fn note(&self, idle: bool) {
        if idle == self.idle_since.get().is_some() {
            return;
        }
        self.idle_since.set(idle.then(Instant::now));
        if self.seats.waited_for.get() {
            self.seats.changed.notify_one();
        }
    }

    /// Resolves, once, when the connection is to read no more.
    pub(crate) async fn told_to_leave(&self) {
        self.leave.notified().await;
    }

    fn give_up(&self) {
        if !self.told.replace(true) {
            self.leave.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::FutureExt;

    use super::*;

    fn seat(seats: &Rc<Seats>) -> Rc<Seat> {
        seats.take(pending()).now_or_never().expect("a seat is free")
    }

    fn told(seats: &[&Rc<Seat>]) -> Vec<bool> {
        seats.iter().map(|seat| seat.told.get()).collect()
    }

    #[tokio::test]
    async fn the_connection_idle_longest_leaves_when_somebody_waits_and_not_before() {
        let seats = Seats::new(3);
        let [first, second, third] = [seat(&seats), seat(&seats), seat(&seats)];
        // The first has been busy since.
        first.note(false);
        first.note(true);
        assert!(seats.take(pending()).now_or_never().is_none());
        assert_eq!(told(&[&first, &second, &third]), [false; 3], "nobody waits");
        let mut next = Box::pin(seats.take(ready(())));
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(told(&[&first, &second, &third]), [false, true, false]);
        assert!(second.told_to_leave().now_or_never().is_some());
        third.note(false);
        third.note(true);
        assert!(futures::poll!(&mut next).is_pending(), "one leaves for one that comes");
        assert_eq!(told(&[&first, &second, &third]), [false, true, false]);
        drop(second);
        next.await;
        assert_eq!(told(&[&first, &third]), [false; 2]);
    }

    #[tokio::test]
    async fn a_busy_connection_is_never_chosen_and_the_first_to_become_idle_is() {
        let seats = Seats::new(2);
        let [first, second] = [seat(&seats), seat(&seats)];
        first.note(false);
        second.note(false);
        let mut next = Box::pin(seats.take(ready(())));
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(told(&[&first, &second]), [false; 2]);
        second.note(true);
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(told(&[&first, &second]), [false, true]);
        // A request had been sent to it before: it stays for as long as that takes, so another has to leave.
        second.note(false);
        first.note(true);
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(told(&[&first, &second]), [true, true]);
        drop(first);
        next.await;
    }

    #[tokio::test]
    async fn at_the_end_all_are_told_also_who_comes_then() {
        let seats = Seats::new(2);
        let early = seat(&seats);
        early.note(false);
        seats.close();
        let late = seat(&seats);
        assert!(early.told_to_leave().now_or_never().is_some());
        assert!(late.told_to_leave().now_or_never().is_some());
    }
}
