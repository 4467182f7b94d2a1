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

    /// The last lines of its standard error so far: see [`Captured::tail`].
    pub fn tail(&self) -> Vec<String> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).lines.iter().cloned().collect()
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
mod tests;
