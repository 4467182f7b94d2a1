//! Compute threads: as many as there are processors, started when first needed, ended with the engine.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use super::reader;
use super::shared::lock;

type Job = Box<dyn FnOnce() + Send>;

/// The threads and the jobs that wait for one. A job that waits belongs to a call in flight, so that the limits
/// on connections and calls bound the queue.
pub(super) struct Pool {
    shared: Arc<Shop>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
    most: usize,
}

#[derive(Default)]
struct Shop {
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    closed: bool,
}

impl Pool {
    pub(super) fn new() -> Self {
        Pool { shared: Arc::default(), threads: Mutex::default(), most: reader::cores() }
    }

    /// Runs the job on a thread of the pool, as soon as one is free. A job that panics is over; the thread goes
    /// on. Where no thread at all can be started the job is dropped, which tells its waiters.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut threads = lock(&self.threads);
        let mut queue = lock(&self.shared.queue);
        queue.jobs.push_back(Box::new(job));
        if queue.idle >= queue.jobs.len() || threads.len() == self.most {
            self.shared.work.notify_one();
            return;
        }
        let shop = Arc::clone(&self.shared);
        match thread::Builder::new().name("compute".to_owned()).spawn(move || shop.serve()) {
            Ok(thread) => threads.push(thread),
            Err(error) if threads.is_empty() => {
                tracing::error!(%error, "cannot start a compute thread");
                queue.jobs.clear();
            }
            Err(_) => self.shared.work.notify_one(),
        }
    }
}

impl Shop {
    fn serve(&self) {
        while let Some(job) = self.next() {
            // The panic hook has said what happened; the job's waiters hear it from what the job has dropped.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue.idle += 1;
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

impl Drop for Pool {
    /// Waits for the running jobs: they end within a block, since no call is left that waits for them.
    fn drop(&mut self) {
        let mut queue = lock(&self.shared.queue);
        queue.closed = true;
        queue.jobs.clear();
        drop(queue);
        self.shared.work.notify_all();
        for thread in lock(&self.threads).drain(..) {
            // A job may have held the engine last: its thread ends by itself.
            if thread.thread().id() != thread::current().id() {
                // It caught all its panics.
                let _ = thread.join();
            }
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("most", &self.most).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_job_that_panics_costs_no_thread() {
        let pool = Pool::new();
        let (send, receive) = mpsc::channel();
        for _ in 0..4 * pool.most {
            pool.run(|| panic!("on purpose"));
        }
        for index in 0..100 {
            let send = send.clone();
            pool.run(move || send.send(index).unwrap());
        }
        drop(send);
        let mut done: Vec<i32> = receive.iter().collect();
        done.sort_unstable();
        assert_eq!(done, (0..100).collect::<Vec<_>>());
        assert!(lock(&pool.threads).len() <= pool.most);
    }

    #[test]
    fn no_thread_starts_before_a_job_needs_it() {
        let pool = Pool::new();
        assert_eq!(lock(&pool.threads).len(), 0);
        let (send, receive) = mpsc::channel();
        pool.run(move || send.send(()).unwrap());
        receive.recv().unwrap();
        assert_eq!(lock(&pool.threads).len(), 1);
    }
}
