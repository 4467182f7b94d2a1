//! Ingest: the sources of a query become one [`Sequence`](super::Sequence), read once for all calls of a connection that ask for
//! them in the same way.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use task_proto::fault::{Fault, FaultKind};
use task_proto::limits::{IN_PLACE, INGESTS};
use task_proto::number::Number;
use task_proto::stats::{Format, Missing, Query, Source};
use task_proto::text::Scanner;

use super::reader::{Kind, kind, read_file, read_stream};
use super::shared::{Shared, Work, lock};
use super::{Budget, Collector, Data, Engine};

/// The inputs of one connection. Clones are the same table.
#[derive(Debug, Clone)]
pub struct Ingests {
    engine: Engine,
    idle: Option<Duration>,
    table: Arc<Mutex<Vec<Ingest>>>,
    claims: Claims,
}

#[derive(Debug, Clone)]
struct Ingest {
    query: Query,
    data: Arc<Shared<Data>>,
}

/// Attachments that have been read and cannot be read again.
type Claims = Arc<Mutex<HashSet<u32>>>;

impl Ingests {
    /// An empty table. `idle` is how long an input may keep its readers waiting for a byte.
    pub fn new(engine: Engine, idle: Option<Duration>) -> Self {
        Ingests { engine, idle, table: Arc::default(), claims: Arc::default() }
    }

    /// The query's numbers: read by now, being read for another call, or to be read. `attachment` finds a
    /// descriptor by its number. Dropping the future ends the reading within a block, if no other call waits.
    ///
    /// # Errors
    /// Whatever is wrong with the input, with the source and the place.
    pub async fn data(
        &self,
        query: Query,
        attachment: impl Fn(u32) -> Option<Arc<OwnedFd>>,
    ) -> Result<Arc<Data>, Fault> {
        let inline = query.sources.iter().map(|source| match source {
            Source::Numbers(numbers) => Some(numbers.len()),
            Source::Attached { .. } => None,
        });
        match inline.sum::<Option<usize>>() {
            Some(0..=IN_PLACE) => {
                // The frame bounds these numbers.
                let mut collector = Collector::new(&Budget::unlimited(), query.missing);
                collect_inline(&mut collector, &query, || Ok(()))?;
                Ok(Arc::new(Data::new(collector.finish()?, self.engine.clone())))
            }
            Some(_) => Shared::default().get(None, |job| self.compute(query, job)).await,
            None => {
                let inputs = inputs(&query, attachment)?;
                let wake = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| {
                    Fault::new(FaultKind::Internal, format!("cannot make an eventfd: {error}"))
                })?;
                let data = self.place(&query);
                data.get(Some(wake), |job| self.read(inputs, query.missing, job)).await
            }
        }
    }

    /// Forgets what was read from this attachment.
    pub fn release(&self, attached: u32) {
        lock(&self.table).retain(|ingest| !ingest.query.sources.iter().any(|source| names(source, attached)));
    }

    fn compute(&self, query: Query, job: Work<Data>) {
        let engine = self.engine.clone();
        self.engine.pool.run(move || {
            let mut collector = Collector::new(&engine.budget, query.missing);
            let outcome = collect_inline(&mut collector, &query, || job.checkpoint())
                .and_then(|()| collector.finish())
                .map(|sequence| Data::new(sequence, engine));
            job.finish(outcome);
        });
    }

    /// Where the data of such a query is or will be.
    fn place(&self, query: &Query) -> Arc<Shared<Data>> {
        let mut table = lock(&self.table);
        if let Some(ingest) = table.iter().find(|ingest| same(&ingest.query, query)) {
            return Arc::clone(&ingest.data);
        }
        if table.len() >= INGESTS
            && let Some(oldest) = table.iter().position(|ingest| !ingest.data.is_wanted())
        {
            table.remove(oldest);
        }
        let data = Arc::new(Shared::default());
        table.push(Ingest { query: query.clone(), data: Arc::clone(&data) });
        data
    }

    fn read(&self, inputs: Vec<Input>, missing: Missing, job: Work<Data>) {
        let (engine, idle, claims) = (self.engine.clone(), self.idle, Arc::clone(&self.claims));
        self.engine.readers.run(job, move |job| {
            let mut collector = Collector::new(&engine.budget, missing);
            let several = inputs.len() > 1;
            for (index, input) in inputs.iter().enumerate() {
                let source = several.then_some(index);
                collect(&mut collector, input, source, idle, &claims, job)
                    .map_err(|fault| fault.in_source(index as u32))?;
            }
            Ok(Data::new(collector.finish()?, engine))
        });
    }
}

/// A source with its descriptor.
enum Input {
    Numbers(Vec<Number>),
    Attached { attached: u32, descriptor: Arc<OwnedFd>, format: Format },
}

fn inputs(query: &Query, attachment: impl Fn(u32) -> Option<Arc<OwnedFd>>) -> Result<Vec<Input>, Fault> {
    let input = |(index, source): (usize, &Source)| match *source {
        Source::Numbers(ref numbers) => Ok(Input::Numbers(numbers.clone())),
        Source::Attached { attached, format } => match attachment(attached) {
            Some(descriptor) => Ok(Input::Attached { attached, descriptor, format }),
            None => Err(no_attachment(attached).in_source(index as u32)),
        },
    };
    query.sources.iter().enumerate().map(input).collect()
}

fn consumed() -> Fault {
    let message = "an earlier call has read this input, which can be read only once; save it to a file to read it again";
    Fault::new(FaultKind::InputConsumed, message)
}

/// No descriptor of that number is alive on the connection.
pub fn no_attachment(attached: u32) -> Fault {
    Fault::new(FaultKind::NoAttachment, format!("this connection has no attachment {attached}"))
}

fn collect(
    collector: &mut Collector,
    input: &Input,
    source: Option<usize>,
    idle: Option<Duration>,
    claims: &Claims,
    job: &Work<Data>,
) -> Result<(), Fault> {
    let (attached, descriptor) = match input {
        Input::Numbers(numbers) => return collect_numbers(collector, numbers, || job.checkpoint()),
        Input::Attached { attached, descriptor, format: Format::Text } => (*attached, descriptor),
    };
    let mut scanner = Scanner::default();
    let take = |block: &[u8]| scanner.push(block, |token, place| collector.token(token, place, source));
    match kind(descriptor)? {
        Kind::File(offset) => read_file(descriptor, offset, job, take)?,
        Kind::Stream => {
            let claim = || if lock(claims).insert(attached) { Ok(()) } else { Err(consumed()) };
            read_stream(descriptor, idle, job, claim, take)?;
        }
    }
    scanner.finish(|token, place| collector.token(token, place, source))
}

fn collect_inline(
    collector: &mut Collector,
    query: &Query,
    checkpoint: impl Fn() -> Result<(), Fault>,
) -> Result<(), Fault> {
    for (index, source) in query.sources.iter().enumerate() {
        if let Source::Numbers(numbers) = source {
            collect_numbers(collector, numbers, &checkpoint)
                .map_err(|fault| fault.in_source(index as u32))?;
        }
    }
    Ok(())
}

/// The place of a fault is the position in the list.
fn collect_numbers(
    collector: &mut Collector,
    numbers: &[Number],
    checkpoint: impl Fn() -> Result<(), Fault>,
) -> Result<(), Fault> {
    for (index, &number) in numbers.iter().enumerate() {
        if index % IN_PLACE == 0 {
            checkpoint()?;
        }
        let place = |fault| Fault { column: Some(index as u64 + 1), ..fault };
        collector.number(number).map_err(place)?;
    }
    Ok(())
}

fn names(source: &Source, attachment: u32) -> bool {
    matches!(source, Source::Attached { attached, .. } if *attached == attachment)
}

/// Whether two queries ask for the same sequence. NaN is like NaN here: both are a missing value.
fn same(left: &Query, right: &Query) -> bool {
    left.missing == right.missing
        && left.sources.len() == right.sources.len()
        && left.sources.iter().zip(&right.sources).all(|pair| match pair {
            (Source::Numbers(left), Source::Numbers(right)) => {
                left.len() == right.len()
                    && left.iter().zip(right).all(|(left, right)| same_number(*left, *right))
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
