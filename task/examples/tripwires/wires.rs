//! First numbers of a query that harm the worker which reads them.

/// What such a number does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// Aborts, whenever it is read.
    Abort,
    /// Takes its time, and is answered.
    Slow,
    /// Takes ten times as long, likewise.
    Long,
    /// In the first generation: is never answered, and harms nobody.
    Wait,
    /// In the first generation: blocks the loop that does the I/O.
    Block,
    /// In the first generation: computes for ever, without a sign of getting further.
    Spin,
}

impl Wire {
    /// No test draws a number near it by chance.
    const FIRST: i64 = 0x7721_9e55_0000_0000;

    /// The number that does it.
    pub(crate) fn number(self) -> i64 {
        Self::FIRST + self as i64
    }
}
