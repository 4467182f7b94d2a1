//! Who may compute, and on how many threads: processors are taken in turns, so that hundreds of computing threads keep
//! neither the I/O loop nor each other waiting for so long that they seem to hang.
//!
//! Nobody waits for anything else with a processor in hand: so somebody can always go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::thread;

use task_proto::limits::COMPUTING;

use super::team::lock;

/// How many processors there are, counted once: the files that tell of a cgroup's share are closed later.
static CORES: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));

pub(super) fn cores() -> usize {
    *CORES
}

/// Processors, for threads that compute.
static PROCESSORS: LazyLock<Shares> = LazyLock::new(Shares::default);
/// Places for threads beside those that began a job. A place outlasts the times in which its thread waits for input.
static PLACES: LazyLock<Shares> = LazyLock::new(Shares::default);

/// As many for each process as there are processors, and no more in all than for [`COMPUTING`] processes.
#[derive(Debug)]
struct Shares {
    all: Arc<Stock>,
    of_processes: Mutex<BTreeMap<i32, Arc<Stock>>>,
}

/// The right of a thread to compute.
#[derive(Debug)]
pub(super) struct Core {
    _taken: [Taken; 2],
}

/// The right to be a thread more.
#[derive(Debug)]
pub(super) struct Place {
    _taken: [Taken; 2],
}

impl Core {
    /// Waits until this process has one, and then for one of all: everybody does so in this order.
    pub(super) fn take(process: i32) -> Self {
        let of_process = PROCESSORS.of(process).take();
        Core { _taken: [Arc::clone(&PROCESSORS.all).take(), of_process] }
    }
}

impl Place {
    /// One for this process, if there is one at once.
    pub(super) fn try_take(process: i32) -> Option<Self> {
        let of_process = PLACES.of(process).try_take()?;
        Some(Place { _taken: [Arc::clone(&PLACES.all).try_take()?, of_process] })
    }
}

impl Default for Shares {
    fn default() -> Self {
        Shares { all: Arc::new(Stock::new(COMPUTING * cores())), of_processes: Mutex::default() }
    }
}

impl Shares {
    /// The share of a process, which is kept only as long as somebody uses it.
    fn of(&self, process: i32) -> Arc<Stock> {
        let mut of_processes = lock(&self.of_processes);
        if !of_processes.contains_key(&process) {
            of_processes.retain(|_, share| Arc::strong_count(share) > 1);
        }
        Arc::clone(of_processes.entry(process).or_insert_with(|| Arc::new(Stock::new(cores()))))
    }
}

/// So many of a thing, to be had one by one.
#[derive(Debug)]
struct Stock {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Stock {
    fn new(free: usize) -> Self {
        Stock { free: Mutex::new(free), freed: Condvar::new() }
    }

    /// Waits for one. In no order: handed on from one to the next, each would wait for a sleeper to wake.
    fn take(self: Arc<Self>) -> Taken {
        let free = self.freed.wait_while(lock(&self.free), |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        Taken(self)
    }

    fn try_take(self: Arc<Self>) -> Option<Taken> {
        let mut free = lock(&self.free);
        *free = free.checked_sub(1)?;
        drop(free);
        Some(Taken(self))
    }
}

/// One of them, in use.
#[derive(Debug)]
struct Taken(Arc<Stock>);

impl Drop for Taken {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Who waits for a core with others at hand keeps out who needs all.
    static SEVERAL: Mutex<()> = Mutex::new(());

    #[test]
    fn threads_that_compute_leave_other_processes_their_processors() {
        let _alone = lock(&SEVERAL);
        let all: Vec<_> = (0..cores()).map(|_| Core::take(-1)).collect();
        drop(Core::take(-2));
        let waiting = thread::spawn(|| drop(Core::take(-1)));
        drop(all);
        waiting.join().unwrap();
        drop(Core::take(-3));
        assert!(!lock(&PROCESSORS.of_processes).contains_key(&-1), "what nobody uses is not kept");
    }

    #[test]
    fn the_threads_of_many_processes_compute_no_more_at_once_than_those_of_some() {
        let _alone = lock(&SEVERAL);
        // None of these is that of another test.
        let processes = i32::MIN..i32::MIN + 10 * COMPUTING as i32;
        let (all, begun, go) =
            (COMPUTING * cores(), mpsc::channel(), Arc::new((Mutex::new(false), Condvar::new())));
        let threads: Vec<_> = processes
            .clone()
            .flat_map(|process| (0..cores()).map(move |_| process))
            .map(|process| {
                let (begun, go) = (begun.0.clone(), Arc::clone(&go));
                thread::spawn(move || {
                    let core = Core::take(process);
                    begun.send(()).unwrap();
                    drop(go.1.wait_while(lock(&go.0), |go| !*go).unwrap());
                    drop(core);
                })
            })
            .collect();
        for _ in 0..all {
            begun.1.recv_timeout(Duration::from_secs(20)).expect("fewer than there may be");
        }
        assert!(begun.1.recv_timeout(Duration::from_millis(50)).is_err(), "more than there may be");
        *lock(&go.0) = true;
        go.1.notify_all();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_process_has_as_many_threads_more_as_there_are_processors() {
        let places: Vec<_> = std::iter::from_fn(|| Place::try_take(-9)).collect();
        assert_eq!(places.len(), cores());
        assert!(Place::try_take(-10).is_some(), "those of another process are its own");
        drop(places);
        assert!(Place::try_take(-9).is_some());
    }
}
