//! A computation that is begun by the first call that wants its result, joined by others, cancelled when the last
//! of them leaves, and kept for later ones.

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use task_proto::fault::{Fault, FaultKind};
use tokio::sync::watch;

use super::team::{Team, lock};
use crate::blamed::Turn;

type Outcome<T> = Result<Arc<T>, Fault>;

/// The place of a result.
#[derive(Debug)]
pub(super) struct Shared<T> {
    job: Mutex<Option<Arc<Job<T>>>>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared { job: Mutex::new(None) }
    }
}

#[derive(Debug)]
struct Job<T> {
    outcome: watch::Sender<Option<Outcome<T>>>,
    team: Arc<Team>,
}

/// The threads' end of a job. Dropped without [`finish`](Work::finish), as a panic does, it answers `Internal`.
#[derive(Debug)]
pub(super) struct Work<T> {
    job: Arc<Job<T>>,
    wake: Option<Arc<OwnedFd>>,
}

impl<T> Shared<T> {
    /// Waits for the result, after starting its computation if nobody has. A fault is kept only if input that
    /// cannot be read again went into it: else the next call tries anew.
    ///
    /// Dropping the future leaves the job.
    pub(super) async fn get(&self, start: impl FnOnce(Work<T>)) -> Outcome<T> {
        let member = self.enter(start);
        let mut outcome = member.job.outcome.subscribe();
        let outcome = outcome.wait_for(Option::is_some).await;
        let outcome = outcome.ok().and_then(|outcome| outcome.clone()).unwrap_or_else(|| Err(died()));
        drop(member);
        if let Some(turn) = Turn::current() {
            turn.take().await;
        }
        outcome
    }

    fn enter(&self, start: impl FnOnce(Work<T>)) -> Member<T> {
        let mut place = lock(&self.job);
        if let Some(member) = place.as_ref().and_then(Job::enter) {
            return member;
        }
        let job = Arc::new(Job { outcome: watch::Sender::new(None), team: Arc::default() });
        *place = Some(Arc::clone(&job));
        let member = Member { id: job.team.join(|_| true), job: Arc::clone(&job) };
        start(Work { job, wake: None });
        member
    }

    /// Whether a call waits for the result.
    pub(super) fn is_wanted(&self) -> bool {
        lock(&self.job).as_ref().is_some_and(|job| !job.team.is_empty())
    }

    /// Forgets an outcome that no call waits for, unless its result is used elsewhere; `None` if it is not forgotten.
    pub(super) fn forget(&self) -> Option<Outcome<T>> {
        let job = lock(&self.job).take_if(|job| job.is_spare())?;
        // The thread that computed it may still own the job for a moment.
        job.outcome.send_replace(None)
    }
}

impl<T> Job<T> {
    fn is_spare(&self) -> bool {
        self.team.is_empty()
            && match &*self.outcome.borrow() {
                Some(Ok(result)) => Arc::strong_count(result) == 1,
                Some(Err(_)) => true,
                None => false,
            }
    }

    /// One call more, unless the job was given up or its fault is not worth keeping.
    fn enter(self: &Arc<Self>) -> Option<Member<T>> {
        let id = self.team.join(|consuming| match &*self.outcome.borrow() {
            None => !self.team.cancelled().load(Relaxed),
            Some(Ok(_)) => true,
            Some(Err(fault)) => consuming && fault.kind != FaultKind::Cancelled,
        });
        id.is_some().then(|| Member { id, job: Arc::clone(self) })
    }
}

/// A call that waits for a job; the last one to leave an unfinished job cancels it.
struct Member<T> {
    job: Arc<Job<T>>,
    id: Option<u64>,
}

impl<T> Drop for Member<T> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.job.team.leave(id, || self.job.outcome.borrow().is_none());
        }
    }
}

impl<T> Work<T> {
    /// Set when the job is cancelled.
    pub(super) fn cancelled(&self) -> Arc<AtomicBool> {
        Arc::clone(self.job.team.cancelled())
    }

    /// See [`Team::wake_by`].
    pub(super) fn wake_by(&mut self, wake: OwnedFd) {
        let wake = self.wake.insert(Arc::new(wake));
        self.job.team.wake_by(wake);
    }

    /// Hands the outcome to all that wait, and keeps it.
    pub(super) fn finish(self, outcome: Result<T, Fault>) {
        self.answer(outcome.map(Arc::new));
    }

    fn answer(&self, outcome: Outcome<T>) {
        self.job.team.end();
        self.job.outcome.send_if_modified(|place| {
            let first = place.is_none();
            if first {
                *place = Some(outcome);
            }
            first
        });
    }
}

impl<T> Deref for Work<T> {
    type Target = Arc<Team>;

    fn deref(&self) -> &Arc<Team> {
        &self.job.team
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.answer(Err(died()));
    }
}

fn died() -> Fault {
    Fault::new(FaultKind::Internal, "the computation ended without a result; the service's log says why")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Read;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use futures::{FutureExt, poll};
    use task_proto::crash::TraceId;
    use task_proto::scoreboard::{Activity, Board, Scores};

    use tokio::time::timeout;

    use super::*;
    use crate::blamed::Blamed;
    use crate::engine::team::Hand;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_computation_that_panics_answers_internal_and_is_tried_anew() {
        let result = Shared::default();
        let panicking = |job: Work<u8>| {
            let thread = thread::spawn(move || {
                let _job = job;
                panic!("on purpose");
            });
            drop(thread);
        };
        assert_eq!(result.get(panicking).await.unwrap_err().kind, FaultKind::Internal);
        assert_eq!(*result.get(|job| job.finish(Ok(5))).await.unwrap(), 5);
        assert_eq!(*result.get(|_| panic!("kept")).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_cancelled_computation_is_begun_again_by_the_next_call() {
        let result = Shared::<u8>::default();
        let work = Cell::new(None);
        let mut call = Box::pin(result.get(|job| work.set(Some(job))));
        assert!(poll!(&mut call).is_pending());
        drop(call);
        let work = work.take().unwrap();
        assert_eq!(work.checkpoint().unwrap_err().kind, FaultKind::Cancelled);
        assert_eq!(*result.get(|job| job.finish(Ok(1))).await.unwrap(), 1);
        work.finish(Ok(2));
        assert_eq!(*result.get(|_| panic!("kept")).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_computation_that_nobody_waits_for_begins_no_input_unseen_nor_keeps_its_descriptor() {
        let (place, work) = (Shared::<u8>::default(), Cell::new(None));
        let (alive, wake) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&alive, true).unwrap();
        let mut call = Box::pin(place.get(|job| work.set(Some(job))));
        assert!(poll!(&mut call).is_pending());
        let mut work = work.take().unwrap();
        work.wake_by(wake.into());
        work.begin_consuming().unwrap();
        // Also after the last look at the cancellation.
        work.checkpoint().unwrap();
        drop(call);
        assert_eq!(work.begin_consuming().unwrap_err().kind, FaultKind::Cancelled);
        assert_eq!((&alive).read(&mut [0; 9]).unwrap(), 8, "it is woken");
        work.finish(Ok(1));
        assert_eq!((&alive).read(&mut [0; 9]).unwrap(), 0, "what is kept keeps no descriptor open");
        drop(place);
    }

    #[test]
    fn of_many_that_read_no_more_compute_at_once_than_there_are_processors() {
        let processors = thread::available_parallelism().unwrap().get();
        let (computing, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let places: Vec<_> = (0..4 * processors).map(|_| Shared::<u8>::default()).collect();
        let begin = |place: &Shared<u8>| {
            let work = Cell::new(None);
            assert!(place.get(|job| work.set(Some(job))).now_or_never().is_none());
            work.take().unwrap()
        };
        let works: Vec<_> = places.iter().map(begin).collect();
        thread::scope(|scope| {
            for work in works {
                let (computing, most) = (&computing, &most);
                scope.spawn(move || {
                    let mut hand = Hand::new(&work);
                    for _ in 0..50 {
                        hand.waiting(thread::yield_now);
                        most.fetch_max(computing.fetch_add(1, Relaxed) + 1, Relaxed);
                        thread::yield_now();
                        computing.fetch_sub(1, Relaxed);
                    }
                    drop(hand);
                    work.finish(Ok(1));
                });
            }
        });
        assert!(most.load(Relaxed) <= processors, "{most:?}");
    }

    #[tokio::test]
    async fn every_call_that_waits_shows_what_was_consumed() {
        let board = Board::create().unwrap();
        let scores = Scores::map(board.fd()).unwrap();
        let slots = [scores.connect().begin("mean", 1), scores.connect().begin("mode", 2)];
        let [first, second] = slots.each_ref().map(task_proto::scoreboard::CallSlot::progress);
        let result = Shared::<u8>::default();
        let work = Cell::new(None);
        let mut early = Box::pin(first.scope(result.get(|job| work.set(Some(job)))));
        assert!(poll!(&mut early).is_pending());
        let work = work.take().unwrap();
        work.begin_consuming().unwrap();
        work.consumed(10);
        work.read(30);
        let mut late = Box::pin(second.scope(result.get(|_| panic!("begun already"))));
        assert!(poll!(&mut late).is_pending());
        let shown = || board.read().unwrap().calls.iter().map(|call| call.consumed).collect::<Vec<_>>();
        assert_eq!(shown(), [10, 10], "who comes late hears of it");
        let read = || board.read().unwrap().calls.iter().map(|call| call.read).collect::<Vec<_>>();
        assert_eq!(read(), [30, 30], "and of what can be read again");
        work.consumed(5);
        assert_eq!(shown(), [15, 15]);
        work.finish(Err(Fault::new(FaultKind::NotANumber, "x")));
        let again = result.get(|_| panic!("its input is gone: the fault is kept")).await;
        assert_eq!(again.unwrap_err().kind, FaultKind::NotANumber);
        drop((early, late));
    }

    #[tokio::test]
    async fn every_call_shows_what_its_thread_is_at_for_as_long_as_it_waits_for_it() {
        let board = Board::create().unwrap();
        let scores = Scores::map(board.fd()).unwrap();
        let slots = [scores.connect().begin("mean", 1), scores.connect().begin("mode", 2)];
        let [first, second] = slots.each_ref().map(task_proto::scoreboard::CallSlot::progress);
        let shown = || board.read().unwrap().calls.iter().map(|call| call.activity).collect::<Vec<_>>();
        let ticked = || board.read().unwrap().calls.iter().map(|call| call.progressed).collect::<Vec<_>>();
        let result = Shared::<u8>::default();
        let work = Cell::new(None);
        let mut early = Box::pin(first.scope(result.get(|job| work.set(Some(job)))));
        assert!(poll!(&mut early).is_pending());
        assert_eq!(shown(), [Activity::Running; 2], "queued: nobody ticks");
        let work = work.take().unwrap();
        let mut hand = Hand::new(&work);
        let mut late = Box::pin(second.clone().scope(result.get(|_| panic!("begun already"))));
        assert!(poll!(&mut late).is_pending());
        assert_eq!(shown(), [Activity::Computing; 2], "who comes late, too");
        hand.waiting(|| assert_eq!(shown(), [Activity::Waiting; 2]));
        assert_eq!(shown(), [Activity::Computing; 2]);
        let before = ticked();
        work.checkpoint().unwrap();
        assert!(ticked().iter().zip(&before).all(|(now, before)| now > before), "both tick");
        drop(late);
        assert_eq!(shown(), [Activity::Computing, Activity::Running], "it left");
        let mut again = Box::pin(second.scope(result.get(|_| panic!("begun already"))));
        assert!(poll!(&mut again).is_pending());
        drop(hand);
        work.finish(Ok(1));
        assert_eq!(shown(), [Activity::Running; 2], "nobody ticks for who has yet to take the result");
        assert_eq!((*early.await.unwrap(), *again.await.unwrap()), (1, 1));
    }

    #[tokio::test]
    async fn a_suspect_gives_its_turn_up_while_it_waits_for_input_and_has_it_whenever_it_executes() {
        let board = Board::create().unwrap();
        let scores = Scores::map(board.fd()).unwrap();
        let ids = [1, 2].map(TraceId);
        let blamed = Blamed::new(ids.to_vec(), Vec::new());
        let slots = [scores.connect().begin("mean", 1), scores.connect().begin("mode", 2)];
        let [first, second] = slots.each_ref().map(task_proto::scoreboard::CallSlot::progress);
        let shown = || board.read().unwrap().calls.iter().map(|call| call.activity).collect::<Vec<_>>();

        let its_turn = blamed.turn(ids[0], &first).await;
        let mut other_turn = Box::pin(blamed.turn(ids[1], &second));
        assert!(poll!(&mut other_turn).is_pending());
        assert_eq!(shown(), [Activity::Running, Activity::Held]);
        let (result, work) = (Shared::<u8>::default(), Cell::new(None));
        let wanted = result.get(|job| work.set(Some(job)));
        let mut call = Box::pin(Turn::scope(its_turn, first.clone().scope(wanted)));
        assert!(poll!(&mut call).is_pending());
        let work = work.take().unwrap();
        work.stand_in_line();
        let other_turn = timeout(PATIENCE, other_turn).await.expect("it keeps its turn while it waits");
        assert_eq!(shown(), [Activity::Waiting, Activity::Running]);

        let (input, comes) = mpsc::channel::<()>();
        let computing = thread::spawn(move || {
            let mut hand = Hand::new(&work);
            comes.recv().unwrap();
            hand.waiting(|| comes.recv().unwrap());
            comes.recv().unwrap();
            drop(hand);
            work
        });
        let until = |seen: [Activity; 2]| {
            let patience = Instant::now() + PATIENCE;
            while shown() != seen {
                assert!(Instant::now() < patience, "{:?} and not {seen:?}", shown());
                thread::yield_now();
            }
        };
        until([Activity::Held, Activity::Running]);
        drop(other_turn);
        until([Activity::Computing, Activity::Running]);
        let mut other_turn = Box::pin(blamed.turn(ids[1], &second));
        assert!(poll!(&mut other_turn).is_pending(), "it computes");
        assert_eq!(shown(), [Activity::Computing, Activity::Held]);

        input.send(()).unwrap();
        let other_turn =
            timeout(PATIENCE, other_turn).await.expect("it keeps its turn while it waits for input");
        assert_eq!(shown(), [Activity::Waiting, Activity::Running]);
        input.send(()).unwrap();
        until([Activity::Held, Activity::Running]);
        drop(other_turn);
        until([Activity::Computing, Activity::Running]);

        // The thread had the turn; the call has it after that, as soon as nobody else has.
        let mut other_turn = Box::pin(blamed.turn(ids[1], &second));
        assert!(poll!(&mut other_turn).is_pending());
        input.send(()).unwrap();
        let work = computing.join().unwrap();
        work.finish(Ok(1));
        assert_eq!(shown()[0], Activity::Held);
        let other_turn = timeout(PATIENCE, other_turn).await.expect("the thread's turn ends with its work");
        assert!(poll!(&mut call).is_pending());
        assert_eq!(shown(), [Activity::Held, Activity::Running]);
        drop(other_turn);
        assert_eq!(*call.await.unwrap(), 1);
    }
}
