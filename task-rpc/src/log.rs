//! The worker's log: one line an event, on stderr.
//!
//! JSON, for the host to capture:
//!
//! ```json
//! {"time":"2026-11-21T09:14:02.102314Z","level":"INFO","target":"stats","message":"answered",
//!  "fields":{"method":"median","count":8,"us":41},"trace_id":"00000000000000000000000000000001"}
//! ```
//!
//! (on one line). `level` is one of ERROR, WARN, INFO, DEBUG, TRACE; `fields` is there if it has any, `trace_id`
//! (32 hex digits) where the event belongs to a call. A call's `target` is its service in lower case; other events
//! have `worker`. A worker alone writes the same as plain text if stderr is a terminal.
//!
//! `TASK_LOG` is the level down to which is logged, and the level of the line that an ordinary call gets: `info`
//! or `debug`. Without it the log is at INFO and has no line for an ordinary call: only for one that failed, was slow,
//! or whose client asks for a trace, and a summary of each minute that had calls.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::panic;

use serde_json::{Map, Value};
use task_proto::limits::SUMMARY;
use task_proto::scoreboard::{Scores, Totals};
use tokio::time::{Instant, interval_at};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The level of the line that an ordinary call gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallLevel {
    Info,
    Debug,
}

/// Starts the log, and has panics in it. A second start in one process changes nothing.
pub(crate) fn start(supervised: bool) -> CallLevel {
    let (level, calls) = levels(std::env::var("TASK_LOG").ok().as_deref());
    let format = if !supervised && std::io::stderr().is_terminal() { Format::Text } else { Format::Json };
    let layer = tracing_subscriber::fmt::layer().event_format(format).with_writer(std::io::stderr);
    // tarpc's clients, which a service may have, open spans at INFO for each call, which cost more than the call; their errors
    // are the service's to tell.
    let filter = Targets::new().with_default(level).with_target("tarpc", LevelFilter::OFF);
    if tracing_subscriber::registry().with(layer).with(filter).try_init().is_ok() {
        panic::set_hook(Box::new(|panic| {
            let message = panic.payload_as_str().unwrap_or("no message");
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(log.target = "worker", place, "panicked: {message}");
        }));
    }
    calls
}

/// Writes the summaries, for as long as it is polled.
pub(crate) async fn summaries(scores: &Scores, refused: &Cell<u64>) {
    let mut ticks = interval_at(Instant::now() + SUMMARY, SUMMARY);
    let mut before = scores.totals();
    loop {
        ticks.tick().await;
        let now = scores.totals();
        summarise(&now.since(&before), refused.take());
        before = now;
    }
}

/// `refused`: requests that came to no call.
fn summarise(Totals { calls, failed, latencies }: &Totals, refused: u64) {
    if *calls > 0 || refused > 0 {
        let (p50_us, p99_us) = (latencies.quantile(0.5), latencies.quantile(0.99));
        tracing::info!(
            log.target = "worker",
            calls,
            failed,
            refused,
            p50_us,
            p99_us,
            "calls of the last minute"
        );
    }
}

fn levels(variable: Option<&str>) -> (Level, CallLevel) {
    match variable {
        Some("debug") => (Level::DEBUG, CallLevel::Debug),
        Some("info") => (Level::INFO, CallLevel::Info),
        _ => (Level::INFO, CallLevel::Debug),
    }
}

enum Format {
    Json,
    Text,
}

/// An event's fields, taken apart.
#[derive(Default)]
struct Parts {
    target: Option<Value>,
    message: Option<Value>,
    trace_id: Option<Value>,
    fields: Map<String, Value>,
}

impl Parts {
    fn put(&mut self, field: &Field, value: Value) {
        match field.name() {
            // The name that tracing-log gave to a target known only at run time.
            "log.target" => self.target = Some(value),
            "message" => self.message = Some(value),
            "trace_id" => self.trace_id = Some(value),
            name => drop(self.fields.insert(name.into(), value)),
        }
    }
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let level = event.metadata().level().as_str();
        let target = parts.target.unwrap_or_else(|| event.metadata().target().into());
        let message = parts.message.unwrap_or_default();
        match self {
            Format::Json => {
                let mut line = Map::new();
                line.insert("time".into(), time.into());
                line.insert("level".into(), level.into());
                line.insert("target".into(), target);
                line.insert("message".into(), message);
                if !parts.fields.is_empty() {
                    line.insert("fields".into(), parts.fields.into());
                }
                line.extend(parts.trace_id.map(|trace_id| ("trace_id".into(), trace_id)));
                writeln!(writer, "{}", Value::Object(line))
            }
            Format::Text => {
                let mut line = format!("{time} {level} {} {}", bare(&target), bare(&message));
                let trace_id = parts.trace_id.map(|trace_id| ("trace_id".into(), trace_id));
                for (name, value) in parts.fields.into_iter().chain(trace_id) {
                    write!(line, " {name}={}", bare(&value))?;
                }
                // What a client sent may be in it: nothing of that may steer the terminal.
                for character in line.chars() {
                    if character.is_control() {
                        write!(writer, "{}", character.escape_default())?;
                    } else {
                        writer.write_char(character)?;
                    }
                }
                writeln!(writer)
            }
        }
    }
}

fn bare(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;

    use super::*;

    fn logged(format: Format, event: impl FnOnce()) -> String {
        let mut lines = tempfile::tempfile().unwrap();
        let layer =
            tracing_subscriber::fmt::layer().event_format(format).with_writer(lines.try_clone().unwrap());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), event);
        lines.rewind().unwrap();
        std::io::read_to_string(lines).unwrap()
    }

    fn answered() {
        let trace_id = format_args!("{:032x}", 0xab_u128);
        tracing::info!(log.target = "stats", method = "median", us = 41, %trace_id, "answered");
    }

    #[test]
    fn a_line_is_what_the_host_parses() {
        let line = logged(Format::Json, answered);
        assert_eq!(line.lines().count(), 1);
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["target"], "stats");
        assert_eq!(line["message"], "answered");
        assert_eq!(line["fields"], serde_json::json!({"method": "median", "us": 41}));
        assert_eq!(line["trace_id"], "000000000000000000000000000000ab");
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_minute_with_calls_has_a_summary_and_an_idle_one_none() {
        let board = task_proto::scoreboard::Board::create().unwrap();
        let scores = Scores::map(board.fd()).unwrap();
        let before = scores.totals();
        assert_eq!(logged(Format::Json, || summarise(&scores.totals().since(&before), 0)), "");
        assert!(
            logged(Format::Json, || summarise(&scores.totals().since(&before), 1)).contains("\"refused\":1")
        );
        for failed in [true, false, false] {
            let call = scores.connect().begin("Stats.mean", 1);
            if failed {
                call.progress().fail("no numbers");
            }
            call.answered();
        }
        let line = logged(Format::Json, || summarise(&scores.totals().since(&before), 7));
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["level"], &line["target"]), (&"INFO".into(), &"worker".into()));
        assert_eq!((&line["fields"]["calls"], &line["fields"]["failed"]), (&3.into(), &1.into()));
        assert_eq!(line["fields"]["refused"], 7);
        assert!(line["fields"]["p50_us"].is_u64() && line["fields"]["p99_us"].is_u64(), "{line}");
    }

    #[test]
    fn text_is_one_line_that_cannot_steer_a_terminal() {
        let line = logged(Format::Text, || tracing::warn!(bytes = "\u{1b}[2J\n", "odd"));
        assert!(line.ends_with(" odd bytes=\\u{1b}[2J\\n\n"), "{line:?}");
        assert!(
            logged(Format::Text, answered).contains(" INFO stats answered method=median us=41 trace_id=0000")
        );
    }

    #[test]
    fn a_panic_is_a_line_like_others() {
        // In a process of its own, whose hook and log are nobody else's.
        let test = ["--exact", "log::tests::panics_in_a_process_of_its_own", "--ignored", "--nocapture"];
        let this = std::env::current_exe().unwrap();
        let output = std::process::Command::new(this).args(test).env_remove("TASK_LOG").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let line: Value = serde_json::from_str(said.lines().next().unwrap_or_default()).expect(&said);
        assert_eq!((&line["level"], &line["target"]), (&"ERROR".into(), &"worker".into()), "{said}");
        assert_eq!(line["message"], "panicked: 7 is odd");
        assert!(line["fields"]["place"].as_str().unwrap().contains("log.rs:"), "{said}");
    }

    #[test]
    #[ignore = "fails on purpose; the test above runs it"]
    fn panics_in_a_process_of_its_own() {
        start(true);
        panic!("{} is odd", 7);
    }

    #[test]
    fn the_variable_sets_the_level_of_calls() {
        assert_eq!(levels(None), (Level::INFO, CallLevel::Debug));
        assert_eq!(levels(Some("info")), (Level::INFO, CallLevel::Info));
        assert_eq!(levels(Some("debug")), (Level::DEBUG, CallLevel::Debug));
    }
}
