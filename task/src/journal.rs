//! The journal of one run: everything that the host and its workers say goes through it, gets its time and number,
//! is shown, and is kept for the log: until the run's end, or for a [`Writer`] that writes it as it comes.
//!
//! It is bounded: the oldest records are dropped and counted, and a record says so in their place. The host's own
//! are kept apart from the workers', so a worker that floods cannot drown the story of its own end.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Number, Value};
use task_proto::limits::{JOURNAL_HOST, JOURNAL_WORKERS};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::record::{self, HOST, Level, Record, Stream};
use crate::screen::Screen;

mod writer;
pub use writer::Writer;

/// What a kept line costs beside its bytes: its place in the queue and the allocator's share.
const OVERHEAD: usize = 48;

/// The journal of one run of the host. Clones are the same journal.
#[derive(Debug, Clone)]
pub struct Journal {
    run: Arc<str>,
    book: Arc<Book>,
}

#[derive(Debug)]
struct Book {
    pages: Mutex<Pages>,
    /// For the writer: there is something to write, or an end.
    news: Condvar,
}

#[derive(Debug)]
struct Pages {
    seq: u64,
    screen: Screen,
    host: Kept,
    workers: Kept,
    /// The writer waits for records: to wake one that does not would cost a system call a record.
    awaited: bool,
    /// The writer is to write what there is, and end.
    ending: bool,
}

/// What a program says, before the journal gives it time, run and number.
#[derive(Debug, Default)]
pub struct Entry {
    /// The process it comes from.
    pub pid: u32,
    /// Name of the program.
    pub source: String,
    /// The pipe of a worker; none for the host.
    pub stream: Option<Stream>,
    /// How much it matters.
    pub level: Level,
    /// The part of the program that says it.
    pub target: String,
    /// What is said.
    pub message: String,
    /// Values beside the message.
    pub fields: Map<String, Value>,
    /// The call it belongs to.
    pub trace_id: Option<String>,
    /// The line goes on in the next entry.
    pub partial: bool,
    /// The message stands for bytes that are no UTF-8.
    pub escaped: bool,
}

impl Journal {
    /// The journal of the run of this name, shown on `screen`.
    pub fn new(run: &str, screen: Screen) -> Self {
        let (host, workers) = (Kept::new(JOURNAL_HOST), Kept::new(JOURNAL_WORKERS));
        let pages = Mutex::new(Pages { seq: 0, screen, host, workers, awaited: false, ending: false });
        Journal { run: run.into(), book: Arc::new(Book { pages, news: Condvar::new() }) }
    }

    /// Name of the run.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// A layer for `tracing` through which the host's own events come here.
    pub fn layer(&self) -> JournalLayer {
        JournalLayer { journal: self.clone(), pid: std::process::id() }
    }

    /// Shows nothing more on the screen, where what ends the run has the last word.
    pub fn leave_screen(&self) {
        self.pages().screen.leave();
    }

    /// Shows a line on the screen that passes: see [`Screen::pass`].
    pub fn pass(&self, line: Option<&str>) {
        self.pages().screen.pass(line);
    }

    /// Takes in what a program says.
    pub fn push(&self, entry: Entry) {
        let mut pages = self.pages();
        pages.seq += 1;
        // The time is taken under the lock, so that order and time agree.
        let record = entry.into_record(record::now(), &self.run, pages.seq);
        pages.screen.show(&record);
        let line = record.to_line().into_boxed_slice();
        let kept = if record.stream.is_some() { &mut pages.workers } else { &mut pages.host };
        kept.push(Line { seq: record.seq, time: record.time, json: line });
        if std::mem::take(&mut pages.awaited) {
            self.book.news.notify_one();
        }
    }

    /// Takes out everything kept, as lines for the log in order.
    pub fn take(&self) -> Vec<u8> {
        self.take_from(self.pages())
    }

    /// The same, with the number of records that were dropped in place of the records that say so.
    fn take_and_count(&self) -> (Vec<u8>, u64) {
        let mut pages = self.pages();
        let dropped = pages.host.forget_dropped() + pages.workers.forget_dropped();
        (self.take_from(pages), dropped)
    }

    fn take_from(&self, mut pages: MutexGuard<'_, Pages>) -> Vec<u8> {
        let mut lines = pages.host.take("the host", &self.run);
        lines.extend(pages.workers.take("workers", &self.run));
        drop(pages);
        lines.sort_by_key(|line| line.seq);
        lines.iter().map(|line| &*line.json).collect::<Vec<_>>().concat()
    }

    /// Waits until there are records or an end; whether it is the end.
    fn await_records(&self) -> bool {
        let none = |pages: &mut Pages| !pages.ending && pages.host.is_empty() && pages.workers.is_empty();
        let mut pages = self.pages();
        while none(&mut pages) {
            pages.awaited = true;
            pages = self.book.news.wait(pages).unwrap_or_else(PoisonError::into_inner);
        }
        pages.ending
    }

    /// Waits for an end, but no longer than this; whether it came.
    fn await_end(&self, limit: Duration) -> bool {
        let waited = self.book.news.wait_timeout_while(self.pages(), limit, |pages| !pages.ending);
        waited.unwrap_or_else(PoisonError::into_inner).0.ending
    }

    fn end(&self) {
        self.pages().ending = true;
        self.book.news.notify_one();
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.book.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn into_record(self, time: Timestamp, run: &str, seq: u64) -> Record {
        let Entry { pid, source, stream, level, target, message, fields, trace_id, partial, escaped } = self;
        let run = run.to_owned();
        Record {
            time,
            run,
            pid,
            seq,
            source,
            stream,
            level,
            target,
            message,
            fields,
            trace_id,
            partial,
            escaped,
        }
    }
}

/// Lines kept within a bound.
#[derive(Debug)]
struct Kept {
    lines: VecDeque<Line>,
    bytes: usize,
    limit: usize,
    dropped: u64,
    /// Number and time of the last one dropped.
    last_dropped: Option<(u64, Timestamp)>,
}

#[derive(Debug)]
struct Line {
    seq: u64,
    time: Timestamp,
    json: Box<[u8]>,
}

impl Kept {
    fn new(limit: usize) -> Self {
        Kept { lines: VecDeque::new(), bytes: 0, limit, dropped: 0, last_dropped: None }
    }

    fn push(&mut self, line: Line) {
        self.bytes += line.json.len() + OVERHEAD;
        self.lines.push_back(line);
        while self.bytes > self.limit
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.json.len() + OVERHEAD;
            self.dropped += 1;
            self.last_dropped = Some((oldest.seq, oldest.time));
        }
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0
    }

    fn forget_dropped(&mut self) -> u64 {
        self.last_dropped = None;
        std::mem::take(&mut self.dropped)
    }

    fn take(&mut self, whose: &str, run: &str) -> Vec<Line> {
        let Kept { lines, dropped, last_dropped, .. } = std::mem::replace(self, Kept::new(self.limit));
        let gap = last_dropped.map(|(seq, time)| {
            let entry = Entry {
                pid: std::process::id(),
                source: HOST.to_owned(),
                level: Level::Warn,
                target: module_path!().to_owned(),
                message: format!("dropped {dropped} records of {whose}: more came than the journal keeps"),
                fields: Map::from_iter([("dropped".to_owned(), dropped.into())]),
                ..Entry::default()
            };
            let json = entry.into_record(time, run, seq).to_line().into_boxed_slice();
            Line { seq, time, json }
        });
        gap.into_iter().chain(lines).collect()
    }
}

/// The way of the host's `tracing` events into its [`Journal`]: DEBUG and above, none of tarpc's own (what ends a
/// call or a connection is told by who made it), spans not at all (tarpc's client opens one a call).
#[derive(Debug)]
pub struct JournalLayer {
    journal: Journal,
    pid: u32,
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if wanted(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        wanted(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry {
            pid: self.pid,
            source: HOST.to_owned(),
            level: (*event.metadata().level()).into(),
            target: event.metadata().target().to_owned(),
            ..Entry::default()
        };
        event.record(&mut entry);
        self.journal.push(entry);
    }
}

fn wanted(metadata: &Metadata<'_>) -> bool {
    metadata.is_event()
        && *metadata.level() <= tracing::Level::DEBUG
        && !metadata.target().starts_with("tarpc")
}

impl Entry {
    fn set(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(message)) => self.message = message,
            ("trace_id", Value::String(trace)) => self.trace_id = Some(trace),
            (name, value) => {
                self.fields.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for Entry {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no other floats than finite ones; the rest are text.
        self.set(field, Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    /// A journal that is shown nowhere.
    pub(crate) fn silent() -> Journal {
        Journal::new("9f3c0000", Screen::on(None, Level::Error, false))
    }

    /// What it keeps, read back.
    pub(crate) fn records(journal: &Journal) -> Vec<Record> {
        journal.take().split_inclusive(|&b| b == b'\n').map(|line| Record::from_line(line).unwrap()).collect()
    }

    fn worker_line(message: String) -> Entry {
        Entry { stream: Some(Stream::Stderr), source: "task-rpc".into(), message, ..Entry::default() }
    }

    #[test]
    fn the_hosts_events_become_records_with_typed_fields() {
        let journal = silent();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal.layer()), || {
            let path = std::path::Path::new("/x y");
            tracing::info!(pid = 4121_u32, ratio = f64::NAN, ok = true, path = %path.display(), trace_id = "ab12", "spawned {}", "task-rpc");
            tracing::info_span!("a span").in_scope(|| tracing::warn!("second"));
            tracing::error!(target: "tarpc::client", "chatter");
            tracing::trace!("too fine");
        });
        let records = records(&journal);
        assert_eq!(
            records.iter().map(|r| r.message.as_str()).collect::<Vec<_>>(),
            ["spawned task-rpc", "second"]
        );
        assert_eq!(records.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 2]);
        let first = &records[0];
        assert_eq!(
            Value::Object(first.fields.clone()),
            serde_json::json!({"pid": 4121, "ratio": "NaN", "ok": true, "path": "/x y"})
        );
        assert_eq!(
            (first.source.as_str(), first.run.as_str(), first.pid),
            ("task", "9f3c0000", std::process::id())
        );
        assert_eq!((first.trace_id.as_deref(), first.stream, first.level), (Some("ab12"), None, Level::Info));
    }

    #[test]
    fn a_worker_that_floods_is_dropped_and_counted_but_the_hosts_story_stays() {
        let journal = silent();
        journal.push(Entry { source: HOST.into(), message: "spawned".into(), ..Entry::default() });
        for n in 0..500 {
            journal.push(worker_line(format!("{n} {}", "x".repeat(16_000))));
        }
        journal.push(Entry { source: HOST.into(), message: "exited".into(), ..Entry::default() });
        let bytes = journal.pages().workers.bytes;
        assert!(bytes <= JOURNAL_WORKERS, "{bytes} bytes kept");
        let records = records(&journal);
        assert_eq!(records[0].message, "spawned");
        assert_eq!(records.last().unwrap().message, "exited");
        let kept = records.iter().filter(|r| r.stream.is_some()).count() as u64;
        let dropped = records[1].fields["dropped"].as_u64().unwrap();
        assert!(records[1].message.starts_with(&format!("dropped {dropped} records of workers")));
        assert_eq!(kept + dropped, 500);
        assert!(records.windows(2).all(|pair| pair[0].seq < pair[1].seq && pair[0].time <= pair[1].time));
        assert!(journal.take().is_empty(), "what was taken is gone");
    }
}
