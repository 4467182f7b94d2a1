//! One sequence of numbers in memory, in blocks that never move.
//!
//! Integers are kept as integers up to the first float. From there on all are floats, and the integers before
//! stand for their nearest `f64`: nothing needs to be converted in place.

use std::fmt;

use task_proto::fault::{Fault, FaultKind};
use task_proto::number::{Number, Token};
use task_proto::stats::Missing;
use task_proto::text::Place;

use super::map::View;
use super::{Budget, Checkpoint, Lease};

/// Values of a block: 1 MiB, sorted or summed in about a millisecond.
const BLOCK: usize = 128 * 1024;
/// Values of the first block, so that few numbers take little.
const FIRST_BLOCK: usize = 4096;

/// A sequence that is complete and not empty.
#[derive(Debug)]
pub struct Sequence {
    ints: Vec<Vec<i64>>,
    /// Without NaN and −0.
    floats: Vec<Vec<f64>>,
    mapped_ints: Vec<View>,
    /// As their owners wrote them. In each there is a number.
    mapped_floats: Vec<View>,
    count: u64,
    missing: u64,
    warnings: Vec<String>,
    pub(super) lease: Lease,
}

/// A block of a sequence. Where a sequence [is float](Sequence::is_float), its integers count as floats. NaN among the
/// floats is a missing value, and −0 is 0.
#[derive(Debug, Clone, Copy)]
pub(super) enum Block<'a> {
    Int(&'a [i64]),
    Float(&'a [f64]),
}

impl Sequence {
    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many missing values were skipped.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// What the reader ought to know of the input.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether every value is taken as its nearest `f64`.
    pub fn is_float(&self) -> bool {
        !self.floats.is_empty() || !self.mapped_floats.is_empty()
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        let ints = self.ints.iter().map(|block| &block[..]);
        let ints = ints.chain(self.mapped_ints.iter().flat_map(|view| view.ints().chunks(BLOCK)));
        let floats = self.floats.iter().map(|block| &block[..]);
        let floats = floats.chain(self.mapped_floats.iter().flat_map(|view| view.floats().chunks(BLOCK)));
        ints.map(Block::Int).chain(floats.map(Block::Float))
    }
}

impl Block<'_> {
    /// How many numbers.
    pub(super) fn count(self) -> usize {
        match self {
            Block::Int(ints) => ints.len(),
            Block::Float(floats) => floats.iter().filter(|float| !float.is_nan()).count(),
        }
    }
}

/// Builds a [`Sequence`] from tokens, in order.
#[derive(Debug)]
pub struct Collector {
    sequence: Sequence,
    policy: Missing,
    huge: bool,
}

impl Collector {
    /// An empty sequence, whose memory comes from this budget.
    pub fn new(budget: &Budget, policy: Missing) -> Self {
        let sequence = Sequence {
            ints: Vec::new(),
            floats: Vec::new(),
            mapped_ints: Vec::new(),
            mapped_floats: Vec::new(),
            count: 0,
            missing: 0,
            warnings: Vec::new(),
            lease: budget.lease(),
        };
        Collector { sequence, policy, huge: false }
    }

    /// The call that it is for has this memory, too.
    pub(super) fn stands_beside(&mut self, lease: &Lease) {
        self.sequence.lease.stands_beside(lease);
    }

    /// Takes one token of a text; `source` names the text in a warning, where there are several.
    ///
    /// # Errors
    /// `MissingValue` or `TooLarge`, at this place.
    pub fn token(&mut self, token: Token, place: Place, source: Option<usize>) -> Result<(), Fault> {
        match token {
            Token::Number(number) => self.number(number),
            Token::HugeInt(float) => {
                let Place { line, column } = place;
                self.huge(format_args!("line {line}, column {column}"), source);
                self.number(Number::Float(float))
            }
            Token::Missing => self.missing(),
        }
        .map_err(|fault| fault.at(place.line, place.column))
    }

    /// Warns, once, that integers beyond 64 bits were read as floats: the first is here, in this source of several
    /// (from 0).
    pub(super) fn huge(&mut self, place: fmt::Arguments<'_>, source: Option<usize>) {
        if !self.huge {
            self.huge = true;
            let source = source.map(|index| format!(" of input {}", index + 1)).unwrap_or_default();
            self.sequence.warnings.push(format!(
                "the integer at {place}{source} is beyond 64 bits: all values are taken as 64-bit floats"
            ));
        }
    }

    /// Takes one number, where NaN is a missing value.
    ///
    /// # Errors
    /// `MissingValue` or `TooLarge`, without a place.
    #[inline]
    pub fn number(&mut self, number: Number) -> Result<(), Fault> {
        let Sequence { ints, floats, lease, .. } = &mut self.sequence;
        match number {
            Number::Int(int) if floats.is_empty() => append(ints, int, lease)?,
            Number::Float(float) if float.is_nan() => return self.missing(),
            // Adding zero turns −0 into 0, and changes nothing else.
            number => append(floats, number.to_f64() + 0.0, lease)?,
        }
        self.sequence.count += 1;
        Ok(())
    }

    /// Takes memory for numbers of so many bytes in advance, before any of them is read.
    ///
    /// # Errors
    /// `TooLarge`.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<(), Fault> {
        self.sequence.lease.reserve(bytes)
    }

    /// Takes integers where they are.
    pub(super) fn mapped_ints(&mut self, view: View) {
        self.sequence.count += view.ints().len() as u64;
        self.sequence.mapped_ints.push(view);
    }

    /// Takes floats where they are, where NaN is a missing value.
    ///
    /// # Errors
    /// `MissingValue`, at its position; the checkpoint's.
    pub(super) fn mapped_floats(&mut self, view: View, checkpoint: Checkpoint<'_>) -> Result<(), Fault> {
        let mut count = 0;
        for (index, block) in view.floats().chunks(BLOCK).enumerate() {
            checkpoint()?;
            let here = Block::Float(block).count();
            count += here;
            if here < block.len() {
                let first = block.iter().position(|float| float.is_nan()).unwrap_or_default();
                let position = (index * BLOCK + first + 1) as u64;
                self.missing().map_err(|fault| Fault { column: Some(position), ..fault })?;
                self.sequence.missing += (block.len() - here - 1) as u64;
            }
        }
        self.sequence.count += count as u64;
        // Floats that are all missing make no sequence float.
        if count > 0 {
            self.sequence.mapped_floats.push(view);
        }
        Ok(())
    }

    /// The sequence.
    ///
    /// # Errors
    /// `EmptyInput`, if there is nothing in it.
    pub fn finish(mut self) -> Result<Sequence, Fault> {
        self.sequence.lease.settle();
        match self.sequence {
            Sequence { count: 0, missing: 0, .. } => {
                Err(Fault::new(FaultKind::EmptyInput, "there are no numbers in the input"))
            }
            Sequence { count: 0, missing, .. } => {
                let message = format!(
                    "there are no numbers in the input: all {missing} values are missing and skipped"
                );
                Err(Fault::new(FaultKind::EmptyInput, message))
            }
            sequence => Ok(sequence),
        }
    }

    fn missing(&mut self) -> Result<(), Fault> {
        match self.policy {
            Missing::Skip => {
                self.sequence.missing += 1;
                Ok(())
            }
            Missing::Error => {
                let message = "a value is missing here; missing=skip leaves such values out";
                Err(Fault::new(FaultKind::MissingValue, message))
            }
        }
    }
}

#[inline]
fn append<T>(blocks: &mut Vec<Vec<T>>, value: T, lease: &mut Lease) -> Result<(), Fault> {
    if let Some(block) = blocks.last_mut()
        && block.len() < block.capacity()
    {
        block.push(value);
        return Ok(());
    }
    append_to_new_block(blocks, value, lease)
}

#[cold]
fn append_to_new_block<T>(blocks: &mut Vec<Vec<T>>, value: T, lease: &mut Lease) -> Result<(), Fault> {
    let values = if blocks.is_empty() { FIRST_BLOCK } else { BLOCK };
    lease.grow((values * size_of::<T>()) as u64)?;
    let mut block = Vec::with_capacity(values);
    block.push(value);
    blocks.push(block);
    Ok(())
}
