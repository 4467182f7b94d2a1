//! The threads of one computation: the one that began it, and as many more as there are places and processors for.
//!
//! They last for one pass over the data: to start one takes some 20 µs, a pass that is worth it milliseconds.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

use task_proto::fault::Fault;

use super::cores::{Place, cores};
use super::team::{Hand, lock};

/// The threads of one computation, and what they look at between two blocks.
pub struct Crew<'a> {
    threads: usize,
    at: At<'a>,
}

enum At<'a> {
    /// A job of the engine.
    Job(Mutex<Hand>),
    /// Something else, which this says whether to go on with.
    Checkpoint(&'a (dyn Fn() -> Result<(), Fault> + Sync)),
}

impl<'a> Crew<'a> {
    /// At most so many threads, at something that no call waits for.
    pub fn new(threads: usize, checkpoint: &'a (dyn Fn() -> Result<(), Fault> + Sync)) -> Self {
        Crew { threads, at: At::Checkpoint(checkpoint) }
    }

    /// The thread of this hand, and others for the other processors of its process.
    pub(super) fn of(hand: Hand) -> Self {
        Crew { threads: cores(), at: At::Job(Mutex::new(hand)) }
    }

    /// How many threads there may be at most.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// # Errors
    /// When nobody waits for the result any more.
    pub(super) fn checkpoint(&self) -> Result<(), Fault> {
        match &self.at {
            At::Job(hand) => lock(hand).team().checkpoint(),
            At::Checkpoint(checkpoint) => checkpoint(),
        }
    }

    /// Runs `step` once for each of `0..steps`, on as many threads as there are, each with a state of its own, and looks
    /// at the cancellation before each. In no order; all states come back (at least one). A step takes some hundred
    /// microseconds, few take some milliseconds, so that a cancellation is seen soon, and is worth its dispatch (some 20 ns).
    /// Steps do not fold.
    ///
    /// # Errors
    /// The first one of a step, or the checkpoint's; what other threads have begun is ended first.
    pub fn fold<S: Send>(
        &self,
        steps: usize,
        state: impl Fn() -> S + Sync,
        step: impl Fn(&mut S, usize) -> Result<(), Fault> + Sync,
    ) -> Result<Vec<S>, Fault> {
        match &self.at {
            At::Job(hand) => {
                let (next, mut first) = (AtomicUsize::new(0), state());
                let work = |state: &mut S, hand: &mut Hand| {
                    each(&next, steps, &|| hand.team().checkpoint(), |index| step(state, index))
                };
                let others = self.threads.min(steps).saturating_sub(1);
                let others = beside(&mut lock(hand), others, &mut first, state, work)?;
                Ok(std::iter::once(first).chain(others).collect())
            }
            At::Checkpoint(checkpoint) => {
                let next = AtomicUsize::new(0);
                let run = || {
                    let mut state = state();
                    each(&next, steps, checkpoint, |index| step(&mut state, index)).map(|()| state)
                };
                thread::scope(|scope| {
                    let others = 1..self.threads.min(steps);
                    let others: Vec<_> = others.map(|_| scope.spawn(run)).collect();
                    let first = run();
                    let others = others.into_iter().map(joined);
                    std::iter::once(first).chain(others).collect()
                })
            }
        }
    }
}

/// Takes step after step, until none is left or one fails.
fn each(
    next: &AtomicUsize,
    steps: usize,
    checkpoint: &dyn Fn() -> Result<(), Fault>,
    mut step: impl FnMut(usize) -> Result<(), Fault>,
) -> Result<(), Fault> {
    loop {
        let index = next.fetch_add(1, Relaxed);
        if index >= steps {
            return Ok(());
        }
        checkpoint().and_then(|()| step(index)).inspect_err(|_| next.store(steps, Relaxed))?;
    }
}

/// Runs `work` on this thread, and on at most so many beside it, each with a state of its own; the states of the others
/// come back. Where there is no place for another thread, or none can be started, this one does without.
///
/// # Errors
/// The first one of any of them, once all have ended.
pub(super) fn beside<S: Send>(
    hand: &mut Hand,
    most: usize,
    first: &mut S,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &mut Hand) -> Result<(), Fault> + Sync,
) -> Result<Vec<S>, Fault> {
    let (team, work, state) = (&Arc::clone(hand.team()), &work, &state);
    thread::scope(|scope| {
        let start = |place: Place| {
            let run = move || {
                let _place = place;
                let mut hand = Hand::new(team);
                let hand = Unwinding(&mut hand);
                let mut state = state();
                work(&mut state, &mut *hand.0).map(|()| state)
            };
            thread::Builder::new().name("compute".to_owned()).spawn_scoped(scope, run).ok()
        };
        let places = std::iter::from_fn(|| Place::try_take(team.process())).take(most);
        let others: Vec<_> = places.map_while(start).collect();
        let own = work(first, &mut *Unwinding(hand).0);
        let done = others.iter().all(thread::ScopedJoinHandle::is_finished);
        let join = || others.into_iter().map(joined).collect::<Result<Vec<_>, _>>();
        // One of them may wait for the processor of this one.
        let others = if done { join() } else { hand.waiting(join) };
        own.and(others)
    })
}

/// A thread whose panic ends the work of all: they would go on to the end of an input, which may have none, and wait for
/// its processor.
struct Unwinding<'a>(&'a mut Hand);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.team().cancel();
            self.0.pause();
        }
    }
}

/// What came of a thread. A panic goes on here: the job that it worked for is over.
fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;
    use std::time::{Duration, Instant};

    use task_proto::fault::FaultKind;

    use super::*;
    use crate::engine::cores::Core;
    use crate::engine::team::Team;

    /// A crew for a process of its own: other tests take no processor or place from it.
    fn crew(process: i32) -> Crew<'static> {
        let team = Arc::new(Team::default());
        team.work_for(process);
        Crew::of(Hand::new(&team))
    }

    #[test]
    fn every_step_is_done_once_and_all_states_come_back() {
        for crew in [crew(-1000), Crew::new(3, &|| Ok(()))] {
            for steps in [0, 1, 2, 1000] {
                let states = crew.fold(steps, Vec::new, |done, step| {
                    done.push(step);
                    Ok(())
                });
                let mut all = states.unwrap().concat();
                all.sort_unstable();
                assert_eq!(all, (0..steps).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_job_computes_on_as_many_threads_as_there_are_processors() {
        let crew = crew(-1001);
        // Each waits in its step for the others.
        let (all, seen) = (Barrier::new(cores()), Mutex::new(HashSet::new()));
        let outcome = crew.fold(
            cores(),
            || (),
            |(), _| {
                lock(&seen).insert(thread::current().id());
                all.wait();
                Ok(())
            },
        );
        assert_eq!((outcome.unwrap().len(), lock(&seen).len()), (cores(), cores()));
    }

    #[test]
    fn a_fault_ends_all_and_is_what_comes_back() {
        for crew in [crew(-1002), Crew::new(2, &|| Ok(()))] {
            let done = AtomicUsize::new(0);
            let outcome = crew.fold(
                1_000_000,
                || (),
                |(), step| {
                    done.fetch_add(1, Relaxed);
                    if step == 10 { Err(Fault::new(FaultKind::TooLarge, "here")) } else { Ok(()) }
                },
            );
            assert_eq!(outcome.unwrap_err().message, "here");
            assert!(done.load(Relaxed) < 1_000_000);
        }
    }

    #[test]
    fn a_crew_looks_at_its_cancellation_before_each_step() {
        let looks = AtomicUsize::new(0);
        let look = || match looks.fetch_add(1, Relaxed) {
            5 => Err(Fault::new(FaultKind::Cancelled, "")),
            _ => Ok(()),
        };
        let done = AtomicUsize::new(0);
        let outcome = Crew::new(1, &look).fold(
            100,
            || (),
            |(), _| {
                done.fetch_add(1, Relaxed);
                Ok(())
            },
        );
        assert_eq!((outcome.is_err(), done.into_inner()), (true, 5));
    }

    #[test]
    fn a_panic_of_any_thread_is_the_jobs() {
        let crew = crew(-1003);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            crew.fold(100, || (), |(), step| if step == 50 { panic!("on purpose") } else { Ok(()) })
        }));
        assert!(outcome.is_err());
    }

    #[test]
    fn a_panic_of_one_thread_ends_what_others_would_go_on_with() {
        for of_first in [true, false] {
            let team = Arc::new(Team::default());
            let process = if of_first { -1004 } else { -1005 };
            team.work_for(process);
            // Only one processor is left to them.
            let _others: Vec<_> = (1..cores()).map(|_| Core::take(process)).collect();
            let (both, began) = (Barrier::new(2), Instant::now());
            let mut hand = Hand::new(&team);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let first = thread::current().id();
                beside(
                    &mut hand,
                    1,
                    &mut (),
                    || (),
                    |(), hand| {
                        hand.waiting(|| both.wait());
                        assert_ne!((thread::current().id() == first), of_first, "on purpose");
                        // As at an input without an end.
                        while hand.team().checkpoint().is_ok() && began.elapsed() < Duration::from_secs(20) {
                            hand.waiting(thread::yield_now);
                        }
                        Ok(())
                    },
                )
            }));
            assert!(outcome.is_err() && began.elapsed() < Duration::from_secs(20));
        }
    }
}
