//! The chunks of one text, put together: missing values between commas that lie in different chunks, and lines and columns.

use task_proto::fault::Fault;
use task_proto::text::Place;

use crate::engine::kernels::text as kernel;

/// A place in a chunk: what is needed of the chunk to say which place in the text that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// In the chunk, in bytes.
    offset: u64,
    /// How many newlines of the chunk come before.
    newlines: u64,
    /// Offset behind the last of them.
    line_start: Option<u64>,
}

impl Spot {
    pub(super) fn new(chunk: &[u8], offset: usize) -> Self {
        let before = &chunk[..offset];
        let newlines = kernel::newlines(before) as u64;
        Spot { offset: offset as u64, newlines, line_start: Spot::line_start(before) }
    }

    /// Offset behind the last newline.
    pub(super) fn line_start(text: &[u8]) -> Option<u64> {
        // Blocks are looked through many bytes at a time.
        let block = text.rchunks(256).position(|block| block.contains(&b'\n'))?;
        let end = text.len() - 256 * block;
        text[..end].iter().rposition(|&byte| byte == b'\n').map(|newline| newline as u64 + 1)
    }
}

/// What there is to know of a chunk besides its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Bytes.
    pub length: u64,
    /// How many newlines there are.
    pub newlines: u64,
    /// The offset behind the last of them.
    pub line_start: Option<u64>,
    /// The comma that comes before anything but white space.
    pub leading_comma: Option<Spot>,
    /// Whether the last thing other than white space is a comma.
    pub trailing_comma: bool,
    /// Whether there is nothing but white space.
    pub blank: bool,
    /// How many values are missing in the chunk.
    pub missing: u64,
    /// The first of them.
    pub first_missing: Option<Spot>,
    /// The first integer beyond 64 bits, which is among the floats.
    pub first_huge: Option<Spot>,
    /// What ended the chunk before its end: the token at this spot is no number. It carries no place yet.
    pub fault: Option<(Spot, Fault)>,
}

/// The text so far, as its chunks' summaries tell it, in the text's order.
#[derive(Debug, Clone, Default)]
pub struct Joined {
    offset: u64,
    newlines: u64,
    line_start: u64,
    /// Whether the last thing other than white space is a comma.
    comma: bool,
    missing: u64,
    first_missing: Option<Place>,
    first_huge: Option<Place>,
    fault: Option<Fault>,
}

impl Joined {
    /// Takes the next chunk. What comes behind a fault changes nothing.
    pub fn push(&mut self, chunk: &Summary) {
        if self.fault.is_some() {
            return;
        }
        let between = chunk.leading_comma.filter(|_| self.comma);
        self.missing += chunk.missing + u64::from(between.is_some());
        // A comma that leads comes before whatever else is missing.
        let first_missing = between.or(chunk.first_missing).map(|spot| self.place(spot));
        self.first_missing = self.first_missing.or(first_missing);
        self.first_huge = self.first_huge.or_else(|| chunk.first_huge.map(|spot| self.place(spot)));
        if let Some((spot, fault)) = &chunk.fault {
            let Place { line, column } = self.place(*spot);
            self.fault = Some(fault.clone().at(line, column));
        }
        if !chunk.blank {
            self.comma = chunk.trailing_comma;
        }
        self.newlines += chunk.newlines;
        self.line_start = chunk.line_start.map_or(self.line_start, |start| self.offset + start);
        self.offset += chunk.length;
    }

    /// Where in the text a spot of the next chunk is.
    pub fn place(&self, spot: Spot) -> Place {
        let line_start = spot.line_start.map_or(self.line_start, |start| self.offset + start);
        let column = self.offset + spot.offset - line_start + 1;
        Place { line: self.newlines + spot.newlines + 1, column }
    }

    /// How many values are missing, before the fault where there is one.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Where the first of them is.
    pub fn first_missing(&self) -> Option<Place> {
        self.first_missing
    }

    /// Where the first integer beyond 64 bits is.
    pub fn first_huge(&self) -> Option<Place> {
        self.first_huge
    }

    /// What ended the text: its first token that is no number.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }
}
