//! What the log is told of those who are no good clients: the host's log is for others, too, so a line of each kind a
//! second is all, with the number of those that it stands for.

use std::cell::Cell;
use std::time::Instant;

use task_proto::limits::WARNED;

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
}

/// Warnings of one kind.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    last: Cell<Option<Instant>>,
    more: Cell<u64>,
}

/// How many there were since the last line that had none of their own; nothing where there were none.
pub(crate) type More = Option<u64>;

impl Warnings {
    /// Whether this one is to have a line, and what the line is to say of others.
    pub(crate) fn one(&self) -> Option<More> {
        if self.last.get().is_some_and(|last| last.elapsed() < WARNED) {
            self.more.update(|more| more + 1);
            return None;
        }
        self.last.set(Some(Instant::now()));
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
        warnings.last.set(Instant::now().checked_sub(WARNED));
        assert_eq!(warnings.one(), Some(Some(1234)));
        warnings.last.set(Instant::now().checked_sub(WARNED));
        assert_eq!(warnings.one(), Some(None));
    }
}
