//! Binary values: elements of a fixed width, with nothing between them.

use std::sync::Mutex;

use task_proto::fault::{Fault, FaultKind};
use task_proto::text::NPY;

use super::Collector;
use super::npy::Element;
use super::team::lock;

/// Elements that are converted at once: they stay in the nearest cache.
const CONVERTED: usize = 2048;

/// Room for values, of which each thread has its own.
#[derive(Debug)]
pub(super) struct Values {
    ints: Vec<i64>,
    floats: Vec<f64>,
}

/// Positions in an input, from 1, of which the first matters. Its threads find them in any order.
#[derive(Debug, Default)]
pub(super) struct First(Mutex<Option<u64>>);

impl First {
    pub(super) fn found(&self, position: u64) {
        let mut first = lock(&self.0);
        *first = Some(first.map_or(position, |first| first.min(position)));
    }

    pub(super) fn get(&self) -> Option<u64> {
        *lock(&self.0)
    }
}

impl Default for Values {
    fn default() -> Self {
        Values { ints: vec![0; CONVERTED], floats: vec![0.0; CONVERTED] }
    }
}

impl Values {
    /// Hands whole elements to the collector, of which so many values come before, and tells where one is missing or is an
    /// integer beyond 64 bits, and so a float.
    ///
    /// # Errors
    /// `TooLarge`, at the position from which on there was no room.
    pub(super) fn take(
        &mut self,
        element: Element,
        elements: &[u8],
        mut before: u64,
        collector: &mut Collector,
        missing: &First,
        huge: &First,
    ) -> Result<(), Fault> {
        for elements in elements.chunks(CONVERTED * element.width()) {
            let count = elements.len() / element.width();
            let (ints, floats) = (&mut self.ints[..count], &mut self.floats[..count]);
            let is_float = match element {
                Element::Floats(element) => {
                    element.floats(elements, floats);
                    true
                }
                Element::Ints(element) => match element.ints(elements, ints) {
                    None => false,
                    Some(first) => {
                        huge.found(before + first as u64 + 1);
                        element.floats(elements, floats);
                        true
                    }
                },
            };
            let there = |fault| at(fault, before + 1);
            if !is_float {
                collector.ints(ints).map_err(there)?;
            } else if collector.floats(floats).map_err(there)? > 0 {
                let first = floats.iter().position(|float| float.is_nan()).unwrap_or_default();
                missing.found(before + first as u64 + 1);
            }
            before += count as u64;
        }
        Ok(())
    }
}

/// What to say of an input that begins so: its header would be taken for values.
pub(super) fn foreign(start: &[u8]) -> Option<Fault> {
    let message = "this is an npy file and no raw values; format=npy reads it";
    start.starts_with(NPY).then(|| at(Fault::new(FaultKind::Malformed, message), 1))
}

/// The value after so many bytes is cut off: it has only this many.
pub(super) fn cut_off(element: Element, before: u64, bytes: usize) -> Fault {
    let (begins, width) = (before + 1, element.width());
    let message = format!(
        "the input's length is no multiple of {width} bytes: the value that begins at byte {begins} has only {bytes}"
    );
    at(Fault::new(FaultKind::Malformed, message), before / width as u64 + 1)
}

/// The fault, at this position in the list, from 1.
pub(super) fn at(fault: Fault, position: u64) -> Fault {
    Fault { column: Some(position), ..fault }
}
