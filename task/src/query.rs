//! Finds the last records of the log that are asked for, in order of time.
//!
//! A service's records stand in its file as they came. A run's stand together, where the run ended; so those of runs
//! that went side by side are out of order in theirs. What is read is therefore kept until everything that lies before
//! it must be older.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use jiff::{SignedDuration, Timestamp};
use task_proto::limits::LOG_LOCK;

use crate::backward::{Backward, Line};
use crate::record::{Level, Record};
use crate::store::{Log, SERVE, StoreError};

/// Which records are asked for.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// This level and those above.
    pub level: Level,
    /// Only from this program.
    pub source: Option<String>,
    /// Only of the runs whose names begin so.
    pub run: Option<String>,
    /// Only of this call.
    pub trace: Option<String>,
    /// Only from this time on.
    pub since: Option<Timestamp>,
    /// Only up to this time.
    pub until: Option<Timestamp>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// The records' lines as they are in the file, oldest first, without newlines.
    pub lines: Vec<Vec<u8>>,
    /// Lines that are no records.
    pub broken: u64,
}

impl Query {
    /// Whether it asks for this record.
    pub fn matches(&self, record: &Record) -> bool {
        record.level >= self.level
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time <= until)
            && self.source.as_ref().is_none_or(|source| *source == record.source)
            && self.run.as_ref().is_none_or(|run| record.run.starts_with(run.as_str()))
            && self.trace.as_ref().is_none_or(|trace| record.trace_id.as_ref() == Some(trace))
    }

    /// The last `count` records of these logs. Memory goes by `count`, and reading stops where only older ones can
    /// follow.
    pub fn last(&self, count: usize, logs: &[Log]) -> Result<Found, StoreError> {
        // The oldest on top, to be dropped first.
        let mut kept: BinaryHeap<Reverse<(Timestamp, u64, Vec<u8>)>> = BinaryHeap::new();
        let mut broken = 0;
        for log in logs {
            let mut run = None;
            let files = log.files.iter().map(Backward::new);
            'log: for mut file in files {
                while let Some(line) = file.previous().map_err(StoreError::Read)? {
                    let Some((line, record)) = parse(line) else {
                        broken += 1;
                        continue;
                    };
                    // What lies before the last record of a run, or before any of a service, was written earlier.
                    if log.name == SERVE || run.as_ref() != Some(&record.run) {
                        let oldest = kept.peek().map(|Reverse((oldest, ..))| *oldest);
                        let wanted = if kept.len() < count { self.since } else { oldest.max(self.since) };
                        let none_wanted = count == 0 && kept.is_empty();
                        let older = |wanted: Timestamp| {
                            wanted.checked_sub(slack()).is_ok_and(|bound| record.time < bound)
                        };
                        if none_wanted || wanted.is_some_and(older) {
                            break 'log;
                        }
                        run = Some(record.run.clone());
                    }
                    if self.matches(&record) {
                        kept.push(Reverse((record.time, record.seq, line)));
                        if kept.len() > count {
                            kept.pop();
                        }
                    }
                }
            }
        }
        let lines = kept.into_sorted_vec().into_iter().rev().map(|Reverse((.., line))| line).collect();
        Ok(Found { lines, broken })
    }
}

fn parse(line: Line) -> Option<(Vec<u8>, Record)> {
    let Line::Whole(line) = line else { return None };
    let record = Record::from_line(&line).ok()?;
    Some((line, record))
}

/// How much later than said a record may have come to be written: a run's last steps, and the wait for the lock.
fn slack() -> SignedDuration {
    SignedDuration::try_from(LOG_LOCK * 5).unwrap_or_default()
}
