//! The statistics engine: exact, and at the speed of memory.
//!
//! A query's sources become one [`Sequence`], read once however many calls ask for it ([`Ingests`]), by all threads of a
//! [`Crew`] together. Its exact [mean](Sequence::mean) is taken on the way; from it come the [median](middle()) by a
//! sampled bracket and one counting pass, and the [mode](modes()) by counting. Long work happens on threads, looks at its
//! cancellation between blocks, and is joined rather than repeated.
//!
//! Whatever is fast is chosen at run time ([`Simd`]) and has a portable twin. No answer depends on that, on the number of
//! threads or on the order of the numbers.

mod bracket;
mod budget;
mod claims;
mod collector;
mod column;
mod cores;
mod counts;
mod crew;
mod feed;
mod few;
mod ingest;
mod intake;
mod kernels;
mod map;
mod mean;
mod median;
mod mode;
pub mod npy;
mod pool;
mod raw;
mod sequence;
mod shared;
mod simd;
mod slab;
mod tallied;
mod team;
pub mod text;
mod value;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use task_proto::fault::{Fault, FaultKind};
use task_proto::limits::{COMPUTING, INLINE_NUMBERS, READERS};
use task_proto::number::Number;

pub use budget::{Budget, Lease};
pub use collector::Collector;
use cores::cores;
pub use crew::Crew;
pub use few::Few;
pub use ingest::{Ingests, Statistic, no_attachment};
pub use mean::{Sum, mean_of_ints, sum_ints};
pub use median::{middle, sum_and_middle};
pub use mode::{Modes, modes};
use pool::Pool;
use sequence::Values;
pub use sequence::{Extent, Sequence};
use shared::{Shared, Work};
pub use simd::{Level, Simd};
use tallied::Tallied;
use team::Hand;
pub use value::Value;

/// What all connections of a process share: the memory for numbers and the threads. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct Engine {
    budget: Budget,
    simd: Simd,
    /// Of all samples: nobody else can know which numbers of an input decide how long it takes.
    seed: u64,
    /// For whom it works: nobody's calls wait for those of another process.
    process: i32,
    pool: Arc<Pool>,
    readers: Arc<Pool>,
}

impl Engine {
    /// An engine that holds at most this much. No thread starts before it is needed.
    pub fn new(simd: Simd, budget: Budget) -> Self {
        let cores = cores();
        let pool = Arc::new(Pool::new("compute", COMPUTING * cores, cores));
        let readers = Arc::new(Pool::new("read", READERS, READERS / 2));
        let seed = RandomState::new().hash_one("samples");
        Engine { budget, simd, seed, process: 0, pool, readers }
    }

    /// The same engine as the process of this id has it: with its share of the threads.
    #[must_use]
    pub fn of(&self, process: i32) -> Self {
        Engine { process, ..self.clone() }
    }

    /// Computes a result, on a thread that waits for nothing but a processor.
    fn compute<T: Send + Sync + 'static>(
        &self,
        job: Work<T>,
        compute: impl FnOnce(Hand) -> Result<T, Fault> + Send + 'static,
    ) {
        self.work(&self.pool, job, |_| Ok(()), compute);
    }

    /// Reads an input, on a thread that may wait for it.
    fn read<T: Send + Sync + 'static>(
        &self,
        job: Work<T>,
        read: impl FnOnce(Hand) -> Result<T, Fault> + Send + 'static,
    ) {
        let begin = |job: &mut Work<T>| {
            // Not before: each that stands in line would have a descriptor.
            let wake = eventfd(0, EventfdFlags::CLOEXEC);
            let wake = wake.map_err(|error| {
                Fault::new(FaultKind::Internal, format!("cannot make an eventfd: {error}"))
            })?;
            job.wake_by(wake);
            Ok(())
        };
        self.work(&self.readers, job, begin, read);
    }

    fn work<T: Send + Sync + 'static>(
        &self,
        pool: &Pool,
        mut job: Work<T>,
        begin: impl FnOnce(&mut Work<T>) -> Result<(), Fault> + Send + 'static,
        work: impl FnOnce(Hand) -> Result<T, Fault> + Send + 'static,
    ) {
        job.work_for(self.process);
        // A suspect has no turn meanwhile.
        job.stand_in_line();
        pool.run(self.process, job.cancelled(), move || {
            let outcome =
                begin(&mut job).and_then(|()| job.checkpoint()).and_then(|()| work(Hand::new(&job)));
            job.finish(outcome);
        });
    }

    fn median(&self, sequence: &Sequence, crew: &Crew<'_>) -> Result<Median, Fault> {
        let count = sequence.count();
        if let Some((low, high)) = sequence.middle {
            return Ok(Median::of(count, low, high, Number::Float));
        }
        match &sequence.values {
            Values::Ints(ints) => {
                let (low, high) = self.middle(crew, sequence, &ints.slices().collect::<Vec<_>>())?;
                Ok(Median::of(count, low, high, Number::Int))
            }
            Values::Floats(floats) => {
                let (low, high) = self.middle(crew, sequence, &floats.slices().collect::<Vec<_>>())?;
                Ok(Median::of(count, low, high, Number::Float))
            }
            Values::TalliedInts(ints) => Median::of_tallied(count, ints, Number::Int),
            Values::TalliedFloats(floats) => Median::of_tallied(count, floats, Number::Float),
        }
    }

    fn middle<V: Value>(
        &self,
        crew: &Crew<'_>,
        sequence: &Sequence,
        blocks: &[&[V]],
    ) -> Result<(V, V), Fault> {
        let mut lease = sequence.beside(&self.budget).lease();
        middle(self.simd, crew, blocks, sequence.count(), &mut lease, self.seed)
    }

    fn modes(&self, sequence: &Sequence, crew: &Crew<'_>) -> Result<Modes<Number>, Fault> {
        match &sequence.values {
            Values::Ints(ints) => {
                self.modes_of(crew, sequence, &ints.slices().collect::<Vec<_>>(), Number::Int)
            }
            Values::Floats(floats) => {
                self.modes_of(crew, sequence, &floats.slices().collect::<Vec<_>>(), Number::Float)
            }
            Values::TalliedInts(ints) => Ok(ints.modes().map(Number::Int)),
            Values::TalliedFloats(floats) => Ok(floats.modes().map(Number::Float)),
        }
    }

    fn modes_of<V: Value>(
        &self,
        crew: &Crew<'_>,
        sequence: &Sequence,
        blocks: &[&[V]],
        number: fn(V) -> Number,
    ) -> Result<Modes<Number>, Fault> {
        let budget = sequence.beside(&self.budget);
        Ok(modes(self.simd, crew, blocks, sequence.count(), &budget, self.seed)?.map(number))
    }
}

/// One sequence, and what has been computed from it.
#[derive(Debug)]
pub struct Data {
    sequence: Sequence,
    engine: Engine,
    median: Shared<Median>,
    modes: Shared<Modes<Number>>,
}

/// The middle of a sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Median {
    /// The middle value, or the `f64` nearest to the exact midpoint of the two; NaN for opposite infinities.
    pub value: Number,
    /// The lower of the two middle values; the middle value of an odd count.
    pub low: Number,
    /// The upper of the two middle values; the middle value of an odd count.
    pub high: Number,
}

impl Data {
    /// Nothing has been computed yet but the mean.
    pub fn new(sequence: Sequence, engine: Engine) -> Self {
        Data { sequence, engine, median: Shared::default(), modes: Shared::default() }
    }

    /// The numbers.
    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// The median. Dropping the future ends the work within a block, if no other call waits for it.
    ///
    /// # Errors
    /// `TooLarge`, `Cancelled`.
    pub async fn median(self: &Arc<Self>) -> Result<Arc<Median>, Fault> {
        if self.in_place() || self.sequence.middle.is_some() {
            return self.find_median(&Crew::new(1, &|| Ok(()))).map(Arc::new);
        }
        self.on_threads(&self.median, Data::find_median).await
    }

    /// The mode. Dropping the future ends the work within a block, if no other call waits for it.
    ///
    /// # Errors
    /// `TooLarge`, `Cancelled`.
    pub async fn modes(self: &Arc<Self>) -> Result<Arc<Modes<Number>>, Fault> {
        if self.in_place() {
            return self.find_modes(&Crew::new(1, &|| Ok(()))).map(Arc::new);
        }
        self.on_threads(&self.modes, Data::find_modes).await
    }

    /// Whether the numbers are so few that they are not worth another thread. What is missing costs a look as well.
    fn in_place(&self) -> bool {
        self.sequence.count() + self.sequence.missing() <= INLINE_NUMBERS as u64
    }

    async fn on_threads<T: Send + Sync + 'static>(
        self: &Arc<Self>,
        result: &Shared<T>,
        find: fn(&Data, &Crew<'_>) -> Result<T, Fault>,
    ) -> Result<Arc<T>, Fault> {
        let data = Arc::clone(self);
        // The job has let go of the data before its answer is there: whoever gets it may expect the memory back.
        result.get(|job| self.engine.compute(job, move |hand| find(&data, &Crew::of(hand)))).await
    }

    fn find_median(&self, crew: &Crew<'_>) -> Result<Median, Fault> {
        self.engine.median(&self.sequence, crew)
    }

    fn find_modes(&self, crew: &Crew<'_>) -> Result<Modes<Number>, Fault> {
        self.engine.modes(&self.sequence, crew)
    }
}

impl Median {
    fn of<V: Value>(count: u64, low: V, high: V, number: fn(V) -> Number) -> Self {
        let value = if count % 2 == 1 { number(low) } else { Number::Float(V::midpoint(low, high)) };
        Median { value, low: number(low), high: number(high) }
    }

    fn of_tallied<V: Value>(
        count: u64,
        tallied: &Tallied<V>,
        number: fn(V) -> Number,
    ) -> Result<Self, Fault> {
        let middle = tallied.middle().map(|(low, high)| Median::of(count, low, high, number));
        middle.ok_or_else(|| Fault::new(FaultKind::Internal, "there are fewer numbers than counted"))
    }
}

/// Called between blocks: an error means that nobody waits for the result any more.
pub type Checkpoint<'a> = &'a dyn Fn() -> Result<(), Fault>;
