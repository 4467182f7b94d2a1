//! One record of what happened: the line of the log files, and what the screen shows.
//!
//! Reading is lenient, because files outlive builds: unknown fields are ignored, absent ones have defaults. Only a
//! line without a time is no record.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::str::FromStr;

use jiff::{Timestamp, Unit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// The source of the host's own records.
pub const HOST: &str = "task";

/// One record: a line of JSON in a log file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When the host saw it, in microseconds of UTC.
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub time: Timestamp,
    /// Name of the host's run.
    #[serde(default)]
    pub run: String,
    /// The process it comes from.
    #[serde(default)]
    pub pid: u32,
    /// Its number in the run, from 1, without gaps but where records were dropped.
    #[serde(default)]
    pub seq: u64,
    /// Name of the program it comes from: [`HOST`] for the host itself.
    #[serde(default)]
    pub source: String,
    /// The pipe it came through; none for the host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
    /// How much it matters.
    #[serde(default)]
    pub level: Level,
    /// The part of the program that says it; empty for a raw line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// What is said. Of a raw line, all of it.
    #[serde(default)]
    pub message: String,
    /// Values beside the message.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
    /// The call it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The line goes on in the next record of this pipe.
    #[serde(default, skip_serializing_if = "is_false")]
    pub partial: bool,
    /// The line was no UTF-8: in `message`, `\xNN` stands for a byte that is none and `\\` for a backslash.
    #[serde(default, skip_serializing_if = "is_false")]
    pub escaped: bool,
}

/// The pipe that a worker's line came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

/// How much a record matters, ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Every step.
    Trace,
    /// For those who look for a fault.
    Debug,
    /// The normal course of things.
    #[default]
    Info,
    /// Not as it should be, and the work goes on.
    Warn,
    /// Something failed.
    Error,
}

/// The word is none of the levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a level: use trace, debug, info, warn or error")]
pub struct UnknownLevel;

impl Record {
    /// Reads one line of a log file, with or without its newline.
    pub fn from_line(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }

    /// The record as a line of a log file, with its newline.
    pub fn to_line(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).unwrap_or_default(); // it has nothing that JSON lacks
        let mut line = safe_json(&json).into_owned().into_bytes();
        line.push(b'\n');
        line
    }

    /// The message as the bytes that the worker wrote.
    pub fn message_bytes(&self) -> Cow<'_, [u8]> {
        let message = self.message.as_bytes();
        if !self.escaped {
            return Cow::Borrowed(message);
        }
        let mut bytes = Vec::with_capacity(message.len());
        let mut rest = message;
        while let Some((&first, after)) = rest.split_first() {
            let (byte, used) = match after {
                [b'\\', ..] if first == b'\\' => (b'\\', 2),
                [b'x', high, low, ..] if first == b'\\' => (nibble(*high) << 4 | nibble(*low), 4),
                _ => (first, 1),
            };
            bytes.push(byte);
            rest = &rest[used..];
        }
        Cow::Owned(bytes)
    }
}

/// The text of a raw line, and whether it had to be [escaped](Record::escaped).
pub fn text_of(line: &[u8]) -> (String, bool) {
    if let Ok(text) = std::str::from_utf8(line) {
        return (text.to_owned(), false);
    }
    let mut text = String::with_capacity(line.len() + 16);
    for chunk in line.utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', r"\\"));
        for byte in chunk.invalid() {
            let _ = write!(text, r"\x{byte:02x}"); // a String takes all
        }
    }
    (text, true)
}

/// A line of JSON in which nothing can steer a terminal: what JSON leaves unescaped is escaped the way JSON does.
/// Such characters can stand only within its strings, so it means the same.
pub fn safe_json(json: &str) -> Cow<'_, str> {
    if !may_steer(json) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if steers(c) {
            let _ = write!(safe, "\\u{:04x}", u32::from(c)); // all of them lie in the first plane
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Whether a character acts on a terminal instead of being shown: controls (C0, DEL, C1), line and paragraph
/// separators, and the marks that turn the direction of text around.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}')
}

/// Whether a text may have such characters. Printable ASCII, which almost every line is, has none.
pub fn may_steer(text: &str) -> bool {
    !text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

impl Level {
    /// Its name, as in the log.
    pub fn name(self) -> &'static str {
        match self {
            Level::Trace => "TRACE",
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
        }
    }
}

impl From<tracing::Level> for Level {
    fn from(level: tracing::Level) -> Self {
        match level {
            tracing::Level::TRACE => Level::Trace,
            tracing::Level::DEBUG => Level::Debug,
            tracing::Level::INFO => Level::Info,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::ERROR => Level::Error,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(word: &str) -> Result<Self, UnknownLevel> {
        [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error]
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(word))
            .ok_or(UnknownLevel)
    }
}

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A level that this build does not know counts as INFO.
impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Cow::<str>::deserialize(deserializer)?.parse().unwrap_or_default())
    }
}

fn nibble(digit: u8) -> u8 {
    char::from(digit).to_digit(16).unwrap_or_default() as u8
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde calls")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Now, in whole microseconds: what is written reads back as the same.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    now.round(Unit::Microsecond).unwrap_or(now)
}

fn write_time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    Cow::<str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"time":"2026-11-21T09:14:02.102314Z","run":"9f3c","pid":4121,"seq":7,"source":"task-rpc","stream":"stderr","level":"INFO","target":"stats","message":"answered","fields":{"count":8,"method":"median","us":41},"trace_id":"ab12"}"#;

    #[test]
    fn a_record_is_written_as_documented_and_reads_back() {
        let record = Record::from_line(LINE.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(record.to_line()).unwrap(), format!("{LINE}\n"));
    }

    #[test]
    fn a_whole_second_is_written_with_six_digits() {
        let record = Record::from_line(br#"{"time":"2026-11-21T09:14:02Z"}"#).unwrap();
        assert!(String::from_utf8(record.to_line()).unwrap().contains("09:14:02.000000Z"));
    }

    #[test]
    fn records_of_other_builds_are_read() {
        let line = br#"{"time":"2026-11-21T09:14:02Z","level":"FATAL","colour":{"deep":[1]},"message":"m"}"#;
        let record = Record::from_line(line).unwrap();
        assert_eq!((record.level, record.message.as_str()), (Level::Info, "m"));
        assert!(Record::from_line(br#"{"message":"no time"}"#).is_err());
    }

    #[test]
    fn bytes_that_are_no_utf8_come_back_as_they_were() {
        for line in [&b"a\xff\\x41\\\xc3"[..], b"\\xff", b"plain \\", b"", b"\xf0\x9f\x98"] {
            let (message, escaped) = text_of(line);
            let mut record = Record::from_line(LINE.as_bytes()).unwrap();
            (record.message, record.escaped) = (message, escaped);
            let again = Record::from_line(&record.to_line()).unwrap();
            assert_eq!(again.message_bytes(), line);
        }
    }

    #[test]
    fn a_log_line_cannot_steer_a_terminal() {
        let mut record = Record::from_line(LINE.as_bytes()).unwrap();
        record.message = "\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\u{2028}".into();
        let line = String::from_utf8(record.to_line()).unwrap();
        assert!(!line.trim_end_matches('\n').chars().any(steers), "{line:?}");
        assert_eq!(Record::from_line(line.as_bytes()).unwrap(), record);
    }
}
