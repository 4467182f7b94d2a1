//! Arrays that are used where they are: each page is looked at just before its numbers, so that none is allocated by being
//! read.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use task_proto::fault::{Fault, FaultKind};
use task_proto::stats::Missing;

use crate::engine::column::BLOCK;
use crate::engine::crew::Crew;
use crate::engine::map::View;
use crate::engine::median::sum_and_middle;
use crate::engine::raw;
use crate::engine::sequence::missing;
use crate::engine::{Collector, Engine, Lease};

/// Looks at the blocks of a view, on all threads; nothing comes of it where one of them is not in memory.
fn look_at<T: Sync>(
    collector: &Collector,
    view: &View,
    blocks: &[&[T]],
    crew: &Crew<'_>,
    look: impl Fn(&mut Collector, &[T]) + Sync,
) -> Result<Option<Vec<Collector>>, Fault> {
    let absent = AtomicBool::new(false);
    let another = collector.beside();
    let looked = crew.fold(
        blocks.len(),
        || another.beside(),
        |collector, index| {
            let (begin, block) = (index * BLOCK, blocks[index]);
            if !view.is_there(begin..begin + block.len()) {
                absent.store(true, Relaxed);
                return Err(Fault::new(FaultKind::Unreadable, "a page is not in memory"));
            }
            look(collector, block);
            Ok(())
        },
    );
    if absent.into_inner() {
        return Ok(None);
    }
    let looked = looked?;
    view.was_there();
    Ok(Some(looked))
}

/// Looks at integers, and keeps them where they are; false if they are to be read.
///
/// # Errors
/// The checkpoint's.
pub(super) fn look_at_ints(collector: &mut Collector, view: View, crew: &Crew<'_>) -> Result<bool, Fault> {
    let blocks: Vec<_> = view.ints().chunks(BLOCK).collect();
    let Some(looked) = look_at(collector, &view, &blocks, crew, Collector::look_at_ints)? else {
        return Ok(false);
    };
    for other in looked {
        collector.absorb(other);
    }
    collector.mapped_ints(view);
    Ok(true)
}

/// Looks at floats, likewise.
///
/// # Errors
/// `MissingValue`, the checkpoint's.
pub(super) fn look_at_floats(collector: &mut Collector, view: View, crew: &Crew<'_>) -> Result<bool, Fault> {
    let blocks: Vec<_> = view.floats().chunks(BLOCK).collect();
    let Some(looked) = look_at(collector, &view, &blocks, crew, Collector::look_at_floats)? else {
        return Ok(false);
    };
    let missing: u64 = looked.iter().map(Collector::missing).sum();
    if missing > 0 && collector.policy() == Missing::Error {
        return Err(missing_at(&blocks, crew));
    }
    for other in looked {
        collector.absorb(other);
    }
    collector.mapped_floats(view);
    Ok(true)
}

/// Finds the middle of the numbers in the same pass: their sum and the bracket of their median cost less together, while a
/// block is in the cache.
pub(super) fn find_middle(
    collector: &mut Collector,
    view: View,
    engine: &Engine,
    mut lease: Lease,
    crew: &Crew<'_>,
) -> Result<bool, Fault> {
    let blocks: Vec<_> = view.floats().chunks(BLOCK).collect();
    if look_at(collector, &view, &blocks, crew, |_, _| ())?.is_none() {
        return Ok(false);
    }
    let found = sum_and_middle(engine.simd, crew, &blocks, &mut lease, engine.seed);
    drop(lease);
    let (sum, missing, middle) = match found {
        // For the sum alone there is room: only who asks for the median is to hear of it.
        Err(fault) if fault.kind == FaultKind::TooLarge => return look_at_floats(collector, view, crew),
        found => found?,
    };
    if missing > 0 && collector.policy() == Missing::Error {
        return Err(missing_at(&blocks, crew));
    }
    collector.summed(&sum, view.floats().len() as u64 - missing, missing);
    collector.mapped_floats(view);
    collector.found(middle);
    Ok(true)
}

/// The fault of the first value that is missing.
fn missing_at(blocks: &[&[f64]], crew: &Crew<'_>) -> Fault {
    let mut before = 0;
    for block in blocks {
        if let Err(fault) = crew.checkpoint() {
            return fault;
        }
        if let Some(first) = block.iter().position(|float| float.is_nan()) {
            before += first;
            break;
        }
        before += block.len();
    }
    raw::at(missing(), before as u64 + 1)
}
