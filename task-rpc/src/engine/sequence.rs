//! One sequence of numbers in memory: integers, floats, or how often each of some small integers occurs.

use std::fmt;
use std::sync::{Arc, Mutex};

use task_proto::fault::{Fault, FaultKind};

use super::column::Column;
use super::tallied::Tallied;
use super::team::lock;
use super::{Budget, Lease};

/// A sequence that is complete and not empty.
#[derive(Debug)]
pub struct Sequence {
    pub(super) values: Values,
    /// The two middle values, where they were found on the way.
    pub(super) middle: Option<(f64, f64)>,
    pub(super) extent: Extent,
    pub(super) mean: f64,
    /// None for few numbers, which another limit bounds.
    pub(super) lease: Option<Arc<Mutex<Lease>>>,
}

/// What is said of a sequence beside each of its statistics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extent {
    /// How many numbers.
    pub count: u64,
    /// How many missing values were skipped.
    pub missing: u64,
    /// What the reader ought to know of the input.
    pub warnings: Vec<String>,
}

/// The numbers of a sequence, in no order.
#[derive(Debug)]
pub(super) enum Values {
    Ints(Column<i64>),
    /// NaN among them are missing values, and −0 is 0.
    Floats(Column<f64>),
    TalliedInts(Tallied<i64>),
    TalliedFloats(Tallied<f64>),
}

impl Sequence {
    /// Of numbers whose memory is not counted.
    pub(super) fn of_few(values: Values, extent: Extent, mean: f64) -> Self {
        Sequence { values, middle: None, extent, mean, lease: None }
    }

    /// How many numbers.
    pub fn extent(&self) -> &Extent {
        &self.extent
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.extent.count
    }

    /// How many missing values were skipped.
    pub fn missing(&self) -> u64 {
        self.extent.missing
    }

    /// Whether every value is taken as its nearest `f64`.
    pub fn is_float(&self) -> bool {
        matches!(self.values, Values::Floats(_) | Values::TalliedFloats(_))
    }

    /// The `f64` nearest to the exact rational mean, ties to even. With infinities: infinite, or NaN for both.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// What the reader ought to know of the input.
    pub fn warnings(&self) -> &[String] {
        &self.extent.warnings
    }

    /// The budget, for a call that has this sequence.
    pub(super) fn beside(&self, budget: &Budget) -> Budget {
        self.lease.as_ref().map_or_else(|| budget.clone(), |lease| budget.beside(&lock(lease)))
    }
}

/// There are no numbers, but so many missing values that were skipped.
pub(super) fn empty(missing: u64) -> Fault {
    let message = match missing {
        0 => "there are no numbers in the input".into(),
        1 => "there are no numbers in the input: its only value is missing and skipped".into(),
        _ => format!("there are no numbers in the input: all {missing} values are missing and skipped"),
    };
    Fault::new(FaultKind::EmptyInput, message)
}

/// Integers beyond 64 bits were read as floats: the first is here, in this source of several (from 0).
pub(super) fn huge(place: fmt::Arguments<'_>, source: Option<usize>) -> String {
    let source = source.map(|index| format!(" of input {}", index + 1)).unwrap_or_default();
    format!("the integer at {place}{source} is beyond 64 bits: all values are taken as 64-bit floats")
}

/// A value is missing that may not be.
pub(super) fn missing() -> Fault {
    let message = "a value is missing here; missing=skip leaves such values out";
    Fault::new(FaultKind::MissingValue, message)
}
