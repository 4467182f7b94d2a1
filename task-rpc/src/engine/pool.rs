//! Threads for the work of calls, and who may have how many: a process has its share of them, and what is beyond waits in
//! a line of its own, so that nobody stands behind another process's calls. The lines take turns.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use super::cores::cores;
use super::team::lock;

/// The threads, started when needed, and the jobs that wait for one. A job that waits belongs to a call in flight, so
/// that the limits on connections and calls bound the lines.
#[derive(Debug)]
pub(super) struct Pool {
    shop: Arc<Shop>,
}

#[derive(Debug)]
struct Shop {
    name: &'static str,
    /// Threads at once.
    most: usize,
    /// Those of one process.
    share: usize,
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: BTreeMap<i32, VecDeque<Job>>,
    /// Whose line had its turn last.
    last: i32,
    /// Jobs that run, by their processes.
    running: HashMap<i32, usize>,
    threads: usize,
    /// Threads without a job, those that are starting too.
    idle: usize,
    closed: bool,
}

struct Job {
    work: Box<dyn FnOnce() + Send>,
    /// Set when nobody waits for it.
    cancelled: Arc<AtomicBool>,
}

impl Pool {
    /// Of at most so many threads, of which one process has no more than its share.
    pub(super) fn new(name: &'static str, most: usize, share: usize) -> Self {
        let (queue, work) = (Mutex::default(), Condvar::new());
        Pool { shop: Arc::new(Shop { name, most, share, queue, work }) }
    }

    /// Runs the job for this process, as soon as there is a thread for it. A job that panics is over; the thread goes
    /// on. Where no thread at all can be started the jobs are dropped, which tells their waiters.
    pub(super) fn run(&self, process: i32, cancelled: Arc<AtomicBool>, job: impl FnOnce() + Send + 'static) {
        let Shop { name, most, share, queue, work } = &*self.shop;
        let mut queue = lock(queue);
        let line = queue.lines.entry(process).or_default();
        // They may keep descriptors, and come faster than the line moves.
        line.retain(|job| !job.cancelled.load(Relaxed));
        line.push_back(Job { work: Box::new(job), cancelled });
        if queue.idle >= queue.ready(*share) || queue.threads == *most {
            work.notify_one();
            return;
        }
        let shop = Arc::clone(&self.shop);
        match thread::Builder::new().name((*name).to_owned()).spawn(move || shop.serve()) {
            Ok(_) => {
                queue.threads += 1;
                queue.idle += 1;
            }
            Err(error) if queue.threads == 0 => {
                tracing::error!(%error, "cannot start a thread to {name}");
                queue.lines.clear();
            }
            Err(_) => work.notify_one(),
        }
    }
}

impl Queue {
    /// How many jobs could begin.
    fn ready(&self, share: usize) -> usize {
        let begin = |(process, line): (&i32, &VecDeque<Job>)| line.len().min(share - self.running(*process));
        self.lines.iter().map(begin).sum()
    }

    fn running(&self, process: i32) -> usize {
        self.running.get(&process).copied().unwrap_or_default()
    }

    /// The next job of the next line whose process is below its share.
    fn take(&mut self, share: usize) -> Option<(i32, Job)> {
        let after = self.lines.range((Excluded(self.last), Unbounded));
        let mut lines = after.chain(self.lines.range(..=self.last));
        let (&process, _) = lines.find(|(process, _)| self.running(**process) < share)?;
        let line = self.lines.get_mut(&process)?;
        let job = line.pop_front()?;
        if line.is_empty() {
            self.lines.remove(&process);
        }
        self.last = process;
        *self.running.entry(process).or_default() += 1;
        Some((process, job))
    }

    fn done(&mut self, process: i32) {
        if let Some(running) = self.running.get_mut(&process) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(&process);
            }
        }
    }
}

impl Shop {
    fn serve(&self) {
        let mut queue = lock(&self.queue);
        queue.idle -= 1;
        loop {
            if let Some((process, Job { work, .. })) = queue.take(self.share) {
                drop(queue);
                // The panic hook has said what happened; the job's waiters hear it from what the job has dropped.
                let _ = catch_unwind(AssertUnwindSafe(work));
                queue = lock(&self.queue);
                queue.done(process);
                continue;
            }
            // One for each processor is kept for the calls to come.
            if queue.closed || queue.idle >= cores() {
                queue.threads -= 1;
                return;
            }
            queue.idle += 1;
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

impl Drop for Pool {
    /// Every job holds the engine, so none is left: the threads that wait for one end.
    fn drop(&mut self) {
        lock(&self.shop.queue).closed = true;
        self.shop.work.notify_all();
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("cancelled", &self.cancelled).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn run(pool: &Pool, process: i32, job: impl FnOnce() + Send + 'static) {
        pool.run(process, Arc::default(), job);
    }

    #[test]
    fn a_job_that_panics_costs_no_thread() {
        let pool = Pool::new("test", 4, 2);
        let (send, receive) = mpsc::channel();
        for _ in 0..16 {
            run(&pool, 1, || panic!("on purpose"));
        }
        for index in 0..100 {
            let send = send.clone();
            run(&pool, 1, move || send.send(index).unwrap());
        }
        drop(send);
        let mut done: Vec<i32> = receive.iter().collect();
        done.sort_unstable();
        assert_eq!(done, (0..100).collect::<Vec<_>>());
        assert!(lock(&pool.shop.queue).threads <= 2);
    }

    #[test]
    fn no_thread_starts_before_a_job_needs_it() {
        let pool = Pool::new("test", 4, 2);
        assert_eq!(lock(&pool.shop.queue).threads, 0);
        let (send, receive) = mpsc::channel();
        run(&pool, 1, move || send.send(()).unwrap());
        receive.recv().unwrap();
        assert_eq!(lock(&pool.shop.queue).threads, 1);
    }

    /// A job that says which it is and goes on until it is told.
    fn begin(pool: &Pool, process: i32, job: i32, begun: &mpsc::Sender<i32>) -> mpsc::Sender<()> {
        let (go, gone) = mpsc::channel();
        let begun = begun.clone();
        run(pool, process, move || {
            begun.send(job).unwrap();
            let _ = gone.recv();
        });
        go
    }

    #[test]
    fn a_process_at_its_share_waits_for_its_own_and_nobody_for_it() {
        let pool = Pool::new("test", 4, 2);
        let (begun, begins) = mpsc::channel();
        let next = || begins.recv_timeout(PATIENCE).expect("nothing begins");
        let mut held: Vec<_> = (10..20).map(|job| begin(&pool, 1, job, &begun)).collect();
        let mut first = [next(), next()];
        first.sort_unstable();
        assert_eq!(first, [10, 11]);
        let others = [20, 21].map(|job| begin(&pool, 2, job, &begun));
        let mut second = [next(), next()];
        second.sort_unstable();
        assert_eq!(second, [20, 21], "behind eight of another process");
        drop(others);
        assert!(begins.recv_timeout(Duration::from_millis(50)).is_err(), "more than its share");
        drop(held.remove(0));
        assert_eq!(next(), 12, "in order");
        drop(held);
        assert_eq!((0..7).map(|_| next()).collect::<Vec<_>>().len(), 7);
    }

    #[test]
    fn where_all_threads_are_taken_the_processes_take_turns() {
        let pool = Pool::new("test", 2, 2);
        let (begun, begins) = mpsc::channel();
        let next = || begins.recv_timeout(PATIENCE).expect("nothing begins");
        let running = [10, 11].map(|job| begin(&pool, 1, job, &begun));
        let _both = [next(), next()];
        let waiting: Vec<_> = [(1, 12), (1, 13), (2, 20), (2, 21), (3, 30)]
            .map(|(process, job)| begin(&pool, process, job, &begun))
            .into();
        let [one, other] = running;
        drop(one);
        let mut order = vec![next()];
        for job in waiting {
            drop(job);
        }
        order.extend((0..4).map(|_| next()));
        drop(other);
        assert_eq!(order, [20, 30, 12, 21, 13]);
    }

    #[test]
    fn jobs_that_nobody_waits_for_do_not_pile_up() {
        let pool = Pool::new("test", 1, 1);
        let (begun, begins) = mpsc::channel();
        let busy = begin(&pool, 1, 0, &begun);
        begins.recv_timeout(PATIENCE).unwrap();
        let kept = Arc::new(());
        for _ in 0..1000 {
            let (cancelled, kept) = (Arc::<AtomicBool>::default(), Arc::clone(&kept));
            pool.run(1, Arc::clone(&cancelled), move || drop(kept));
            cancelled.store(true, Relaxed);
        }
        assert!(Arc::strong_count(&kept) <= 2, "{}", Arc::strong_count(&kept));
        drop(busy);
    }
}
