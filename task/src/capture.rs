//! Reads what a worker writes to standard output and standard error, so that it never blocks, and turns it into
//! entries of the [`Journal`].
//!
//! A line of JSON, as `task_worker` or `tracing-subscriber` writes it, gives level, target, message, fields and trace
//! id; everything else (time, run, process, number, source, pipe) is set here, so a worker cannot speak for others.
//! Any other line is kept as it is: INFO from standard output, WARN from standard error, where a program that does
//! not log writes what went wrong.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Map, Value};
use task_proto::limits::{LOG_LINE, PIPE_TAIL, STDERR_TAIL, STDERR_TAIL_LINES};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::journal::{Entry, Journal};
use crate::record::{Level, Stream, text_of};
use crate::screen::said;

/// Bytes taken from a pipe at once: all that a pipe holds by default.
const CHUNK: usize = 64 * 1024;

/// The two pipes of one worker while they are read. Dropped, it stops reading.
#[derive(Debug)]
pub struct Capture {
    readers: [JoinHandle<()>; 2],
    /// The readers stop when it goes.
    stop: watch::Sender<()>,
    tail: Arc<Mutex<Tail>>,
}

/// What is left of a worker's output when it has exited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// The last lines of its standard error, oldest first, fit to be shown: at most [`STDERR_TAIL_LINES`], in at most
    /// [`STDERR_TAIL`] bytes.
    pub tail: Vec<String>,
    /// Whether both pipes ended. If not, somebody whom the worker started still holds one.
    pub closed: bool,
}

impl Capture {
    /// Begins to read the pipes of process `pid` of the program `source`, on the current tokio runtime.
    pub fn start(stdout: Receiver, stderr: Receiver, source: &str, pid: u32, journal: &Journal) -> Self {
        let (stop, stopped) = watch::channel(());
        let tail = Arc::new(Mutex::new(Tail::default()));
        let read = |pipe, stream| {
            let voice = Voice {
                pid,
                source: source.to_owned(),
                stream,
                journal: journal.clone(),
                tail: tail.clone(),
            };
            tokio::spawn(read(pipe, voice, stopped.clone()))
        };
        let readers = [read(stdout, Stream::Stdout), read(stderr, Stream::Stderr)];
        Capture { readers, stop, tail }
    }

    /// Once the worker has exited: reads what is left in its pipes, but for no longer than [`PIPE_TAIL`], because a
    /// grandchild may hold them.
    pub async fn finish(self) -> Captured {
        let Capture { readers, stop, tail } = self;
        let [mut stdout, mut stderr] = readers;
        // A reader fails only by a panic, and then there is nothing left to wait for.
        let closed =
            timeout(PIPE_TAIL, async { (&mut stdout).await.is_ok() & (&mut stderr).await.is_ok() }).await;
        drop(stop);
        for reader in [stdout, stderr] {
            if !reader.is_finished() {
                let _ = reader.await;
            }
        }
        let lines = &mut tail.lock().unwrap_or_else(PoisonError::into_inner).lines;
        Captured { tail: std::mem::take(lines).into(), closed: closed.unwrap_or(false) }
    }
}

async fn read(pipe: Receiver, voice: Voice, mut stopped: watch::Receiver<()>) {
    let mut chunk = vec![0; CHUNK];
    let mut lines = Lines::default();
    loop {
        tokio::select! {
            biased;
            _ = stopped.changed() => break,
            _ = pipe.readable() => {}
        }
        match pipe.try_read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => lines.feed(&chunk[..length], |line, partial| voice.say(line, partial)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(pid = voice.pid, %error, "cannot read the output of {}", voice.source);
                break;
            }
        }
        // A worker that floods must not keep the host from its other work.
        tokio::task::yield_now().await;
    }
    lines.finish(|line| voice.say(line, false));
}

/// Cuts a stream of bytes into lines, and those over [`LOG_LINE`] into parts.
#[derive(Debug, Default)]
struct Lines {
    /// The line begun: without a newline, and at most [`LOG_LINE`] bytes between two calls.
    begun: Vec<u8>,
}

impl Lines {
    /// Hands on each line without its newline, and whether it is a part that is to be continued.
    fn feed(&mut self, chunk: &[u8], mut say: impl FnMut(&[u8], bool)) {
        for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
            let line = piece.strip_suffix(b"\n");
            self.begun.extend_from_slice(line.unwrap_or(piece));
            while self.begun.len() > LOG_LINE {
                let cut = boundary(&self.begun);
                say(&self.begun[..cut], true);
                self.begun.drain(..cut);
            }
            if line.is_some() {
                say(&self.begun, false);
                self.begun.clear();
            }
        }
    }

    /// Hands on a last line that has no newline.
    fn finish(self, say: impl FnOnce(&[u8])) {
        if !self.begun.is_empty() {
            say(&self.begun);
        }
    }
}

/// Where to cut a line that is longer than [`LOG_LINE`]: there, or before the character that lies across.
fn boundary(line: &[u8]) -> usize {
    let continues = |at: usize| line[at] & 0b1100_0000 == 0b1000_0000;
    (LOG_LINE - 3..=LOG_LINE).rev().find(|&at| !continues(at)).unwrap_or(LOG_LINE)
}

/// Who speaks through a pipe.
#[derive(Debug)]
struct Voice {
    pid: u32,
    source: String,
    stream: Stream,
    journal: Journal,
    tail: Arc<Mutex<Tail>>,
}

impl Voice {
    fn say(&self, line: &[u8], partial: bool) {
        let entry = Entry {
            pid: self.pid,
            source: self.source.clone(),
            stream: Some(self.stream),
            ..Entry::default()
        };
        let entry = match Said::parse(line) {
            Some(said) if !partial => said.fill(entry),
            _ => {
                let level = if self.stream == Stream::Stdout { Level::Info } else { Level::Warn };
                let (message, escaped) = text_of(line);
                Entry { level, message, partial, escaped, ..entry }
            }
        };
        if self.stream == Stream::Stderr {
            let line = said(&entry.message, &entry.fields);
            self.tail.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
        self.journal.push(entry);
    }
}

/// What a worker's line of JSON may say. The rest of it is ignored.
#[derive(Debug, Deserialize)]
struct Said {
    level: String,
    #[serde(default)]
    target: String,
    message: Option<Value>,
    fields: Option<Map<String, Value>>,
    trace_id: Option<Value>,
}

impl Said {
    fn parse(line: &[u8]) -> Option<Self> {
        let said: Said = line.starts_with(b"{").then(|| serde_json::from_slice(line).ok())??;
        (said.level.parse::<Level>().is_ok() && (said.message.is_some() || said.fields.is_some()))
            .then_some(said)
    }

    fn fill(self, entry: Entry) -> Entry {
        let Said { level, target, message, fields, trace_id } = self;
        let mut fields = fields.unwrap_or_default();
        let text = |value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let message = fields.shift_remove("message").or(message).map(text).unwrap_or_default();
        let trace_id = fields.shift_remove("trace_id").or(trace_id).map(text);
        Entry { level: level.parse().unwrap_or_default(), target, message, fields, trace_id, ..entry }
    }
}

/// The last lines, within both bounds.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, mut line: String) {
        line.truncate(line.floor_char_boundary(STDERR_TAIL));
        self.bytes += line.len();
        self.lines.push_back(line);
        while (self.bytes > STDERR_TAIL || self.lines.len() > STDERR_TAIL_LINES)
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::tests::{records, silent};
    use crate::record::Record;
    use std::io::Write;
    use std::time::{Duration, Instant};
    use tokio::net::unix::pipe;

    /// Runs with the writing ends of a worker's two pipes.
    fn captured<T>(work: impl AsyncFnOnce(Capture, pipe::Sender, pipe::Sender) -> T) -> (T, Vec<Record>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let journal = silent();
            let (out, stdout) = pipe::pipe().unwrap();
            let (err, stderr) = pipe::pipe().unwrap();
            let result = work(Capture::start(stdout, stderr, "task-rpc", 4121, &journal), out, err).await;
            (result, records(&journal))
        })
    }

    /// All that comes of a worker that writes this to standard error and exits.
    fn stderr(bytes: &[u8]) -> (Captured, Vec<Record>) {
        captured(async |capture, out, err| {
            drop(out);
            write(&err, bytes).await;
            drop(err);
            capture.finish().await
        })
    }

    async fn write(pipe: &pipe::Sender, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            pipe.writable().await.unwrap();
            match pipe.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }

    #[test]
    fn a_workers_log_line_keeps_its_level_and_fields() {
        let line = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"WARN","fields":{"message":"answered","method":"median","us":41,"trace_id":"ab12"},"target":"stats","span":{"name":"x"}}"#;
        let (captured, records) = stderr(format!("{line}\n").as_bytes());
        let [record] = &records[..] else { panic!("{records:?}") };
        assert_eq!(
            (record.level, record.target.as_str(), record.message.as_str()),
            (Level::Warn, "stats", "answered")
        );
        assert_eq!(serde_json::to_string(&record.fields).unwrap(), r#"{"method":"median","us":41}"#);
        assert_eq!(record.trace_id.as_deref(), Some("ab12"));
        assert_eq!(captured, Captured { tail: vec!["answered method=median us=41".into()], closed: true });
    }

    #[test]
    fn a_worker_cannot_speak_for_others() {
        let line = r#"{"timestamp":"2000-01-01T00:00:00Z","time":"2000-01-01T00:00:00Z","run":"forged","pid":1,"seq":99,"source":"task","stream":"stdout","level":"INFO","target":"t","message":"top","fields":{"message":"m","source":"task"}}"#;
        let before = crate::record::now();
        let (_, records) = stderr(format!("{line}\n").as_bytes());
        let record = &records[0];
        assert!(record.time >= before);
        assert_eq!((record.run.as_str(), record.pid, record.seq), ("9f3c0000", 4121, 1));
        assert_eq!((record.source.as_str(), record.stream), ("task-rpc", Some(Stream::Stderr)));
        assert_eq!(record.message, "m");
    }

    #[test]
    fn a_line_that_is_no_log_line_is_kept_as_it_is() {
        let deep =
            format!("{{\"level\":\"INFO\",\"fields\":{{\"a\":{}1{}}}}}", "[".repeat(5000), "]".repeat(5000));
        let lines = [
            "thread panicked",
            r#"{"level":"INFO"}"#,
            r#"{"level":"LOUD","fields":{}}"#,
            "{",
            "",
            "5",
            &deep,
        ];
        let (_, records) = stderr((lines.join("\n") + "\n").as_bytes());
        assert_eq!(records.iter().map(|record| record.message.as_str()).collect::<Vec<_>>(), lines);
        assert!(records.iter().all(|record| record.level == Level::Warn && record.fields.is_empty()));
    }

    #[test]
    fn raw_lines_of_standard_output_are_information() {
        let ((), records) = captured(async |capture, out, err| {
            write(&out, b"hello\n").await;
            drop((out, err));
            capture.finish().await;
        });
        assert_eq!((records[0].level, records[0].stream), (Level::Info, Some(Stream::Stdout)));
    }

    #[test]
    fn a_long_line_comes_in_parts_that_cut_no_character() {
        let line = "é".repeat(20_000) + "x"; // the limit lies within a character after the first byte
        let (_, records) = stderr(format!("a{line}\nnext\n").as_bytes());
        let whole: String = records[..3].iter().map(|record| record.message.as_str()).collect();
        assert_eq!(whole, format!("a{line}"));
        assert_eq!(records.iter().map(|r| r.partial).collect::<Vec<_>>(), [true, true, false, false]);
        assert!(records.iter().all(|record| record.message.len() <= LOG_LINE && !record.escaped));
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole_and_garbage_is_cut_at_the_limit() {
        let (_, records) = stderr(&[&[b'x'; LOG_LINE][..], b"\n", &vec![0x80; LOG_LINE + 1], b"\n"].concat());
        assert_eq!(records.iter().map(|r| r.partial).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(records[1].message_bytes().len(), LOG_LINE);
    }

    #[test]
    fn bytes_that_are_no_utf8_and_a_last_line_without_newline_are_kept() {
        let (captured, records) = stderr(b"\xff\xfe\\ \x1b[2Jend");
        assert_eq!(&*records[0].message_bytes(), b"\xff\xfe\\ \x1b[2Jend");
        assert_eq!(captured.tail, [r"\xff\xfe\\ \u{1b}[2Jend"]);
    }

    #[test]
    fn the_tail_is_the_last_lines_within_both_bounds() {
        let many = (0..100).map(|n| format!("line {n}")).collect::<Vec<_>>().join("\n");
        let (captured, _) = stderr(many.as_bytes());
        assert_eq!(captured.tail, (80..100).map(|n| format!("line {n}")).collect::<Vec<_>>());
        let (captured, _) = stderr("é".repeat(50_000).as_bytes());
        let bytes: usize = captured.tail.iter().map(String::len).sum();
        assert!(bytes > 0 && bytes <= STDERR_TAIL, "{bytes}");
    }

    #[test]
    fn a_grandchild_that_holds_the_pipe_is_not_waited_for_but_what_was_written_is_kept() {
        let begin = Instant::now();
        let (captured, records) = captured(async |capture, out, err| {
            write(&err, b"whole\nbegun").await;
            let captured = capture.finish().await;
            drop((out, err)); // held until here
            captured
        });
        assert!(begin.elapsed() < PIPE_TAIL * 20, "took {:?}", begin.elapsed());
        assert_eq!(captured, Captured { tail: vec!["whole".into(), "begun".into()], closed: false });
        assert_eq!(records.len(), 2);
    }

    #[test]
    fn a_grandchild_that_never_stops_writing_does_not_hold_the_end() {
        let begin = Instant::now();
        let (closed, _) = captured(async |capture, out, err| {
            let mut blocking = std::fs::File::from(err.into_blocking_fd().unwrap());
            let flood = std::thread::spawn(move || while blocking.write_all(&[b'x'; 8192]).is_ok() {});
            let captured = capture.finish().await;
            drop(out);
            tokio::task::spawn_blocking(|| flood.join().unwrap()).await.unwrap();
            captured.closed
        });
        assert!(!closed);
        assert!(begin.elapsed() < PIPE_TAIL * 50, "took {:?}", begin.elapsed());
    }

    #[test]
    fn a_worker_that_floods_never_blocks_and_leaves_the_host_free_for_other_work() {
        let (ticks, records) = captured(async |capture, out, err| {
            let mut blocking = std::fs::File::from(err.into_blocking_fd().unwrap());
            let flood = tokio::task::spawn_blocking(move || {
                let line = [&[b'x'; 99][..], b"\n"].concat().repeat(1000);
                (0..200).try_for_each(|_| blocking.write_all(&line))
            });
            let mut ticks = 0;
            let other = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    ticks += 1;
                }
            };
            tokio::select! {
                written = flood => written.unwrap().unwrap(),
                () = other => {}
            }
            drop(out);
            assert!(capture.finish().await.closed);
            ticks
        });
        assert!(ticks > 50, "only {ticks} ticks"); // 200 as it is, 2 to 22 when it does not yield
        let dropped = records[0].fields["dropped"].as_u64().unwrap();
        assert_eq!(dropped + records.len() as u64 - 1, 200_000, "every line is kept or counted");
    }
}
