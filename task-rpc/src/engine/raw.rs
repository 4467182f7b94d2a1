//! Raw values: eight little-endian bytes each.

use task_proto::fault::{Fault, FaultKind};

use super::Collector;

/// Bytes of a value.
pub(super) const WIDTH: usize = 8;

/// What the values are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Element {
    Float,
    Int,
}

/// Room for values, of which each thread has its own.
#[derive(Debug, Default)]
pub(super) struct Values {
    floats: Vec<f64>,
    ints: Vec<i64>,
}

impl Values {
    /// Hands whole values to the collector, and says how many are missing.
    ///
    /// # Errors
    /// `TooLarge`.
    pub(super) fn take(
        &mut self,
        element: Element,
        bytes: &[u8],
        collector: &mut Collector,
    ) -> Result<u64, Fault> {
        let (values, _) = bytes.as_chunks();
        match element {
            Element::Float => {
                self.floats.clear();
                self.floats.extend(values.iter().map(|&value| f64::from_le_bytes(value)));
                collector.floats(&self.floats)
            }
            Element::Int => {
                self.ints.clear();
                self.ints.extend(values.iter().map(|&value| i64::from_le_bytes(value)));
                collector.ints(&self.ints).map(|()| 0)
            }
        }
    }

    /// Which of those that were taken last is the first that is missing, from 0.
    pub(super) fn first_missing(&self) -> u64 {
        self.floats.iter().position(|float| float.is_nan()).unwrap_or_default() as u64
    }
}

/// The value after so many bytes is cut off: it has only this many.
pub(super) fn cut_off(before: u64, bytes: usize) -> Fault {
    let begins = before + 1;
    let message = format!(
        "the input's length is no multiple of {WIDTH} bytes: the value that begins at byte {begins} has only {bytes}"
    );
    at(Fault::new(FaultKind::NotANumber, message), before / WIDTH as u64 + 1)
}

/// The fault, at this position in the list, from 1.
pub(super) fn at(fault: Fault, position: u64) -> Fault {
    Fault { column: Some(position), ..fault }
}
