//! Writes a journal to the log as it grows: a service has no end to wait for.
//!
//! Whatever was kept while the last write went on is the next one, so that a flood costs few writes and a single
//! record waits for nothing. A log that cannot be written stops nobody: what was to be written waits, the journal goes
//! on to keep what its bounds allow, and what it had to drop is told once the log can be written again.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Map;
use task_proto::limits::{LOG_FINISH, LOG_RETRY};

use super::{Entry, Journal};
use crate::record::{HOST, Level};
use crate::store::{Store, StoreError};

/// The thread that writes a journal to the log.
#[derive(Debug)]
pub struct Writer {
    journal: Journal,
    /// Tells at the thread's end whether all is written; none where there is no thread.
    ended: Option<Receiver<bool>>,
}

impl Journal {
    /// Appends what the journal keeps, from now on and as it comes, to the log file of this name. One writer is enough
    /// for a journal.
    ///
    /// That it cannot (there is no place, or every try fails) is a warning in the journal, once.
    pub fn write_to(&self, store: Result<Store, StoreError>, name: &'static str) -> Writer {
        let started = store.map_err(|error| error.to_string()).and_then(|store| {
            let (tell, ended) = channel();
            let journal = self.clone();
            let write = move || {
                // Who gave up waiting does not want to be told.
                let _ = tell.send(write(&journal, &store, name));
            };
            let thread = thread::Builder::new().name("log".into()).spawn(write);
            thread.map(|_| ended).map_err(|error| format!("cannot start a thread: {error}"))
        });
        let ended = started.inspect_err(|why| self.say(Level::Warn, format!("there is no log: {why}"), None));
        Writer { journal: self.clone(), ended: ended.ok() }
    }

    fn say(&self, level: Level, message: String, lost: Option<u64>) {
        self.push(Entry {
            pid: std::process::id(),
            source: HOST.to_owned(),
            level,
            target: module_path!().to_owned(),
            message,
            fields: Map::from_iter(lost.map(|lost| ("lost".to_owned(), lost.into()))),
            ..Entry::default()
        });
    }
}

impl Writer {
    /// Writes what the journal holds, and ends; whether all of it is written. It takes [`LOG_FINISH`] at most, and so
    /// does dropping it. What is said later is not in the log.
    pub fn finish(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        let Some(ended) = self.ended.take() else { return false };
        self.journal.end();
        ended.recv_timeout(LOG_FINISH).unwrap_or(false)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

/// Writes until the journal's end; whether all was written.
fn write(journal: &Journal, store: &Store, name: &str) -> bool {
    let (mut failing, mut waiting) = (false, Vec::new());
    loop {
        let ending = match (failing, waiting.is_empty()) {
            (true, _) => journal.await_end(LOG_RETRY),
            (false, true) => journal.await_records(),
            (false, false) => journal.await_end(Duration::ZERO),
        };
        let lines = if waiting.is_empty() { journal.take() } else { std::mem::take(&mut waiting) };
        match store.append(name, &lines) {
            Ok(()) if failing => {
                // What the journal holds must go out first, or what is to be told would drop more of it.
                let (held, lost) = journal.take_and_count();
                (failing, waiting) = (false, held);
                let level = if lost > 0 { Level::Warn } else { Level::Info };
                let message = format!("the log is written again; {lost} records in between were lost");
                journal.say(level, message, Some(lost));
            }
            // There was nothing left, and what comes now nobody waits for.
            Ok(()) if ending && lines.is_empty() => return true,
            Ok(()) => {}
            Err(error) => {
                if !failing {
                    let message = format!("the log cannot be written, and work goes on without: {error}");
                    journal.say(Level::Warn, message, None);
                }
                if ending {
                    return false;
                }
                (failing, waiting) = (true, lines);
            }
        }
    }
}

#[cfg(test)]
mod tests;
