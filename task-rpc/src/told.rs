//! What the log is told of those who are no good clients: the host's log is for others, too, so a line of each kind a
//! second is all, or some of calls, with the number of those that it stands for.

use std::cell::Cell;
use std::time::Instant;

use task_proto::limits::{NOTABLE, WARNED};

/// What a worker has told, and counted.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Requests that the service did not hear of.
    pub(crate) refused: Cell<u64>,
    /// Connections that speak no protocol of the socket.
    pub(crate) strangers: Warnings,
    /// Connections that ended in an error.
    pub(crate) closed: Warnings,
    /// Connections of processes that have as many as they may.
    pub(crate) over_share: Warnings,
    /// Connections of other users.
    pub(crate) foreign: Warnings,
    /// Calls that failed, took long, or are traced.
    pub(crate) notable: Warnings,
}

/// Warnings of one kind.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    /// When the second began.
    since: Cell<Option<Instant>>,
    /// Lines in it.
    lines: Cell<u32>,
    more: Cell<u64>,
}

/// How many there were since the last line that had none of their own; nothing where there were none.
pub(crate) type More = Option<u64>;

impl Warnings {
    /// Whether this one is to have a line, and what the line is to say of others.
    pub(crate) fn one(&self) -> Option<More> {
        self.one_of(1)
    }

    /// The same where several may have one: of calls the trace id and the reason are looked for.
    pub(crate) fn one_of_some(&self) -> Option<More> {
        self.one_of(NOTABLE)
    }

    fn one_of(&self, most: u32) -> Option<More> {
        if self.since.get().is_none_or(|since| since.elapsed() >= WARNED) {
            self.since.set(Some(Instant::now()));
            self.lines.set(0);
        }
        if self.lines.get() == most {
            self.more.update(|more| more + 1);
            return None;
        }
        self.lines.update(|lines| lines + 1);
        Some(Some(self.more.take()).filter(|more| *more > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_has_a_line_a_second_that_says_how_many_it_stands_for() {
        let warnings = Warnings::default();
        assert_eq!(warnings.one(), Some(None));
        assert!((0..1234).all(|_| warnings.one().is_none()));
        warnings.since.set(Instant::now().checked_sub(WARNED));
        assert_eq!(warnings.one(), Some(Some(1234)));
        warnings.since.set(Instant::now().checked_sub(WARNED));
        assert_eq!(warnings.one(), Some(None));
    }

    #[test]
    fn some_calls_have_a_line_each_and_a_flood_of_them_has_no_more() {
        let calls = Warnings::default();
        assert!((0..NOTABLE).all(|_| calls.one_of_some() == Some(None)));
        assert!((0..5).all(|_| calls.one_of_some().is_none()));
        calls.since.set(Instant::now().checked_sub(WARNED));
        assert_eq!(calls.one_of_some(), Some(Some(5)));
        assert_eq!(calls.one_of_some(), Some(None));
    }
}
