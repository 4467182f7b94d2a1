//! Ingest: the sources of a query become one [`Sequence`](super::Sequence), read once for all calls of a connection that ask for
//! them in the same way.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use task_proto::fault::{Fault, FaultKind};
use task_proto::limits::INGESTS;
use task_proto::number::Number;
use task_proto::stats::{Query, Source};
use task_proto::wire::Attachment;

use super::intake::{self, Intake, Reading};
use super::shared::{Shared, Work};
use super::team::lock;
use super::{Budget, Collector, Data, Engine, Few, Lease};

/// What is asked of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistic {
    /// The mean.
    Mean,
    /// The median.
    Median,
    /// The mode.
    Mode,
}

/// The inputs of one connection. Clones are the same table.
#[derive(Debug, Clone)]
pub struct Ingests {
    engine: Engine,
    table: Arc<Table>,
    reading: Arc<Reading>,
}

/// What was read, and is kept for later calls.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<Vec<Ingest>>);

#[derive(Debug)]
struct Ingest {
    query: Arc<Counted>,
    /// The same for queries that are the same: to compare all numbers of a request with those of each kept one would
    /// stop the I/O loop.
    hash: u64,
    place: Place,
}

/// Where the data of a query is or will be.
#[derive(Debug, Clone, Default)]
struct Place {
    data: Arc<Shared<Data>>,
    /// Whether a call waits for the median of it.
    median: Arc<AtomicBool>,
}

/// A query whose own numbers count against the memory for numbers: those of a frame take up to 16 times its bytes.
/// Not counted are at most [`INLINE_NUMBERS`](task_proto::limits::INLINE_NUMBERS) numbers of a call that is answered at once, and the requests of a
/// connection that have been decoded and whose handlers have yet to begin: one, or long ones that are held back.
#[derive(Debug)]
struct Counted {
    query: Query,
    lease: Lease,
}

impl Table {
    /// Drops what no call uses; a later call reads it again, or hears that it cannot be.
    pub(super) fn shrink(&self) {
        // To free much takes long: not under the lock.
        let mut forgotten = Vec::new();
        lock(&self.0).retain(|ingest| match ingest.place.data.forget() {
            Some(outcome) => {
                forgotten.push(outcome);
                false
            }
            None => true,
        });
    }
}

impl Counted {
    fn new(query: Query, budget: &Budget) -> Result<Arc<Self>, Fault> {
        let numbers = |source: &Source| match source {
            Source::Numbers(numbers) => size_of_val::<[Number]>(numbers),
            Source::Attached { .. } => 0,
        };
        let bytes = size_of_val(&query.sources[..]) + query.sources.iter().map(numbers).sum::<usize>();
        let mut lease = budget.lease();
        lease.grow(bytes as u64)?;
        Ok(Arc::new(Counted { query, lease }))
    }
}

impl Ingests {
    /// An empty table. `idle` is how long an input may keep its readers waiting for a byte.
    pub fn new(engine: Engine, idle: Option<Duration>) -> Self {
        let table = Arc::default();
        engine.budget.register(&table);
        let reading = Reading::new(idle);
        Ingests { engine, table, reading: Arc::new(reading) }
    }

    /// The query's numbers, if they are few and all its own: they are here already.
    ///
    /// # Errors
    /// As those of [`data`](Ingests::data).
    pub fn few<'a>(&'a self, query: &'a Query) -> Option<Result<Few<'a>, Fault>> {
        Few::of(&self.engine, query)
    }

    /// The query's numbers: read by now, being read for another call, or to be read. `attachment` finds a
    /// descriptor by its number, `wanted` is what it is for. Dropping the future ends the reading within a block, if no other call waits.
    ///
    /// # Errors
    /// Whatever is wrong with the input, with the source and the place.
    pub async fn data(
        &self,
        query: Query,
        wanted: Statistic,
        attachment: impl Fn(u32) -> Option<Arc<Attachment>>,
    ) -> Result<Arc<Data>, Fault> {
        let inline = query.sources.iter().all(|source| matches!(source, Source::Numbers(_)));
        let query = Counted::new(query, &self.engine.budget)?;
        if inline {
            return Shared::default().get(|job| self.compute(query, job)).await;
        }
        let descriptors = descriptors(&query.query, attachment)?;
        let Place { data, median } = self.place(&query);
        if wanted == Statistic::Median {
            median.store(true, Relaxed);
        }
        data.get(|job| self.read(query, descriptors, median, job)).await
    }

    /// Forgets what was read from this attachment.
    pub fn release(&self, attached: u32) {
        let names = |ingest: &Ingest| ingest.query.query.sources.iter().any(|source| names(source, attached));
        lock(&self.table.0).retain(|ingest| !names(ingest));
    }

    fn compute(&self, query: Arc<Counted>, job: Work<Data>) {
        let engine = self.engine.clone();
        self.engine.compute(job, move |hand| {
            let budget = engine.budget.beside(&query.lease);
            let mut collector = Collector::new(engine.simd, &budget, query.query.missing);
            let checkpoint = || hand.team().checkpoint();
            intake::inline(&mut collector, &query.query, checkpoint)?;
            let sequence = collector.finish(&checkpoint)?;
            drop(query);
            Ok(Data::new(sequence, engine))
        });
    }

    /// Where the data of such a query is or will be.
    fn place(&self, query: &Arc<Counted>) -> Place {
        let hash = hash(&query.query);
        let mut table = lock(&self.table.0);
        let is_same = |ingest: &&Ingest| ingest.hash == hash && same(&ingest.query.query, &query.query);
        if let Some(ingest) = table.iter().find(is_same) {
            return ingest.place.clone();
        }
        if table.len() >= INGESTS
            && let Some(oldest) = table.iter().position(|ingest| !ingest.place.data.is_wanted())
        {
            table.remove(oldest);
        }
        let place = Place::default();
        table.push(Ingest { query: Arc::clone(query), hash, place: place.clone() });
        place
    }

    fn read(
        &self,
        query: Arc<Counted>,
        descriptors: Vec<Option<Arc<Attachment>>>,
        median: Arc<AtomicBool>,
        job: Work<Data>,
    ) {
        let (engine, reading) = (self.engine.clone(), Arc::clone(&self.reading));
        self.engine.read(job, move |hand| {
            let budget = engine.budget.beside(&query.lease);
            let intake = Intake::new(&engine, budget, &reading, &query.query, hand);
            let sequence = intake.take(&descriptors, &median)?;
            drop(query);
            Ok(Data::new(sequence, engine))
        });
    }
}

/// The descriptors of the sources that have one.
fn descriptors(
    query: &Query,
    attachment: impl Fn(u32) -> Option<Arc<Attachment>>,
) -> Result<Vec<Option<Arc<Attachment>>>, Fault> {
    let descriptor = |(index, source): (usize, &Source)| match *source {
        Source::Numbers(_) => Ok(None),
        Source::Attached { attached, .. } => match attachment(attached) {
            None => Err(no_attachment(attached).in_source(index as u32)),
            found => Ok(found),
        },
    };
    query.sources.iter().enumerate().map(descriptor).collect()
}

/// No descriptor of that number is alive on the connection.
pub fn no_attachment(attached: u32) -> Fault {
    Fault::new(FaultKind::NoAttachment, format!("this connection has no attachment {attached}"))
}

fn names(source: &Source, attachment: u32) -> bool {
    matches!(source, Source::Attached { attached, .. } if *attached == attachment)
}

fn hash(query: &Query) -> u64 {
    let mut hasher = DefaultHasher::new();
    query.missing.hash(&mut hasher);
    for source in &query.sources {
        match source {
            Source::Attached { attached, format } => (attached, format).hash(&mut hasher),
            Source::Numbers(numbers) => {
                (numbers.len(), numbers.huge()).hash(&mut hasher);
                for number in &**numbers {
                    match *number {
                        Number::Int(int) => hasher.write_i64(int),
                        Number::Float(float) => hasher.write_u64(float.to_bits()),
                    }
                }
            }
        }
    }
    hasher.finish()
}

/// Whether two queries ask for the same sequence. NaN is like NaN here: both are a missing value.
fn same(left: &Query, right: &Query) -> bool {
    left.missing == right.missing
        && left.sources.len() == right.sources.len()
        && left.sources.iter().zip(&right.sources).all(|pair| match pair {
            (Source::Numbers(left), Source::Numbers(right)) => {
                left.len() == right.len()
                    && left.huge() == right.huge()
                    && left.iter().zip(right.iter()).all(|(left, right)| same_number(*left, *right))
            }
            (left, right) => left == right,
        })
}

fn same_number(left: Number, right: Number) -> bool {
    match (left, right) {
        (Number::Float(left), Number::Float(right)) => left.to_bits() == right.to_bits(),
        (left, right) => left == right,
    }
}
