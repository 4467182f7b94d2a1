//! One job's way through the sources of its query: each is read, or looked at where it is, by all threads together, and
//! all of them are one sequence.

mod look;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use task_proto::fault::{Fault, FaultKind};
use task_proto::limits::INLINE_NUMBERS;
use task_proto::number::Number;
use task_proto::numbers::Numbers;
use task_proto::stats::{Format, Missing, Query, Source};
use task_proto::text::{BOM, NPY, Place, foreign};
use task_proto::wire::Attachment;

use super::claims::Claims;
use super::cores::cores;
use super::crew::{Crew, beside};
use super::feed::{self, Feed, Kind, Room, kind};
use super::map::Maps;
use super::npy::{Element, Header};
use super::raw::{self, First, Values};
use super::sequence::missing;
use super::team::{Hand, lock};
use super::text::{self, Joined, Parser, Summary};
use super::{Budget, Collector, Engine, Sequence, no_attachment};
use look::{find_middle, look_at_floats, look_at_ints};

/// Bytes of an input that one thread works on before others are worth their start.
const ALONE: u64 = 1024 * 1024;

/// What the threads of a connection know that read its inputs.
#[derive(Debug)]
pub(super) struct Reading {
    idle: Option<Duration>,
    claims: Claims,
    maps: Maps,
}

impl Reading {
    /// `idle` is how long an input may keep its readers waiting for a byte.
    pub(super) fn new(idle: Option<Duration>) -> Self {
        Reading { idle, claims: Claims::default(), maps: Maps::default() }
    }
}

/// A job that reads what its query names.
pub(super) struct Intake<'a> {
    engine: &'a Engine,
    budget: Budget,
    reading: &'a Reading,
    query: &'a Query,
    collector: Collector,
    hand: Hand,
}

impl<'a> Intake<'a> {
    /// Numbers and scratch memory come from this budget.
    pub(super) fn new(
        engine: &'a Engine,
        budget: Budget,
        reading: &'a Reading,
        query: &'a Query,
        hand: Hand,
    ) -> Self {
        let collector = Collector::new(engine.simd, &budget, query.missing);
        Intake { engine, budget, reading, query, collector, hand }
    }

    /// Takes all sources, of which these are the descriptors. `median` says whether a call waits for the median.
    ///
    /// # Errors
    /// Whatever is wrong with the input, with the source and the place.
    pub(super) fn take(
        mut self,
        descriptors: &[Option<Arc<Attachment>>],
        median: &AtomicBool,
    ) -> Result<Sequence, Fault> {
        let sources = &self.query.sources;
        let median = (sources.len() == 1).then_some(median);
        for (index, (source, descriptor)) in sources.iter().zip(descriptors).enumerate() {
            let several = (sources.len() > 1).then_some(index);
            match (source, descriptor) {
                (Source::Attached { format, .. }, Some(descriptor)) => {
                    self.attached(descriptor, *format, several, median)
                }
                (Source::Attached { attached, .. }, None) => Err(no_attachment(*attached)),
                (Source::Numbers(numbers), _) => {
                    let team = self.hand.team();
                    numbers_inline(&mut self.collector, numbers, several, || team.checkpoint())
                }
            }
            .map_err(|fault| fault.in_source(index as u32))?;
        }
        let team = self.hand.team();
        let outcome = self.collector.finish(&|| team.checkpoint());
        // That it is empty is said of all sources.
        let is_of_one = |fault: &Fault| sources.len() == 1 && fault.kind == FaultKind::TooLarge;
        outcome.map_err(|fault| if is_of_one(&fault) { fault.in_source(0) } else { fault })
    }

    fn attached(
        &mut self,
        descriptor: &Arc<Attachment>,
        format: Format,
        source: Option<usize>,
        median: Option<&AtomicBool>,
    ) -> Result<(), Fault> {
        // A file system that is gone may keep even this waiting.
        let kind = self.hand.waiting(|| kind(descriptor))?;
        if let Kind::Stream(file_type) = kind {
            // Before it waits for bytes that it may not take.
            let claims = &self.reading.claims;
            self.hand.waiting(|| claims.check(descriptor, file_type))?;
        }
        match format {
            Format::Text => self.text(descriptor, kind, source),
            Format::F64 => self.raw(descriptor, kind, Element::F64, median),
            Format::I64 => self.raw(descriptor, kind, Element::I64, median),
            Format::Npy => self.npy(descriptor, kind, source, median),
        }
    }

    fn text(&mut self, descriptor: &Arc<Attachment>, kind: Kind, source: Option<usize>) -> Result<(), Fault> {
        let claim = || self.reading.claim(descriptor, kind);
        let feed = Feed::new(descriptor, kind, self.reading.idle, text::cut, claim);
        let joiner = Joiner::default();
        let outcome = together(&mut self.collector, kind, &mut self.hand, |collector, hand, until| {
            let (mut room, mut ints, mut floats) = (Room::default(), Vec::new(), Vec::new());
            while let Some(chunk) = feed.next(hand, &mut room)? {
                hand.team().checkpoint()?;
                let is_first = chunk.index == 0;
                let mark = if is_first && chunk.bytes.starts_with(BOM) { BOM.len() } else { 0 };
                let bytes = &chunk.bytes[mark..];
                if let Some(fault) = foreign(bytes).filter(|_| is_first) {
                    return Err(fault);
                }
                let mut parser = Parser::new(collector.simd(), bytes);
                while parser.next_run(&mut ints, &mut floats) {
                    if let Err(fault) = collector.ints(&ints).and_then(|()| collector.floats(&floats)) {
                        parser.refuse_run(fault);
                    }
                    ints.clear();
                    floats.clear();
                }
                if joiner.push(chunk.index, parser.finish(), collector.policy()) {
                    feed.stop(hand.team());
                }
                if chunk.end() >= until {
                    return Ok(true);
                }
            }
            Ok(false)
        });
        // What is wrong with the text comes before whatever ended its reading.
        let text = joiner.finish();
        if let Some(Place { line, column }) = text.first_missing() {
            self.collector.skip(text.missing()).map_err(|fault| fault.at(line, column))?;
        }
        // A file that was cut may end within a token.
        shrunk(feed.lacks())?;
        if let Some(fault) = text.fault() {
            return Err(fault.clone());
        }
        outcome?;
        if let Some(Place { line, column }) = text.first_huge() {
            self.collector.huge(format_args!("line {line}, column {column}"), source);
        }
        Ok(())
    }

    /// Takes little-endian values where they are, or else reads them.
    fn raw(
        &mut self,
        descriptor: &Arc<Attachment>,
        kind: Kind,
        element: Element,
        median: Option<&AtomicBool>,
    ) -> Result<(), Fault> {
        if let Kind::File { offset, size } = kind {
            let mut start = [0; NPY.len()];
            let read = self.hand.waiting(|| rustix::io::pread(descriptor, &mut start, offset));
            if let (Ok(_), Some(fault)) = (read, raw::foreign(&start)) {
                return Err(fault);
            }
            if self.look(descriptor, offset, element, median)? {
                return Ok(());
            }
            self.reserve(element, size.saturating_sub(offset) / element.width() as u64)?;
        }
        let claim = || self.reading.claim(descriptor, kind);
        let whole = |bytes: &[u8]| bytes.len() - bytes.len() % element.width();
        let feed = Feed::new(descriptor, kind, self.reading.idle, whole, claim);
        let (missing, huge, cut) = (First::default(), First::default(), OnceLock::new());
        let outcome = together(&mut self.collector, kind, &mut self.hand, |collector, hand, until| {
            let (mut room, mut values) = (Room::default(), Values::default());
            while let Some(chunk) = feed.next(hand, &mut room)? {
                hand.team().checkpoint()?;
                if let Some(fault) = raw::foreign(chunk.bytes).filter(|_| chunk.index == 0) {
                    return Err(fault);
                }
                let (elements, rest) = chunk.bytes.split_at(whole(chunk.bytes));
                let before = chunk.before / element.width() as u64;
                let taken = values.take(element, elements, before, collector, &missing, &huge);
                taken.inspect_err(|_| feed.stop(hand.team()))?;
                if missing.get().is_some() && collector.policy() == Missing::Error {
                    feed.stop(hand.team());
                }
                if !rest.is_empty() {
                    let _ = cut.set((chunk.before + elements.len() as u64, rest.len()));
                }
                if chunk.end() >= until {
                    return Ok(true);
                }
            }
            Ok(false)
        });
        self.none_missing(&missing, outcome)?;
        shrunk(feed.lacks())?;
        match cut.into_inner() {
            Some((before, bytes)) => Err(raw::cut_off(element, before, bytes)),
            None => Ok(()),
        }
    }

    /// Takes the elements of an npy file where they are, or else reads them.
    fn npy(
        &mut self,
        descriptor: &Arc<Attachment>,
        kind: Kind,
        source: Option<usize>,
        median: Option<&AtomicBool>,
    ) -> Result<(), Fault> {
        let header = OnceLock::new();
        let mut kind = kind;
        let in_stream = matches!(kind, Kind::Stream(_));
        if let Kind::File { offset, size } = kind {
            let of_file: Header = self.hand.waiting(|| feed::header(descriptor, offset))?;
            let offset = offset + of_file.data_offset as u64;
            of_file.fits(size.saturating_sub(offset))?;
            if self.look(descriptor, offset, of_file.element, median)? {
                return Ok(());
            }
            self.reserve(of_file.element, of_file.values)?;
            kind = Kind::File { offset, size };
            let _ = header.set(Ok(of_file));
        }
        let claim = || self.reading.claim(descriptor, kind);
        // Of the first chunk of a stream the header is a part.
        let whole = |bytes: &[u8]| {
            let known = header.get().is_some();
            if !known {
                match Header::parse(bytes) {
                    Ok(None) => return 0,
                    Ok(Some(found)) => drop(header.set(Ok(found))),
                    Err(fault) => drop(header.set(Err(fault))),
                }
            }
            match header.get() {
                Some(Ok(header)) => {
                    let first = if known { 0 } else { header.data_offset };
                    bytes.len() - (bytes.len() - first) % header.element.width()
                }
                _ => bytes.len(),
            }
        };
        let feed = Feed::new(descriptor, kind, self.reading.idle, whole, claim);
        let (missing, huge, total) = (First::default(), First::default(), AtomicU64::new(0));
        let outcome = together(&mut self.collector, kind, &mut self.hand, |collector, hand, until| {
            let (mut room, mut values) = (Room::default(), Values::default());
            while let Some(chunk) = feed.next(hand, &mut room)? {
                hand.team().checkpoint()?;
                let Some(Ok(header)) = header.get() else {
                    // What there is of a header is all there is.
                    let cut_off = || Err(Header::cut_off(chunk.bytes));
                    return header.get().cloned().unwrap_or_else(cut_off).map(|_| false);
                };
                if chunk.index == 0
                    && let Some(least) = header.element.least()
                {
                    collector.expect_from(least);
                }
                let ahead = if in_stream { header.data_offset as u64 } else { 0 };
                let skipped = ahead.saturating_sub(chunk.before) as usize;
                let bytes = &chunk.bytes[skipped..];
                let before = (chunk.before + skipped as u64 - ahead) / header.element.width() as u64;
                let end = before * header.element.width() as u64 + bytes.len() as u64;
                total.fetch_max(end, Relaxed);
                let mut length = bytes.len() - bytes.len() % header.element.width();
                if end > header.bytes() {
                    feed.stop(hand.team());
                    length = length.saturating_sub((end - header.bytes()) as usize);
                }
                let elements = &bytes[..length];
                let taken = values.take(header.element, elements, before, collector, &missing, &huge);
                taken.inspect_err(|_| feed.stop(hand.team()))?;
                if missing.get().is_some() && collector.policy() == Missing::Error {
                    feed.stop(hand.team());
                }
                if chunk.end() >= until {
                    return Ok(true);
                }
            }
            Ok(false)
        });
        let lacks = feed.lacks();
        drop(feed);
        self.none_missing(&missing, outcome)?;
        let header = header.into_inner().unwrap_or_else(|| Err(Header::cut_off(&[])))?;
        if total.load(Relaxed) > header.bytes() {
            return Err(header.exceeded());
        }
        if in_stream {
            header.fits(total.load(Relaxed))?;
        }
        if let Some(position) = huge.get() {
            self.collector.huge(format_args!("position {position}"), source);
        }
        shrunk(lacks)
    }

    /// Takes the memory for so many values before any of them is read. Short integers take none: they are counted.
    fn reserve(&mut self, element: Element, values: u64) -> Result<(), Fault> {
        match element {
            Element::Ints(_) if element.least().is_some() => Ok(()),
            _ => self.collector.reserve(values * size_of::<f64>() as u64),
        }
    }

    /// # Errors
    /// What ended the reading; `MissingValue` at the first place, if that comes before and values may not be missing.
    fn none_missing(&self, first: &First, outcome: Result<(), Fault>) -> Result<(), Fault> {
        let ended_before = |position| {
            let ended = outcome.as_ref().err();
            // Where it was cancelled, what comes before may never have been looked at.
            ended.is_some_and(|end| {
                end.kind == FaultKind::Cancelled || end.column.is_some_and(|end| end < position)
            })
        };
        match first.get() {
            Some(position) if self.collector.policy() == Missing::Error && !ended_before(position) => {
                Err(raw::at(missing(), position))
            }
            _ => outcome,
        }
    }

    /// Looks at all values from this offset on and leaves them where they are, if they can be used there: else they are to
    /// be read.
    fn look(
        &mut self,
        descriptor: &Arc<Attachment>,
        offset: u64,
        element: Element,
        median: Option<&AtomicBool>,
    ) -> Result<bool, Fault> {
        let (engine, budget, collector) = (self.engine, &self.budget, &mut self.collector);
        let (maps, team) = (&self.reading.maps, Arc::clone(self.hand.team()));
        self.hand.waiting(|| {
            let Some(view) = element.in_place().then(|| maps.view(descriptor, offset)).flatten() else {
                return Ok(false);
            };
            let crew = Crew::of(Hand::new(&team));
            match element {
                Element::Ints(_) => look_at_ints(collector, view, &crew),
                Element::Floats(_) if median.is_some_and(|median| median.load(Relaxed)) => {
                    find_middle(collector, view, engine, budget.optional_lease(), &crew)
                }
                Element::Floats(_) => look_at_floats(collector, view, &crew),
            }
        })
    }
}

/// Works on chunks of an input: at first on this thread alone, and on others beside it once the input is known to be
/// long. `work` goes on to the end of the chunk with this byte, and says whether there may be more.
fn together(
    collector: &mut Collector,
    kind: Kind,
    hand: &mut Hand,
    work: impl Fn(&mut Collector, &mut Hand, u64) -> Result<bool, Fault> + Sync,
) -> Result<(), Fault> {
    if !work(collector, hand, ALONE)? {
        return Ok(());
    }
    let others = match kind {
        Kind::File { .. } => cores() - 1,
        // While one waits for input, or copies it, the others have all processors.
        Kind::Stream(_) => cores(),
    };
    // A thread that begins has a table for what is counted, or is none.
    let tables = collector.tables(others);
    let (another, free) = (collector.beside(), AtomicUsize::new(tables.unwrap_or(0)));
    let state = || {
        let is_free = free.try_update(Relaxed, Relaxed, |free| free.checked_sub(1)).is_ok();
        if is_free { another.counting() } else { another.beside() }
    };
    let all = |collector: &mut Collector, hand: &mut Hand| work(collector, hand, u64::MAX).map(drop);
    for other in beside(hand, tables.unwrap_or(others), collector, state, all)? {
        collector.absorb(other);
    }
    collector.give_back_tables(free.into_inner());
    Ok(())
}

impl Reading {
    /// Before the first byte is taken of what cannot be read again.
    fn claim(&self, descriptor: &Arc<Attachment>, kind: Kind) -> Result<(), Fault> {
        match kind {
            Kind::File { .. } => Ok(()),
            Kind::Stream(file_type) => self.claims.claim(descriptor, file_type),
        }
    }
}

/// The summaries of a text's chunks, which come in any order, joined in theirs.
#[derive(Default)]
struct Joiner(Mutex<(BTreeMap<usize, Summary>, usize, Joined)>);

impl Joiner {
    /// Takes one; true if what follows need not be read.
    fn push(&self, index: usize, summary: Summary, policy: Missing) -> bool {
        let (waiting, next, joined) = &mut *lock(&self.0);
        waiting.insert(index, summary);
        while let Some(summary) = waiting.remove(&*next) {
            joined.push(&summary);
            *next += 1;
        }
        joined.fault().is_some() || (policy == Missing::Error && joined.first_missing().is_some())
    }

    fn finish(self) -> Joined {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).2
    }
}

/// What is known of a file when its reading begins is reserved, shown and counted on: less is no answer.
fn shrunk(lacks: u64) -> Result<(), Fault> {
    match lacks {
        0 => Ok(()),
        bytes => Err(Fault::new(
            FaultKind::Unreadable,
            format!(
                "the file became shorter while it was read: {bytes} bytes were no longer there; read it again"
            ),
        )),
    }
}

/// Takes the numbers of the query itself.
pub(super) fn inline(
    collector: &mut Collector,
    query: &Query,
    checkpoint: impl Fn() -> Result<(), Fault>,
) -> Result<(), Fault> {
    for (index, source) in query.sources.iter().enumerate() {
        if let Source::Numbers(numbers) = source {
            let several = (query.sources.len() > 1).then_some(index);
            numbers_inline(collector, numbers, several, &checkpoint)
                .map_err(|fault| fault.in_source(index as u32))?;
        }
    }
    Ok(())
}

/// The place of a fault is the position in the list.
fn numbers_inline(
    collector: &mut Collector,
    numbers: &Numbers,
    source: Option<usize>,
    checkpoint: impl Fn() -> Result<(), Fault>,
) -> Result<(), Fault> {
    if let Some(index) = numbers.huge() {
        collector.huge(format_args!("position {}", index + 1), source);
    }
    let (mut ints, mut floats) = (Vec::new(), Vec::new());
    for (index, numbers) in numbers.chunks(INLINE_NUMBERS).enumerate() {
        checkpoint()?;
        ints.clear();
        floats.clear();
        for (within, &number) in numbers.iter().enumerate() {
            match number {
                Number::Int(int) => ints.push(int),
                Number::Float(float) if float.is_nan() => {
                    let position = index * INLINE_NUMBERS + within + 1;
                    collector.skip(1).map_err(|fault| raw::at(fault, position as u64))?;
                }
                Number::Float(float) => floats.push(float),
            }
        }
        let taken = collector.ints(&ints).and_then(|()| collector.floats(&floats));
        taken.map_err(|fault| raw::at(fault, (index * INLINE_NUMBERS + 1) as u64))?;
    }
    Ok(())
}
