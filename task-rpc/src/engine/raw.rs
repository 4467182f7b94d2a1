//! Raw values: eight little-endian bytes each, over the borders of blocks.

use task_proto::fault::{Fault, FaultKind};
use task_proto::number::Number;

use super::Collector;

/// Bytes of a value.
pub(super) const WIDTH: usize = 8;

/// Turns bytes into numbers.
pub(super) struct Raw {
    number: fn([u8; WIDTH]) -> Number,
    /// The beginning of a value whose rest comes with the next block.
    begun: Vec<u8>,
    values: u64,
}

impl Raw {
    pub(super) fn floats() -> Self {
        Raw::new(|bytes| Number::Float(f64::from_le_bytes(bytes)))
    }

    pub(super) fn ints() -> Self {
        Raw::new(|bytes| Number::Int(i64::from_le_bytes(bytes)))
    }

    fn new(number: fn([u8; WIDTH]) -> Number) -> Self {
        Raw { number, begun: Vec::with_capacity(WIDTH), values: 0 }
    }

    /// Hands the values of one more block to the collector. The place of a fault is the position in the list.
    pub(super) fn push(&mut self, mut block: &[u8], collector: &mut Collector) -> Result<(), Fault> {
        if !self.begun.is_empty() {
            let rest = block.split_off(..block.len().min(WIDTH - self.begun.len())).unwrap_or_default();
            self.begun.extend(rest);
            if let Ok(value) = self.begun[..].try_into() {
                self.begun.clear();
                self.take(value, collector)?;
            }
        }
        let (values, begun) = block.as_chunks();
        for &value in values {
            self.take(value, collector)?;
        }
        self.begun.extend(begun);
        Ok(())
    }

    fn take(&mut self, value: [u8; WIDTH], collector: &mut Collector) -> Result<(), Fault> {
        self.values += 1;
        collector.number((self.number)(value)).map_err(|fault| at(fault, self.values))
    }

    /// Says that there is no more.
    ///
    /// # Errors
    /// `NotANumber`, at the position of a value that is cut off.
    pub(super) fn finish(self) -> Result<(), Fault> {
        let over = self.begun.len();
        if over == 0 {
            return Ok(());
        }
        let begins = self.values * WIDTH as u64 + 1;
        let message = format!(
            "the input's length is no multiple of {WIDTH} bytes: the value that begins at byte {begins} has only {over}"
        );
        Err(at(Fault::new(FaultKind::NotANumber, message), self.values + 1))
    }
}

/// The fault, at this position in the list, from 1.
pub(super) fn at(fault: Fault, position: u64) -> Fault {
    Fault { column: Some(position), ..fault }
}
