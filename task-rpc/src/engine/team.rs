//! The calls that wait for a job, and the threads that work on it: what the threads are at is what the calls show, a
//! suspect among the calls has its turn while they compute, and the last call to leave stops them.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use task_proto::fault::{Fault, FaultKind};
use task_proto::scoreboard::{Activity, Progress};
use tokio::sync::OwnedMutexGuard;

use super::cores::Core;
use crate::blamed::Turn;

/// Calls and threads of one job.
#[derive(Debug, Default)]
pub(super) struct Team {
    members: Mutex<Members>,
    /// Whoever waited for the turn has it, or did without.
    turned: Condvar,
    cancelled: Arc<AtomicBool>,
    /// An eventfd, written when the threads have to look up. The threads': a result that is kept keeps no descriptor.
    wake: Mutex<Weak<OwnedFd>>,
    /// On whose processors its threads compute.
    process: AtomicI32,
}

#[derive(Debug, Default)]
struct Members {
    calls: Vec<Call>,
    entered: u64,
    /// What the threads are at: that of the calls which wait for them.
    activity: Activity,
    /// Threads that compute.
    computing: usize,
    consuming: bool,
    consumed: u64,
    /// Bytes of any input.
    read: u64,
    /// The turn of the suspects among the calls, while a thread computes.
    turn: Option<OwnedMutexGuard<()>>,
    /// Whether a thread waits for that turn: there is only one for all of them.
    turning: bool,
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

    /// All threads wait, for input or for a thread to begin on.
    fn wait(&mut self) {
        // Shown before the turn is another's: whoever is shown to execute then is to blame.
        self.enter(Activity::Waiting);
        self.turn = None;
        self.calls.iter().filter_map(|call| call.turn.as_ref()).for_each(|turn| turn.give_up());
    }
}

impl Team {
    /// One call more, by its number, if `usable` says that what comes of the job is of use to it: it hears whether input
    /// has been begun that cannot be read again.
    pub(super) fn join(&self, usable: impl FnOnce(bool) -> bool) -> Option<u64> {
        let members = &mut *lock(&self.members);
        if !usable(members.consuming) {
            return None;
        }
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
        Some(members.entered)
    }

    /// That call is gone. The last one stops the job if that is `unfinished`.
    pub(super) fn leave(&self, id: u64, unfinished: impl FnOnce() -> bool) {
        let mut members = lock(&self.members);
        if let Some(at) = members.calls.iter().position(|call| call.id == id) {
            members.calls.swap_remove(at).resume();
        }
        if members.calls.is_empty() && unfinished() {
            self.cancel();
        }
    }

    /// Ends the work of all threads.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
        self.wake_up();
    }

    /// Whether no call waits.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.members).calls.is_empty()
    }

    /// Set when the last call has left.
    pub(super) fn cancelled(&self) -> &Arc<AtomicBool> {
        &self.cancelled
    }

    /// Ticks the calls that wait.
    ///
    /// # Errors
    /// `Cancelled`, when none is left.
    pub(super) fn checkpoint(&self) -> Result<(), Fault> {
        if self.cancelled.load(Relaxed) {
            return Err(cancelled());
        }
        lock(&self.members).calls.iter().for_each(|call| call.progress.tick());
        Ok(())
    }

    /// Waits from here on, for a thread to begin.
    pub(super) fn stand_in_line(&self) {
        lock(&self.members).wait();
    }

    /// Says on whose processors its threads compute.
    pub(super) fn work_for(&self, process: i32) {
        self.process.store(process, Relaxed);
    }

    /// Says what wakes its threads: an eventfd. If they have been called by now, the next
    /// [`checkpoint`](Team::checkpoint) says so.
    pub(super) fn wake_by(&self, wake: &Arc<OwnedFd>) {
        *lock(&self.wake) = Arc::downgrade(wake);
    }

    pub(super) fn process(&self) -> i32 {
        self.process.load(Relaxed)
    }

    /// What wakes its threads, as long as one of them holds it: readable for good once they have to look up.
    pub(super) fn wake(&self) -> Option<Arc<OwnedFd>> {
        lock(&self.wake).upgrade()
    }

    /// Makes its threads look up.
    pub(super) fn wake_up(&self) {
        if let Some(wake) = self.wake() {
            // It fails only when the counter is full, and then it has been written before.
            let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
        }
    }

    /// Says that input is about to be read that cannot be read again.
    ///
    /// # Errors
    /// `Cancelled`, when no call is left to say it of: then nobody would know that the input had been begun.
    pub(super) fn begin_consuming(&self) -> Result<(), Fault> {
        let mut members = lock(&self.members);
        if members.calls.is_empty() {
            return Err(cancelled());
        }
        members.consuming = true;
        members.calls.iter().for_each(|call| call.progress.begin_consuming());
        Ok(())
    }

    /// Says that this many bytes more of such input have been read.
    pub(super) fn consumed(&self, bytes: usize) {
        let mut members = lock(&self.members);
        members.consumed += bytes as u64;
        members.calls.iter().for_each(|call| call.progress.consumed(members.consumed));
    }

    /// Says that this many bytes more of any input have been read.
    pub(super) fn read(&self, bytes: usize) {
        let mut members = lock(&self.members);
        members.read += bytes as u64;
        members.calls.iter().for_each(|call| call.progress.read(members.read));
    }

    /// No thread works on it any more. Nobody ticks for those that have yet to take the outcome.
    pub(super) fn end(&self) {
        let mut members = lock(&self.members);
        members.activity = Activity::Running;
        members.calls.iter().for_each(Call::resume);
        members.turn = None;
    }

    /// A thread goes on to compute: with the turn, if there is a suspect among the calls, and on a processor of its own.
    /// Nobody waits for the turn with a processor, for which whoever has the turn may wait.
    fn compute(&self) -> Core {
        let mut core = None;
        let mut members = lock(&self.members);
        loop {
            match members.calls.iter().find_map(|call| call.turn.clone()) {
                Some(turn) if members.turn.is_none() => {
                    core = None;
                    if members.turning {
                        members = self.turned.wait(members).unwrap_or_else(PoisonError::into_inner);
                        continue;
                    }
                    members.turning = true;
                    if members.computing == 0 {
                        members.enter(Activity::Held);
                    }
                    drop(members);
                    let turn = turn.take_for_thread();
                    members = lock(&self.members);
                    members.turning = false;
                    members.turn = Some(turn);
                    self.turned.notify_all();
                }
                _ => {
                    if let Some(core) = core.take() {
                        members.computing += 1;
                        if members.activity != Activity::Computing {
                            members.enter(Activity::Computing);
                        }
                        return core;
                    }
                    drop(members);
                    core = Some(Core::take(self.process()));
                    members = lock(&self.members);
                }
            }
        }
    }

    fn pause(&self) {
        let mut members = lock(&self.members);
        members.computing -= 1;
        if members.computing == 0 {
            members.wait();
        }
    }
}

/// A thread that computes for a job, as long as this lives. It must come to a [`checkpoint`](Team::checkpoint) several times
/// a second.
#[derive(Debug)]
pub(super) struct Hand {
    team: Arc<Team>,
    core: Option<Core>,
}

impl Hand {
    /// Waits for a processor.
    pub(super) fn new(team: &Arc<Team>) -> Self {
        Hand { core: Some(team.compute()), team: Arc::clone(team) }
    }

    /// Those that it works with, and for.
    pub(super) fn team(&self) -> &Arc<Team> {
        &self.team
    }

    /// What may wait, for input or for other threads; before and after it the thread computes.
    pub(super) fn waiting<R>(&mut self, wait: impl FnOnce() -> R) -> R {
        self.pause();
        let waited = wait();
        self.core = Some(self.team.compute());
        waited
    }

    /// Gives the processor up.
    pub(super) fn pause(&mut self) {
        if let Some(core) = self.core.take() {
            self.team.pause();
            drop(core);
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.pause();
    }
}

fn cancelled() -> Fault {
    Fault::new(FaultKind::Cancelled, "the call was cancelled")
}

/// A panic elsewhere leaves nothing half-done under these locks.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
