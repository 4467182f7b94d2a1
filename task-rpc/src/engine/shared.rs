//! A computation that is begun by the first call that wants its result, joined by others, cancelled when the last
//! of them leaves, and kept for later ones.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use task_proto::fault::{Fault, FaultKind};
use task_proto::scoreboard::{Activity, Progress};
use tokio::sync::{OwnedMutexGuard, watch};

use super::reader::Core;
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
    members: Mutex<Members>,
    cancelled: Arc<AtomicBool>,
    /// An eventfd, written when the job is cancelled. The thread's: a result that is kept keeps no descriptor.
    wake: Mutex<Weak<OwnedFd>>,
}

/// The calls that wait for a job.
#[derive(Debug, Default)]
struct Members {
    calls: Vec<Call>,
    entered: u64,
    /// What the thread is at: that of the calls which wait for it.
    activity: Activity,
    consuming: bool,
    consumed: u64,
    /// Bytes of any input.
    read: u64,
    /// The turn of the suspects among them, while the thread has it.
    turn: Option<OwnedMutexGuard<()>>,
    /// The processor that the thread computes on.
    core: Option<Core>,
}

#[derive(Debug)]
struct Call {
    id: u64,
    progress: Progress,
    turn: Option<Arc<Turn>>,
}

impl Call {
    /// No thread speaks for it any more. A suspect without its turn goes on when it has it.
    fn resume(&self) {
        let held = self.turn.as_ref().is_none_or(|turn| turn.is_held());
        self.progress.enter(if held { Activity::Running } else { Activity::Held });
    }
}

impl Members {
    fn enter(&mut self, activity: Activity) {
        self.activity = activity;
        self.calls.iter().for_each(|call| call.progress.enter(activity));
    }
}

/// The thread's end of a job. Dropped without [`finish`](Work::finish), as a panic does, it answers `Internal`.
#[derive(Debug)]
pub(super) struct Work<T> {
    job: Arc<Job<T>>,
    wake: Option<Arc<OwnedFd>>,
    /// On whose processors the thread computes.
    process: i32,
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
        let job = Arc::new(Job {
            outcome: watch::Sender::new(None),
            members: Mutex::default(),
            cancelled: Arc::default(),
            wake: Mutex::default(),
        });
        *place = Some(Arc::clone(&job));
        let member = Member::new(&job, &mut lock(&job.members));
        start(Work { job, wake: None, process: 0 });
        member
    }

    /// Whether a call waits for the result.
    pub(super) fn is_wanted(&self) -> bool {
        lock(&self.job).as_ref().is_some_and(|job| !lock(&job.members).calls.is_empty())
    }

    /// Forgets an outcome that no call waits for, unless its result is used elsewhere; false if it is not forgotten.
    pub(super) fn forget(&self) -> bool {
        let Some(job) = lock(&self.job).take_if(|job| job.is_spare()) else { return false };
        // The thread that computed it may still own the job for a moment.
        let outcome = job.outcome.send_replace(None);
        drop(outcome);
        true
    }
}

impl<T> Job<T> {
    fn is_spare(&self) -> bool {
        let members = lock(&self.members);
        members.calls.is_empty()
            && match &*self.outcome.borrow() {
                Some(Ok(result)) => Arc::strong_count(result) == 1,
                Some(Err(_)) => true,
                None => false,
            }
    }

    /// One call more, unless the job was given up or its fault is not worth keeping.
    fn enter(self: &Arc<Self>) -> Option<Member<T>> {
        let mut members = lock(&self.members);
        let usable = match &*self.outcome.borrow() {
            None => !self.cancelled.load(Relaxed),
            Some(Ok(_)) => true,
            Some(Err(fault)) => members.consuming && fault.kind != FaultKind::Cancelled,
        };
        usable.then(|| Member::new(self, &mut members))
    }
}

/// A call that waits for a job; the last one to leave an unfinished job cancels it.
struct Member<T> {
    job: Arc<Job<T>>,
    id: u64,
}

impl<T> Member<T> {
    fn new(job: &Arc<Job<T>>, members: &mut Members) -> Self {
        let (progress, turn) = (Progress::current(), Turn::current());
        progress.enter(members.activity);
        if let Some(turn) = &turn
            && matches!(members.activity, Activity::Waiting | Activity::Held)
        {
            turn.give_up();
        }
        if members.consuming {
            progress.begin_consuming();
            progress.consumed(members.consumed);
        }
        progress.read(members.read);
        members.entered += 1;
        members.calls.push(Call { id: members.entered, progress, turn });
        Member { job: Arc::clone(job), id: members.entered }
    }
}

impl<T> Drop for Member<T> {
    fn drop(&mut self) {
        let mut members = lock(&self.job.members);
        if let Some(at) = members.calls.iter().position(|call| call.id == self.id) {
            members.calls.swap_remove(at).resume();
        }
        if members.calls.is_empty() && self.job.outcome.borrow().is_none() {
            self.job.cancelled.store(true, Relaxed);
            if let Some(wake) = lock(&self.job.wake).upgrade() {
                // It fails only when the counter is full, and then it has been written before.
                let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
            }
        }
    }
}

impl<T> Work<T> {
    /// Ticks the calls that wait.
    ///
    /// # Errors
    /// `Cancelled`, when none is left.
    pub(super) fn checkpoint(&self) -> Result<(), Fault> {
        if self.job.cancelled.load(Relaxed) {
            return Err(cancelled());
        }
        lock(&self.job.members).calls.iter().for_each(|call| call.progress.tick());
        Ok(())
    }

    /// Says what the thread is at. While it computes it must come to a [`checkpoint`](Work::checkpoint) several times
    /// a second.
    pub(super) fn enter(&self, activity: Activity) {
        lock(&self.job.members).enter(activity);
    }

    /// What may wait for input; before and after it the thread computes.
    pub(super) fn waiting<R>(&self, wait: impl FnOnce() -> R) -> R {
        self.pause();
        let waited = wait();
        self.compute();
        waited
    }

    /// Waits from here on, for input or for a thread.
    pub(super) fn pause(&self) {
        let mut members = lock(&self.job.members);
        // Shown before the turn is another's: whoever is shown to execute then is to blame.
        members.enter(Activity::Waiting);
        members.turn = None;
        members.core = None;
        members.calls.iter().filter_map(|call| call.turn.as_ref()).for_each(|turn| turn.give_up());
    }

    /// Goes on to compute: on a core of its own, and with the turn, if there is a suspect among the calls. Nobody waits
    /// for the turn with a core, for which whoever has the turn may wait.
    pub(super) fn compute(&self) {
        let mut core = None;
        loop {
            let mut members = lock(&self.job.members);
            match members.calls.iter().find_map(|call| call.turn.clone()) {
                Some(turn) if members.turn.is_none() => {
                    members.enter(Activity::Held);
                    drop(members);
                    core = None;
                    let turn = turn.take_for_thread();
                    lock(&self.job.members).turn = Some(turn);
                }
                _ if core.is_none() => {
                    drop(members);
                    core = Some(Core::take(self.process));
                }
                _ => {
                    members.core = core;
                    return members.enter(Activity::Computing);
                }
            }
        }
    }

    /// Set when the job is cancelled.
    pub(super) fn cancelled(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.job.cancelled)
    }

    /// Says whose processors it computes on, and what to write to when the job is cancelled: an eventfd. If it has been
    /// by now, the next [`checkpoint`](Work::checkpoint) says so.
    pub(super) fn work_for(&mut self, process: i32, wake: OwnedFd) {
        self.process = process;
        let wake = self.wake.insert(Arc::new(wake));
        *lock(&self.job.wake) = Arc::downgrade(wake);
    }

    /// Readable as soon as the job is cancelled.
    pub(super) fn wake(&self) -> Option<BorrowedFd<'_>> {
        self.wake.as_ref().map(AsFd::as_fd)
    }

    /// Says that input is about to be read that cannot be read again.
    ///
    /// # Errors
    /// `Cancelled`, when no call is left to say it of: then nobody would know that the input had been begun.
    pub(super) fn begin_consuming(&self) -> Result<(), Fault> {
        let mut members = lock(&self.job.members);
        if members.calls.is_empty() {
            return Err(cancelled());
        }
        members.consuming = true;
        members.calls.iter().for_each(|call| call.progress.begin_consuming());
        Ok(())
    }

    /// Says that this many bytes more of such input have been read.
    pub(super) fn consumed(&self, bytes: usize) {
        let mut members = lock(&self.job.members);
        members.consumed += bytes as u64;
        members.calls.iter().for_each(|call| call.progress.consumed(members.consumed));
    }

    /// Says that this many bytes more of any input have been read.
    pub(super) fn read(&self, bytes: usize) {
        let mut members = lock(&self.job.members);
        members.read += bytes as u64;
        members.calls.iter().for_each(|call| call.progress.read(members.read));
    }

    /// Hands the outcome to all that wait, and keeps it.
    pub(super) fn finish(self, outcome: Result<T, Fault>) {
        self.answer(outcome.map(Arc::new));
    }

    fn answer(&self, outcome: Outcome<T>) {
        // Nobody ticks for those that have yet to take it.
        {
            let mut members = lock(&self.job.members);
            members.activity = Activity::Running;
            members.calls.iter().for_each(Call::resume);
            members.turn = None;
            members.core = None;
        }
        self.job.outcome.send_if_modified(|place| {
            let first = place.is_none();
            if first {
                *place = Some(outcome);
            }
            first
        });
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.answer(Err(died()));
    }
}

fn cancelled() -> Fault {
    Fault::new(FaultKind::Cancelled, "the call was cancelled")
}

fn died() -> Fault {
    Fault::new(FaultKind::Internal, "the computation ended without a result; the service's log says why")
}

/// A panic elsewhere leaves nothing half-done under these locks.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    use task_proto::scoreboard::{Board, Scores};

    use tokio::time::timeout;

    use super::*;
    use crate::blamed::Blamed;

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
        work.work_for(0, wake.into());
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
                    for _ in 0..50 {
                        work.waiting(thread::yield_now);
                        most.fetch_max(computing.fetch_add(1, Relaxed) + 1, Relaxed);
                        thread::yield_now();
                        computing.fetch_sub(1, Relaxed);
                    }
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
        work.enter(Activity::Computing);
        let mut late = Box::pin(second.clone().scope(result.get(|_| panic!("begun already"))));
        assert!(poll!(&mut late).is_pending());
        assert_eq!(shown(), [Activity::Computing; 2], "who comes late, too");
        work.waiting(|| assert_eq!(shown(), [Activity::Waiting; 2]));
        assert_eq!(shown(), [Activity::Computing; 2]);
        let before = ticked();
        work.checkpoint().unwrap();
        assert!(ticked().iter().zip(&before).all(|(now, before)| now > before), "both tick");
        drop(late);
        assert_eq!(shown(), [Activity::Computing, Activity::Running], "it left");
        let mut again = Box::pin(second.scope(result.get(|_| panic!("begun already"))));
        assert!(poll!(&mut again).is_pending());
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
        work.enter(Activity::Computing);
        assert!(poll!(&mut other_turn).is_pending(), "it computes");

        let (input, comes) = mpsc::channel();
        let reading = thread::spawn(move || {
            work.waiting(|| comes.recv().unwrap());
            work
        });
        let other_turn = timeout(PATIENCE, other_turn).await.expect("it keeps its turn while it waits");
        assert_eq!(shown(), [Activity::Waiting, Activity::Running]);
        input.send(()).unwrap();
        let patience = Instant::now() + PATIENCE;
        while shown() != [Activity::Held, Activity::Running] {
            assert!(Instant::now() < patience, "{:?}", shown());
            thread::yield_now();
        }
        drop(other_turn);
        let work = reading.join().unwrap();
        assert_eq!(shown()[0], Activity::Computing);

        // The thread had the turn; the call has it after that, as soon as nobody else has.
        let mut other_turn = Box::pin(blamed.turn(ids[1], &second));
        assert!(poll!(&mut other_turn).is_pending());
        work.finish(Ok(1));
        assert_eq!(shown()[0], Activity::Held);
        let other_turn = timeout(PATIENCE, other_turn).await.expect("the thread's turn ends with its work");
        assert!(poll!(&mut call).is_pending());
        assert_eq!(shown(), [Activity::Held, Activity::Running]);
        drop(other_turn);
        assert_eq!(*call.await.unwrap(), 1);
    }
}
