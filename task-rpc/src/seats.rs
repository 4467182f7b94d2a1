//! Seats: every connection has one, and there are so many. A process gets at most half of them. While somebody waits for
//! one, the connection that has been idle longest gives its seat up, to a process at its half one of its own; at the
//! end all do. One that was in use just now gives way only to a process that has no more connections than its own: who
//! fills the seats does not get those of others who use theirs.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Instant;

use task_proto::limits::{BEGUN, IN_USE};
use task_proto::wire::{Decoder, Decoders};
use tokio::sync::Notify;
use tokio::time::timeout_at;

/// The seats of a worker.
#[derive(Debug)]
pub(crate) struct Seats {
    number: usize,
    /// What one process may have.
    share: usize,
    taken: RefCell<Vec<Weak<Seat>>>,
    decoders: Decoders,
    /// A connection has ended, or become idle or busy, while somebody waits.
    changed: Notify,
    waited_for: Cell<bool>,
    closed: Cell<bool>,
}

/// The seat of a connection, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Rc<Seats>,
    pid: i32,
    decoder: Decoder,
    standing: Cell<Standing>,
    since: Cell<Instant>,
    told: Cell<bool>,
    leave: Notify,
}

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// No call is in flight, nothing half read or half written.
    Idle,
    /// It has begun to send its first request. Programs send one at once: who does not is idle in truth.
    Begun,
    Busy,
}

/// A process has as many connections as it may have, or more than those that could make room, and none of its own is
/// idle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OverShare {
    pub(crate) connections: usize,
}

impl Seats {
    pub(crate) fn new(number: usize) -> Rc<Self> {
        Rc::new(Seats {
            number,
            share: number.div_ceil(2),
            taken: RefCell::default(),
            decoders: Decoders::default(),
            changed: Notify::new(),
            waited_for: Cell::new(false),
            closed: Cell::new(false),
        })
    }

    /// A seat for this process, as soon as one is free. While none is, the connection that has been idle longest is
    /// told to leave; busy ones are left alone. A process that may have no other's seat waits for an idle one of its own:
    /// without one it would keep everybody behind it waiting. For one waiter at a time.
    pub(crate) async fn take(self: &Rc<Self>, pid: i32) -> Result<Rc<Seat>, OverShare> {
        self.waited_for.set(true);
        loop {
            let (all, own) = self.count(pid);
            // Once all are told to leave, nobody's share matters.
            let over = own >= self.share && !self.closed.get();
            if all < self.number && !over {
                break;
            }
            let asked = self.ask_one(pid, own, over);
            if over && asked != Asked::One || asked == Asked::InUse && !self.closed.get() {
                self.waited_for.set(false);
                return Err(OverShare { connections: own });
            }
            match asked {
                Asked::Later(when) => drop(timeout_at(when.into(), self.changed.notified()).await),
                _ => self.changed.notified().await,
            }
        }
        self.waited_for.set(false);
        let seat = Rc::new(Seat {
            seats: Rc::clone(self),
            pid,
            decoder: self.decoders.of(pid),
            standing: Cell::new(Standing::Idle),
            since: Cell::new(Instant::now()),
            told: Cell::new(false),
            leave: Notify::new(),
        });
        if self.closed.get() {
            seat.give_up();
        }
        self.taken.borrow_mut().push(Rc::downgrade(&seat));
        Ok(seat)
    }

    /// How many seats are taken, and how many of them by this process.
    fn count(&self, pid: i32) -> (usize, usize) {
        let mut taken = self.taken.borrow_mut();
        taken.retain(|seat| seat.strong_count() > 0);
        (taken.len(), held(&taken, pid))
    }

    /// Tells who waits that something has changed.
    fn tell(&self) {
        if self.waited_for.get() {
            self.changed.notify_one();
        }
    }

    /// Tells all connections to leave, those to come too.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.taken.borrow().iter().filter_map(Weak::upgrade).for_each(|seat| seat.give_up());
    }

    /// Tells the connection that has been idle longest to leave, of those that make room for a process with so many of
    /// its `own`: once it is `over` its share only these. It stays that one until it has left.
    fn ask_one(&self, pid: i32, own: usize, over: bool) -> Asked {
        let taken = self.taken.borrow();
        let idle = taken.iter().filter_map(Weak::upgrade);
        let idle: Vec<_> = idle.filter_map(|seat| Some((seat.idle_since()?, seat))).collect();
        let makes_room = |(since, seat): &&(Instant, Rc<Seat>)| {
            seat.pid == pid || !over && (since.elapsed() >= IN_USE || held(&taken, seat.pid) >= own)
        };
        let Some((since, seat)) = idle.iter().filter(makes_room).min_by_key(|(since, _)| *since) else {
            return if idle.is_empty() { Asked::None } else { Asked::InUse };
        };
        let Some(idle) = Instant::now().checked_duration_since(*since) else { return Asked::Later(*since) };
        let idle_ms = idle.as_millis() as u64;
        tracing::debug!(
            log.target = "worker",
            idle_ms,
            "others wait: closing the connection that was idle longest"
        );
        seat.give_up();
        Asked::One
    }
}

/// Whether a connection was told to leave.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    One,
    /// It will be idle then, if nothing more comes.
    Later(Instant),
    /// Those that are idle are in use all the same.
    InUse,
    None,
}

/// How many of these seats a process has.
fn held(taken: &[Weak<Seat>], pid: i32) -> usize {
    taken.iter().filter_map(Weak::upgrade).filter(|seat| seat.pid == pid).count()
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.tell();
    }
}

impl Seat {
    /// Whose connection it is.
    pub(crate) fn process(&self) -> i32 {
        self.pid
    }

    /// Where the long messages of its process are decoded.
    pub(crate) fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Says what the connection is at.
    pub(crate) fn note(&self, standing: Standing) {
        if self.standing.replace(standing) != standing {
            // Nobody asks since when it is busy, and each call makes it so.
            if standing != Standing::Busy {
                self.since.set(Instant::now());
            }
            self.seats.tell();
        }
    }

    /// From when on it counts as idle, which may be yet to come.
    fn idle_since(&self) -> Option<Instant> {
        match self.standing.get() {
            Standing::Idle => Some(self.since.get()),
            Standing::Begun => Some(self.since.get() + BEGUN),
            Standing::Busy => None,
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
    use futures::FutureExt;

    use super::*;

    fn seat(seats: &Rc<Seats>, pid: i32) -> Rc<Seat> {
        seats.take(pid).now_or_never().expect("a seat is free").expect("the process is below its share")
    }

    fn told(seats: &[&Rc<Seat>]) -> Vec<bool> {
        seats.iter().map(|seat| seat.told.get()).collect()
    }

    #[tokio::test]
    async fn the_connection_idle_longest_leaves_when_somebody_waits_and_not_before() {
        let seats = Seats::new(3);
        let [first, second, third] = [1, 2, 3].map(|pid| seat(&seats, pid));
        // The first has been busy since.
        first.note(Standing::Busy);
        first.note(Standing::Idle);
        assert_eq!(told(&[&first, &second, &third]), [false; 3], "nobody waits");
        let mut next = Box::pin(seats.take(4));
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(told(&[&first, &second, &third]), [false, true, false]);
        assert!(second.told_to_leave().now_or_never().is_some());
        third.note(Standing::Busy);
        third.note(Standing::Idle);
        assert!(futures::poll!(&mut next).is_pending(), "one leaves for one that comes");
        assert_eq!(told(&[&first, &second, &third]), [false, true, false]);
        drop(second);
        next.await.unwrap();
        assert_eq!(told(&[&first, &third]), [false; 2]);
    }

    #[tokio::test]
    async fn a_busy_connection_is_never_chosen_and_the_first_to_become_idle_is() {
        let seats = Seats::new(2);
        let [first, second] = [1, 2].map(|pid| seat(&seats, pid));
        first.note(Standing::Busy);
        second.note(Standing::Busy);
        let mut next = Box::pin(seats.take(3));
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(told(&[&first, &second]), [false; 2]);
        second.note(Standing::Idle);
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(told(&[&first, &second]), [false, true]);
        // A request had been sent to it before: it stays for as long as that takes, so another has to leave.
        second.note(Standing::Busy);
        first.note(Standing::Idle);
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(told(&[&first, &second]), [true, true]);
        drop(first);
        next.await.unwrap();
    }

    #[tokio::test]
    async fn who_begins_a_request_and_does_not_end_it_leaves_after_a_moment_when_somebody_waits() {
        let seats = Seats::new(2);
        let [begun, busy] = [1, 2].map(|pid| seat(&seats, pid));
        begun.note(Standing::Begun);
        busy.note(Standing::Busy);
        let mut next = Box::pin(seats.take(3));
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(told(&[&begun, &busy]), [false; 2], "its request may be on its way");
        let leaves = async {
            begun.told_to_leave().await;
            assert!(begun.since.get().elapsed() >= BEGUN);
            assert!(!busy.told.get());
            drop(begun);
        };
        let (next, ()) = futures::join!(next, leaves);
        next.unwrap();
    }

    #[tokio::test]
    async fn a_process_at_its_half_gets_the_place_of_its_own_idle_connection_and_not_of_anothers() {
        let seats = Seats::new(5);
        let other = seat(&seats, 2);
        let own = [1, 1, 1].map(|pid| seat(&seats, pid));
        own[0].note(Standing::Busy);
        let mut next = Box::pin(seats.take(1));
        assert!(futures::poll!(&mut next).is_pending(), "though one of five is free");
        assert_eq!(told(&[&other, &own[0], &own[1], &own[2]]), [false, false, true, false]);
        let [_first, second, _third] = own;
        drop(second);
        next.await.unwrap();
    }

    #[tokio::test]
    async fn a_process_whose_half_is_busy_is_refused_and_keeps_nobody_waiting() {
        let seats = Seats::new(3);
        let idle = seat(&seats, 2);
        let own = [1, 1].map(|pid| seat(&seats, pid));
        for seat in &own {
            seat.note(Standing::Busy);
        }
        assert_eq!(seats.take(1).now_or_never().unwrap().unwrap_err(), OverShare { connections: 2 });
        assert!(!idle.told.get());
        // One was told to leave and got busy instead.
        own[0].note(Standing::Idle);
        let mut next = Box::pin(seats.take(1));
        assert!(futures::poll!(&mut next).is_pending());
        own[0].note(Standing::Busy);
        assert_eq!(next.await.unwrap_err(), OverShare { connections: 2 });
        assert_eq!(told(&[&idle, &own[0], &own[1]]), [false, true, false]);
        let one = Seats::new(1);
        seat(&one, 1);
    }

    #[tokio::test]
    async fn who_has_many_connections_takes_no_place_from_who_has_few_and_uses_them() {
        let seats = Seats::new(6);
        let few = seat(&seats, 2);
        let [many, more] = [1, 3].map(|pid| [pid, pid].map(|pid| seat(&seats, pid)));
        let last = seat(&seats, 4);
        for seat in many.iter().chain(&more) {
            seat.note(Standing::Busy);
        }
        // Both with one connection are idle, for moments between two calls.
        assert_eq!(seats.take(1).now_or_never().unwrap().unwrap_err(), OverShare { connections: 2 });
        assert_eq!(told(&[&few, &last]), [false; 2]);
        // To whoever has none they give way, and so do they when nobody uses them.
        let mut next = Box::pin(seats.take(5));
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(told(&[&few, &last]), [true, false]);
        drop(few);
        let _next = next.await.unwrap();
        last.since.set(Instant::now().checked_sub(IN_USE).unwrap());
        let mut next = Box::pin(seats.take(1));
        assert!(futures::poll!(&mut next).is_pending());
        assert!(last.told.get());
        drop(last);
        next.await.unwrap();
    }

    #[tokio::test]
    async fn at_the_end_all_are_told_also_who_comes_then() {
        let seats = Seats::new(4);
        let early = seat(&seats, 1);
        early.note(Standing::Busy);
        let _another = seat(&seats, 1);
        seats.close();
        let late = seat(&seats, 1);
        assert!(early.told_to_leave().now_or_never().is_some());
        assert!(late.told_to_leave().now_or_never().is_some());
    }
}
