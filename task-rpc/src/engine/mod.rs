//! The statistics engine: plain, exact, in blocks.
//!
//! A query's sources become one [`Sequence`], read once however many calls ask for it ([`Ingests`]); from it come
//! the [`mean`](mean()) by exact summation, and the [`Order`] — median and mode — by sorted runs and a merge. Long
//! work happens on threads, looks at its cancellation between blocks, and is joined rather than repeated.

mod array;
mod budget;
mod ingest;
mod map;
mod mean;
pub mod npy;
mod order;
mod pool;
mod raw;
mod reader;
mod sequence;
mod shared;

use std::sync::Arc;

use task_proto::fault::Fault;
use task_proto::limits::{COMPUTING, INLINE_NUMBERS, READERS};
use task_proto::number::Number;
use task_proto::scoreboard::Activity;

pub use budget::{Budget, Lease};
pub use ingest::{Ingests, no_attachment};
pub use mean::mean;
pub use order::{Modes, Order, order};
use pool::Pool;
pub use sequence::{Collector, Sequence};
use shared::Shared;

/// What all connections of a process share: the memory for numbers and the threads. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    budget: Budget,
    /// For whom it works: nobody's calls wait for those of another process.
    process: i32,
    pool: Arc<Pool>,
    readers: Arc<Pool>,
}

impl Engine {
    /// An engine that holds at most this much. No thread starts before it is needed.
    pub fn new(budget: Budget) -> Self {
        let cores = reader::cores();
        let pool = Arc::new(Pool::new("compute", COMPUTING * cores, cores));
        let readers = Arc::new(Pool::new("read", READERS, READERS / 2));
        Engine { budget, process: 0, pool, readers }
    }

    /// The same engine as the process of this id has it: with its share of the threads.
    #[must_use]
    pub fn of(&self, process: i32) -> Self {
        Engine { process, ..self.clone() }
    }
}

/// One sequence, and what has been computed from it.
#[derive(Debug)]
pub struct Data {
    sequence: Sequence,
    engine: Engine,
    mean: Shared<f64>,
    order: Shared<Order>,
}

impl Data {
    fn new(sequence: Sequence, engine: Engine) -> Self {
        Data { sequence, engine, mean: Shared::default(), order: Shared::default() }
    }

    /// The numbers.
    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// The mean; see [`mean`](mean()). Dropping the future ends the work within a block, if no other call waits for it.
    pub async fn mean(self: &Arc<Self>) -> Result<Number, Fault> {
        if self.in_place() {
            return mean(&self.sequence, &|| Ok(())).map(Number::Float);
        }
        let work = |data: &Data, checkpoint: Checkpoint<'_>| mean(&data.sequence, checkpoint);
        self.on_a_thread(&self.mean, work).await.map(|mean| Number::Float(*mean))
    }

    /// Median and mode; see [`order`](order()). Dropping the future ends the work within a block, if no other call waits
    /// for it.
    pub async fn order(self: &Arc<Self>) -> Result<Arc<Order>, Fault> {
        if self.in_place() {
            return order(&self.sequence, &Budget::unlimited(), &|| Ok(())).map(Arc::new);
        }
        let work =
            |data: &Data, checkpoint: Checkpoint<'_>| order(&data.sequence, &data.engine.budget, checkpoint);
        self.on_a_thread(&self.order, work).await
    }

    fn in_place(&self) -> bool {
        // What is missing costs a look as well.
        self.sequence.count() + self.sequence.missing() <= INLINE_NUMBERS as u64
    }

    async fn on_a_thread<T: Send + Sync + 'static>(
        self: &Arc<Self>,
        result: &Shared<T>,
        work: fn(&Data, Checkpoint<'_>) -> Result<T, Fault>,
    ) -> Result<Arc<T>, Fault> {
        let data = Arc::clone(self);
        let start = |job: shared::Work<T>| {
            self.engine.pool.run(self.engine.process, job.cancelled(), move || {
                job.enter(Activity::Computing);
                let outcome = job.checkpoint().and_then(|()| work(&data, &|| job.checkpoint()));
                // Before the answer: whoever gets it may expect the memory back.
                drop(data);
                job.finish(outcome);
            });
        };
        result.get(start).await
    }
}

/// Called between blocks: an error means that nobody waits for the result any more.
pub type Checkpoint<'a> = &'a dyn Fn() -> Result<(), Fault>;
