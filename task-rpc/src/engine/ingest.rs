//! Ingest: the sources of a query become one [`Sequence`](super::Sequence), read once for all calls of a connection that ask for
//! them in the same way.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use rustix::fs::{FileType, fstat};
use task_proto::fault::{Fault, FaultKind};
use task_proto::limits::{INGESTS, INLINE_NUMBERS};
use task_proto::number::Number;
use task_proto::numbers::Numbers;
use task_proto::scoreboard::Activity;
use task_proto::stats::{Format, Query, Source};
use task_proto::text::Scanner;
use task_proto::wire::Attachment;

use super::array::{self, Array};
use super::map::{Maps, View};
use super::npy::Element;
use super::raw::{self, Raw};
use super::reader::{self, Kind, kind, read_file, read_stream};
use super::shared::{Shared, Work, lock};
use super::{Budget, Collector, Data, Engine, Lease};

/// The inputs of one connection. Clones are the same table.
#[derive(Debug, Clone)]
pub struct Ingests {
    engine: Engine,
    table: Arc<Table>,
    reading: Arc<Reading>,
}

/// What the threads of a connection know that read its inputs.
#[derive(Debug)]
struct Reading {
    idle: Option<Duration>,
    claims: Claims,
    maps: Maps,
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
    data: Arc<Shared<Data>>,
}

/// A query whose own numbers count against the memory for numbers: those of a frame take up to 16 times its bytes.
/// Not counted are at most [`INLINE_NUMBERS`] numbers of a call that is answered at once, and the requests of a
/// connection that have been decoded and whose handlers have yet to begin: one, or long ones that are held back.
#[derive(Debug)]
struct Counted {
    query: Query,
    lease: Lease,
}

/// Attachments that have been read and cannot be read again, as long as anybody can ask for them.
#[derive(Debug, Default)]
struct Claims(Mutex<Vec<Claim>>);

#[derive(Debug)]
struct Claim {
    descriptor: Weak<Attachment>,
    pipe: Option<Pipe>,
}

/// Device and inode of a pipe or socket, to which several descriptors may lead: who read two of them would get some of
/// its bytes from each.
type Pipe = (u64, u64);

type Checked<'a> = (MutexGuard<'a, Vec<Claim>>, Option<Pipe>);

impl Table {
    /// Drops what no call uses; a later call reads it again, or hears that it cannot be.
    pub(super) fn shrink(&self) {
        lock(&self.0).retain(|ingest| !ingest.data.forget());
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

impl Claims {
    fn claim(&self, descriptor: &Arc<Attachment>, file_type: FileType) -> Result<(), Fault> {
        let (mut claims, pipe) = self.check(descriptor, file_type)?;
        claims.push(Claim { descriptor: Arc::downgrade(descriptor), pipe });
        Ok(())
    }

    /// The claims, without one on this descriptor or its pipe; and which pipe that is.
    fn check(&self, descriptor: &Arc<Attachment>, file_type: FileType) -> Result<Checked<'_>, Fault> {
        let is_pipe = matches!(file_type, FileType::Fifo | FileType::Socket);
        let pipe = is_pipe.then(|| fstat(descriptor).ok()).flatten().map(|stat| (stat.st_dev, stat.st_ino));
        let mut claims = lock(&self.0);
        claims.retain(|claim| claim.descriptor.strong_count() > 0);
        let message = if claims.iter().any(|claim| claim.descriptor.ptr_eq(&Arc::downgrade(descriptor))) {
            "an earlier call has read this input, which can be read only once; save it to a file to read it again"
        } else if pipe.is_some() && claims.iter().any(|claim| claim.pipe == pipe) {
            "this input is the same pipe or socket as another one, and can be read only once; give it once, or release the other one first"
        } else {
            return Ok((claims, pipe));
        };
        Err(Fault::new(FaultKind::InputConsumed, message))
    }
}

impl Ingests {
    /// An empty table. `idle` is how long an input may keep its readers waiting for a byte.
    pub fn new(engine: Engine, idle: Option<Duration>) -> Self {
        let table = Arc::default();
        engine.budget.register(&table);
        let reading = Reading { idle, claims: Claims::default(), maps: Maps::default() };
        Ingests { engine, table, reading: Arc::new(reading) }
    }

    /// The query's numbers: read by now, being read for another call, or to be read. `attachment` finds a
    /// descriptor by its number. Dropping the future ends the reading within a block, if no other call waits.
    ///
    /// # Errors
    /// Whatever is wrong with the input, with the source and the place.
    pub async fn data(
        &self,
        query: Query,
        attachment: impl Fn(u32) -> Option<Arc<Attachment>>,
    ) -> Result<Arc<Data>, Fault> {
        let inline = query.sources.iter().map(|source| match source {
            Source::Numbers(numbers) => Some(numbers.len()),
            Source::Attached { .. } => None,
        });
        let inline = inline.sum::<Option<usize>>();
        if inline.is_some_and(|numbers| numbers <= INLINE_NUMBERS) {
            // The frame bounds these numbers.
            let mut collector = Collector::new(&Budget::unlimited(), query.missing);
            collect_inline(&mut collector, &query, || Ok(()))?;
            return Ok(Arc::new(Data::new(collector.finish()?, self.engine.clone())));
        }
        let query = Counted::new(query, &self.engine.budget)?;
        if inline.is_some() {
            return Shared::default().get(|job| self.compute(query, job)).await;
        }
        let descriptors = descriptors(&query.query, attachment)?;
        let data = self.place(&query);
        data.get(|job| self.read(query, descriptors, job)).await
    }

    /// Forgets what was read from this attachment.
    pub fn release(&self, attached: u32) {
        let names = |ingest: &Ingest| ingest.query.query.sources.iter().any(|source| names(source, attached));
        lock(&self.table.0).retain(|ingest| !names(ingest));
    }

    fn compute(&self, query: Arc<Counted>, job: Work<Data>) {
        let engine = self.engine.clone();
        self.engine.pool.run(self.engine.process, job.cancelled(), move || {
            job.enter(Activity::Computing);
            let mut collector = Collector::new(&engine.budget, query.query.missing);
            collector.stands_beside(&query.lease);
            let outcome = collect_inline(&mut collector, &query.query, || job.checkpoint())
                .and_then(|()| collector.finish())
                .map(|sequence| Data::new(sequence, engine));
            drop(query);
            job.finish(outcome);
        });
    }

    /// Where the data of such a query is or will be.
    fn place(&self, query: &Arc<Counted>) -> Arc<Shared<Data>> {
        let hash = hash(&query.query);
        let mut table = lock(&self.table.0);
        let is_same = |ingest: &&Ingest| ingest.hash == hash && same(&ingest.query.query, &query.query);
        if let Some(ingest) = table.iter().find(is_same) {
            return Arc::clone(&ingest.data);
        }
        if table.len() >= INGESTS
            && let Some(oldest) = table.iter().position(|ingest| !ingest.data.is_wanted())
        {
            table.remove(oldest);
        }
        let data = Arc::new(Shared::default());
        table.push(Ingest { query: Arc::clone(query), hash, data: Arc::clone(&data) });
        data
    }

    fn read(&self, query: Arc<Counted>, descriptors: Vec<Option<Arc<Attachment>>>, job: Work<Data>) {
        let (engine, reading) = (self.engine.clone(), Arc::clone(&self.reading));
        reader::run(&self.engine.readers, self.engine.process, job, move |job| {
            let Query { sources, missing } = &query.query;
            let mut collector = Collector::new(&engine.budget, *missing);
            collector.stands_beside(&query.lease);
            for (index, (source, descriptor)) in sources.iter().zip(&descriptors).enumerate() {
                let several = (sources.len() > 1).then_some(index);
                match (source, descriptor) {
                    (Source::Attached { format, .. }, Some(descriptor)) => {
                        reading.collect(&mut collector, descriptor, *format, several, job)
                    }
                    (Source::Attached { attached, .. }, None) => Err(no_attachment(*attached)),
                    (Source::Numbers(numbers), _) => {
                        collect_numbers(&mut collector, numbers, several, || job.checkpoint())
                    }
                }
                .map_err(|fault| fault.in_source(index as u32))?;
            }
            Ok(Data::new(collector.finish()?, engine))
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

impl Reading {
    fn collect(
        &self,
        collector: &mut Collector,
        descriptor: &Arc<Attachment>,
        format: Format,
        source: Option<usize>,
        job: &Work<Data>,
    ) -> Result<(), Fault> {
        // A file system that is gone may keep even this waiting.
        let kind = job.waiting(|| kind(descriptor))?;
        match format {
            Format::Text => {
                let mut scanner = Scanner::default();
                let take =
                    |block: &[u8]| scanner.push(block, |token, place| collector.token(token, place, source));
                self.blocks(descriptor, kind, job, take)?;
                scanner.finish(|token, place| collector.token(token, place, source))
            }
            Format::F64 => {
                self.collect_raw(collector, descriptor, kind, Raw::floats(), job, |collector, view| {
                    collector.mapped_floats(view, &|| job.checkpoint())
                })
            }
            Format::I64 => {
                self.collect_raw(collector, descriptor, kind, Raw::ints(), job, |collector, view| {
                    collector.mapped_ints(view);
                    Ok(())
                })
            }
            Format::Npy => self.collect_array(collector, descriptor, kind, source, job),
        }
    }

    /// Takes the elements where they are, or else reads them.
    fn collect_array(
        &self,
        collector: &mut Collector,
        descriptor: &Arc<Attachment>,
        kind: Kind,
        source: Option<usize>,
        job: &Work<Data>,
    ) -> Result<(), Fault> {
        let Kind::File { offset, size } = kind else {
            let mut array = Array::new(None, source);
            self.blocks(descriptor, kind, job, |block| array.push(block, collector))?;
            return array.finish();
        };
        let header = job.waiting(|| array::header(descriptor, offset))?;
        let offset = offset + header.data_offset as u64;
        header.fits(size.saturating_sub(offset))?;
        let view = || job.waiting(|| self.maps.view(descriptor, offset));
        match header.element {
            Element::Floats(floats) if floats.in_place() => {
                if let Some(view) = view() {
                    return collector.mapped_floats(view, &|| job.checkpoint());
                }
            }
            Element::Ints(ints) if ints.in_place() => {
                if let Some(view) = view() {
                    collector.mapped_ints(view);
                    return Ok(());
                }
            }
            _ => {}
        }
        collector.reserve(header.values.saturating_mul(size_of::<f64>() as u64))?;
        let mut array = Array::new(Some(header), source);
        self.blocks(descriptor, Kind::File { offset, size }, job, |block| array.push(block, collector))?;
        array.finish()
    }

    /// Takes the values where they are, or else reads them.
    fn collect_raw(
        &self,
        collector: &mut Collector,
        descriptor: &Arc<Attachment>,
        kind: Kind,
        mut raw: Raw,
        job: &Work<Data>,
        mapped: impl FnOnce(&mut Collector, View) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if let Kind::File { offset, size } = kind {
            // To look at all its pages takes some 35 µs for each MiB.
            if let Some(view) = job.waiting(|| self.maps.view(descriptor, offset)) {
                return mapped(collector, view);
            }
            collector.reserve(size.saturating_sub(offset))?;
        }
        self.blocks(descriptor, kind, job, |block| raw.push(block, collector))?;
        raw.finish()
    }

    /// Reads the input to its end, and hands over its blocks.
    fn blocks(
        &self,
        descriptor: &Arc<Attachment>,
        kind: Kind,
        job: &Work<Data>,
        take: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        match kind {
            Kind::File { offset, .. } => read_file(descriptor, offset, job, take),
            Kind::Stream(file_type) => {
                // Before it waits for bytes that it may not take.
                job.waiting(|| self.claims.check(descriptor, file_type).map(drop))?;
                let claim = || self.claims.claim(descriptor, file_type);
                read_stream(descriptor, file_type, self.idle, job, claim, take)
            }
        }
    }
}

fn collect_inline(
    collector: &mut Collector,
    query: &Query,
    checkpoint: impl Fn() -> Result<(), Fault>,
) -> Result<(), Fault> {
    for (index, source) in query.sources.iter().enumerate() {
        if let Source::Numbers(numbers) = source {
            let several = (query.sources.len() > 1).then_some(index);
            collect_numbers(collector, numbers, several, &checkpoint)
                .map_err(|fault| fault.in_source(index as u32))?;
        }
    }
    Ok(())
}

/// The place of a fault is the position in the list.
fn collect_numbers(
    collector: &mut Collector,
    numbers: &Numbers,
    source: Option<usize>,
    checkpoint: impl Fn() -> Result<(), Fault>,
) -> Result<(), Fault> {
    if let Some(index) = numbers.huge() {
        collector.huge(format_args!("position {}", index + 1), source);
    }
    for (index, &number) in numbers.iter().enumerate() {
        if index % INLINE_NUMBERS == 0 {
            checkpoint()?;
        }
        collector.number(number).map_err(|fault| raw::at(fault, index as u64 + 1))?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn claims_last_as_long_as_their_descriptors() {
        let claims = Claims::default();
        let descriptor = || Arc::new(Attachment::from(OwnedFd::from(std::io::pipe().unwrap().0)));
        let kept = descriptor();
        claims.claim(&kept, FileType::Fifo).unwrap();
        for _ in 0..10 {
            let gone = descriptor();
            claims.claim(&gone, FileType::Fifo).unwrap();
            assert!(Arc::into_inner(gone).is_some(), "a claim keeps nothing open");
        }
        assert_eq!(claims.claim(&kept, FileType::Fifo).unwrap_err().kind, FaultKind::InputConsumed);
        assert_eq!(lock(&claims.0).len(), 1);
    }
}
