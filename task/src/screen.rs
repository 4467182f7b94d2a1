//! Shows records on standard error, as people read them.
//!
//! A terminal that is stopped or a pipe that nobody reads must not stop the host: what cannot be written within
//! [`SCREEN`] is left out, counted, and the count shown once there is room again. The log keeps all of it.

use std::fmt::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use jiff::tz::TimeZone;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::{Map, Value};
use task_proto::limits::SCREEN;

use crate::record::{Level, Record, may_steer, steers};

/// The largest write that a pipe with room takes without blocking (`PIPE_BUF`).
const CHUNK: usize = 4096;
/// To the beginning of the line, and nothing on it (ECMA-48: EL).
const ERASE: &str = "\r\x1b[K";

/// What shows records to the person at the terminal.
#[derive(Debug)]
pub struct Screen {
    /// `None` where standard error is closed.
    output: Option<OwnedFd>,
    minimum: Level,
    /// Single calls are shown too.
    calls: bool,
    style: Style,
    /// Records left out since the output stalled.
    unseen: u64,
    /// The output ended within a line when it stalled.
    torn: bool,
    /// A passing line is on it.
    passing: bool,
}

/// How a record looks as text.
#[derive(Debug, Default)]
pub struct Style {
    /// With colours.
    pub color: bool,
    /// With the date before the time, and the run after it: for records of more than one run.
    pub dated: bool,
    /// The local time zone, once it is needed: finding it reads files.
    zone: Option<TimeZone>,
}

impl Screen {
    /// Shows records from `minimum` up on standard error, with colours or without.
    pub fn new(minimum: Level, color: bool) -> Self {
        let output = std::io::stderr().as_fd().try_clone_to_owned().ok();
        Screen::on(output, minimum, color)
    }

    /// Shows them on another output, or nowhere.
    pub fn on(output: Option<OwnedFd>, minimum: Level, color: bool) -> Self {
        Screen {
            output,
            minimum,
            calls: true,
            style: Style::new(color, false),
            unseen: 0,
            torn: false,
            passing: false,
        }
    }

    /// Leaves out what belongs to a single call: whoever makes it tells what comes of it. The story of the service remains.
    #[must_use]
    pub fn without_calls(self) -> Self {
        Screen { calls: false, ..self }
    }

    /// Shows nothing more.
    pub fn leave(&mut self) {
        self.output = None;
    }

    /// Shows the record, if it matters enough.
    pub fn show(&mut self, record: &Record) {
        let left_out = !self.calls && record.trace_id.is_some();
        if left_out || record.level < self.minimum || self.output.is_none() {
            return;
        }
        let mut text = String::new();
        if std::mem::take(&mut self.passing) {
            text.push_str(ERASE);
        }
        if self.torn {
            text.push('\n');
        }
        if self.unseen > 0 {
            let _ = writeln!(text, "… {} records not shown: this output was not read", self.unseen);
        }
        self.style.write(&mut text, record);
        self.write(text.as_bytes());
    }

    /// Shows a line that stays until something else is shown, this again or nothing (`None`): for a terminal, which
    /// knows how to erase a line, and is wide enough for it. It is left out where it would have to be waited for.
    pub fn pass(&mut self, line: Option<&str>) {
        let Some(output) = self.output.as_ref().filter(|_| self.passing || line.is_some()) else { return };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut [PollFd::new(output, PollFlags::OUT)], Some(&now)) == Ok(1) {
            let text = format!("{ERASE}{}", line.unwrap_or_default());
            self.passing = line.is_some();
            // What is lost of it comes again, or would have gone.
            let _ = rustix::io::write(output, &text.as_bytes()[..text.len().min(CHUNK)]);
        }
    }

    fn write(&mut self, text: &[u8]) {
        let Some(output) = &self.output else { return };
        // Once stalled, look but do not wait: the host has other things to do.
        let mut wait = if self.unseen == 0 { SCREEN } else { Duration::ZERO };
        let mut left = text;
        while !left.is_empty() {
            let mut ready = [PollFd::new(output, PollFlags::OUT)];
            let timeout = Timespec::try_from(wait).unwrap_or_default();
            match poll(&mut ready, Some(&timeout)) {
                Ok(0) => break,
                Err(Errno::INTR) => continue,
                _ => {}
            }
            match rustix::io::write(output, &left[..left.len().min(CHUNK)]) {
                Ok(written) => left = &left[written..],
                Err(Errno::INTR) => {}
                // Somebody made it non-blocking, and took the room.
                Err(Errno::AGAIN) if !wait.is_zero() => wait = Duration::ZERO,
                Err(_) => break,
            }
        }
        if left.is_empty() {
            (self.unseen, self.torn) = (0, false);
        } else {
            self.unseen += 1;
            self.torn = if left.len() == text.len() { self.torn } else { true };
        }
    }
}

impl Style {
    /// A style for coloured or plain text, for a run at hand or with date and run.
    pub fn new(color: bool, dated: bool) -> Self {
        Style { color, dated, zone: None }
    }

    /// Appends the record as one line: `09:14:02.101 INFO task      spawned task-rpc pid=4121`.
    pub fn write(&mut self, text: &mut String, record: &Record) {
        let zone = self.zone.get_or_insert_with(TimeZone::system);
        let time = record.time.to_zoned(zone.clone());
        let format = if self.dated { "%Y-%m-%d %H:%M:%S.%3f" } else { "%H:%M:%S.%3f" };
        let (dim, tint, plain) = match (self.color, record.level) {
            (false, _) => ("", "", ""),
            (true, Level::Error) => ("\x1b[2m", "\x1b[31m", "\x1b[0m"),
            (true, Level::Warn) => ("\x1b[2m", "\x1b[33m", "\x1b[0m"),
            (true, Level::Info) => ("\x1b[2m", "\x1b[32m", "\x1b[0m"),
            (true, _) => ("\x1b[2m", "\x1b[34m", "\x1b[0m"),
        };
        let level = record.level.name();
        // Messages stand in one column, whether a level has four letters or five.
        let width = 13 - level.len();
        let _ = write!(
            text,
            "{dim}{}{}{plain} {tint}{level}{plain} {:<width$} {}",
            time.strftime(format),
            if self.dated { format!(" {}", Escaped(&record.run)) } else { String::new() },
            Escaped(&record.source).to_string(),
            said(&record.message, &record.fields)
        );
        if let Some(trace) = &record.trace_id {
            let _ = write!(text, " trace_id={}", Escaped(trace));
        }
        text.push_str(if record.partial { " …\n" } else { "\n" });
    }
}

/// A message with its fields, as `spawned task-rpc pid=4121`, in which nothing can steer a terminal.
pub fn said(message: &str, fields: &Map<String, Value>) -> String {
    let mut text = Escaped(message).to_string();
    for (key, value) in fields {
        let _ = write!(text, " {}={}", Escaped(key), Shown(value));
    }
    text
}

/// Text in which nothing can steer a terminal: such characters are shown as Rust writes them, `\n` or `\u{1b}`.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !may_steer(self.0) {
            return f.write_str(self.0);
        }
        for c in self.0.chars() {
            if steers(c) { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

/// The value of a field: bare where that is unmistakable, else in quotes.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |text: &str| !text.is_empty() && !text.contains([' ', '"', '=']);
        match self.0 {
            Value::String(text) if bare(text) => Escaped(text).fmt(f),
            other => Escaped(&other.to_string()).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn record(json: &str) -> Record {
        Record::from_line(json.as_bytes()).unwrap()
    }

    fn shown(json: &str) -> String {
        let mut text = String::new();
        let mut style = Style { zone: Some(TimeZone::UTC), ..Style::default() };
        style.write(&mut text, &record(json));
        text
    }

    #[test]
    fn records_look_as_in_the_manual() {
        let task = r#"{"time":"2026-11-21T09:14:02.101314Z","source":"task","message":"spawned task-rpc","fields":{"pid":4121,"generation":1}}"#;
        assert_eq!(shown(task), "09:14:02.101 INFO task      spawned task-rpc pid=4121 generation=1\n");
        let worker =
            r#"{"time":"2026-11-21T09:14:09.441Z","source":"task-rpc","level":"ERROR","message":"drained"}"#;
        assert_eq!(shown(worker), "09:14:09.441 ERROR task-rpc drained\n");
    }

    #[test]
    fn fields_with_spaces_are_quoted_and_nothing_steers_the_terminal() {
        let line = r#"{"time":"2026-11-21T09:14:02Z","source":"x\u001b","message":"a\nb\u001b[2J\u009b","fields":{"k\r":"v w","e":"","u":"\u202e"},"partial":true}"#;
        let text = shown(line);
        assert!(text.contains(r#"a\nb\u{1b}[2J\u{9b} k\r="v w" e="" u=\u{202e} …"#), "{text}");
        assert!(!text.trim_end_matches('\n').chars().any(steers), "{text:?}");
    }

    #[test]
    fn colour_only_where_it_was_asked_for() {
        let (mut read, write) = std::io::pipe().unwrap();
        let line = record(r#"{"time":"2026-11-21T09:14:02Z","source":"task","message":"m"}"#);
        for color in [true, false] {
            Screen::on(Some(write.try_clone().unwrap().into()), Level::Info, color).show(&line);
            let mut text = [0; 256];
            let length = read.read(&mut text).unwrap();
            assert_eq!(text[..length].contains(&0x1b), color);
        }
    }

    #[test]
    fn only_what_matters_is_shown() {
        let (mut read, write) = std::io::pipe().unwrap();
        let mut screen = Screen::on(Some(write.into()), Level::Warn, false);
        for level in ["INFO", "WARN", "DEBUG", "ERROR"] {
            screen.show(&record(&format!(
                r#"{{"time":"2026-11-21T09:14:02Z","level":"{level}","message":"said {level}"}}"#
            )));
        }
        drop(screen);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        let said: Vec<_> = text.lines().filter_map(|line| line.split("said ").nth(1)).collect();
        assert_eq!(said, ["WARN", "ERROR"]);
    }

    #[test]
    fn a_passing_line_is_gone_before_anything_else_is_shown() {
        let (mut read, write) = std::io::pipe().unwrap();
        let mut screen = Screen::on(Some(write.into()), Level::Info, false);
        screen.pass(None);
        screen.pass(Some("one"));
        screen.pass(Some("two"));
        screen.show(&record(r#"{"time":"2026-11-21T09:14:02Z","message":"said"}"#));
        screen.pass(None);
        screen.pass(Some("three"));
        screen.pass(None);
        screen.leave();
        screen.pass(Some("four"));
        drop(screen);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        let text = text.replace(ERASE, "^").replace(|c: char| c.is_ascii_digit(), "");
        assert_eq!(text, "^one^two^::. INFO           said\n^three^");
    }

    #[test]
    fn an_output_that_nobody_reads_stops_nothing_and_the_gap_is_told() {
        let (mut read, write) = std::io::pipe().unwrap();
        let mut screen = Screen::on(Some(write.into()), Level::Info, false);
        let line =
            record(&format!(r#"{{"time":"2026-11-21T09:14:02Z","message":"{}"}}"#, "x".repeat(10_000)));
        for _ in 0..100 {
            screen.show(&line); // 1 MB into a pipe of 64 KiB
        }
        assert!(screen.unseen > 50);
        let unseen = screen.unseen;
        let mut drained = vec![0; 1 << 20];
        let _ = read.read(&mut drained).unwrap();
        screen.show(&record(r#"{"time":"2026-11-21T09:14:02Z","message":"after"}"#));
        drop(screen);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert!(text.contains(&format!("\n… {unseen} records not shown")), "{text}");
        assert!(text.trim_end().ends_with("after"));
    }
}
