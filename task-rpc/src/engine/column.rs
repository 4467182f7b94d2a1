//! Numbers of one type, in blocks that never move: their own, or where their owner wrote them.

use std::fmt;
use std::sync::Mutex;

use task_proto::fault::{Fault, FaultKind};

use super::Lease;
use super::map::View;
use super::slab::{Slab, Word};
use super::team::lock;

/// Values of a block: a page of 2 MiB, summed or compared in about a hundred microseconds.
pub(super) const BLOCK: usize = 256 * 1024;
/// Values of the first blocks, so that few numbers take little: a page of 2 MiB takes as long to make as a thousand
/// numbers to read, and 32 KiB as long as the rest of a call with eight.
const FIRST_BLOCKS: [usize; 3] = [64, 4032, 60 * 1024];

/// Numbers of one type. Floats may be NaN, which is a missing value, and −0, which is 0.
pub(super) struct Column<T: Word> {
    blocks: Vec<Block<T>>,
}

enum Block<T: Word> {
    Small(Vec<T>),
    Page { page: Slab<T>, filled: usize },
    Mapped(View),
}

/// Numbers that lie in somebody else's memory.
pub(super) trait Mapped: Word {
    /// As numbers of this type.
    fn mapped(view: &View) -> &[Self];
}

impl Mapped for i64 {
    fn mapped(view: &View) -> &[i64] {
        view.ints()
    }
}

impl Mapped for f64 {
    fn mapped(view: &View) -> &[f64] {
        view.floats()
    }
}

impl<T: Word> Default for Column<T> {
    fn default() -> Self {
        Column { blocks: Vec::new() }
    }
}

impl<T: Word> From<Vec<T>> for Column<T> {
    fn from(values: Vec<T>) -> Self {
        Column { blocks: vec![Block::Small(values)] }
    }
}

impl<T: Mapped> Column<T> {
    /// Whether some of it lies in somebody else's memory.
    pub(super) fn has_mapped(&self) -> bool {
        self.blocks.iter().any(|block| matches!(block, Block::Mapped(_)))
    }

    /// Takes copies of these.
    ///
    /// # Errors
    /// `TooLarge`.
    pub(super) fn extend(&mut self, mut values: &[T], lease: &Mutex<Lease>) -> Result<(), Fault> {
        while !values.is_empty() {
            let taken = match self.blocks.last_mut() {
                Some(Block::Small(block)) => {
                    let taken = values.len().min(block.capacity() - block.len());
                    block.extend_from_slice(&values[..taken]);
                    taken
                }
                Some(Block::Page { page, filled }) => {
                    let taken = values.len().min(page.len() - *filled);
                    page[*filled..*filled + taken].copy_from_slice(&values[..taken]);
                    *filled += taken;
                    taken
                }
                _ => 0,
            };
            values = &values[taken..];
            if !values.is_empty() {
                self.grow(lease)?;
            }
        }
        Ok(())
    }

    #[cold]
    fn grow(&mut self, lease: &Mutex<Lease>) -> Result<(), Fault> {
        let small = FIRST_BLOCKS.get(self.blocks.len()).copied();
        lock(lease).grow((small.unwrap_or(BLOCK) * size_of::<T>()) as u64)?;
        self.blocks.push(match small {
            Some(values) => Block::Small(Vec::with_capacity(values)),
            None => Block::Page { page: page(BLOCK)?, filled: 0 },
        });
        Ok(())
    }

    /// Takes numbers where they are.
    pub(super) fn map(&mut self, view: View) {
        self.blocks.push(Block::Mapped(view));
    }

    /// Takes all that is in the other one.
    pub(super) fn append(&mut self, other: &mut Self) {
        // A block that is not full is last here, where more can be put into it.
        self.blocks.splice(0..0, other.blocks.drain(..));
    }

    /// The numbers, in slices of at most [`BLOCK`] values.
    pub(super) fn slices(&self) -> impl Iterator<Item = &[T]> {
        self.blocks.iter().flat_map(|block| block.values().chunks(BLOCK))
    }

    /// Takes the blocks out one by one, and gives their memory back.
    ///
    /// # Errors
    /// Whatever `take` answers.
    pub(super) fn drain(
        &mut self,
        lease: &Mutex<Lease>,
        mut take: impl FnMut(&[T]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        while let Some(block) = self.blocks.pop() {
            block.values().chunks(BLOCK).try_for_each(&mut take)?;
            let bytes = block.bytes();
            drop(block);
            lock(lease).give_back(bytes);
        }
        Ok(())
    }
}

impl<T: Word> fmt::Debug for Column<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Column").field("blocks", &self.blocks.len()).finish()
    }
}

impl<T: Mapped> Block<T> {
    fn values(&self) -> &[T] {
        match self {
            Block::Small(values) => values,
            Block::Page { page, filled } => &page[..*filled],
            Block::Mapped(view) => T::mapped(view),
        }
    }

    /// Of memory of our own.
    fn bytes(&self) -> u64 {
        let values = match self {
            Block::Small(values) => values.capacity(),
            Block::Page { page, .. } => page.len(),
            Block::Mapped(_) => 0,
        };
        (values * size_of::<T>()) as u64
    }
}

/// Memory for so many values, whose lease has been taken.
pub(super) fn page<T: Word>(values: usize) -> Result<Slab<T>, Fault> {
    Slab::new(values).map_err(|error| {
        Fault::new(FaultKind::TooLarge, format!("the system has no memory for more numbers: {error}"))
    })
}
