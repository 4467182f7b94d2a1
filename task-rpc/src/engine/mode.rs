//! The values that occur most often, exactly, in one of five ways.
//!
//! * [few values](few): sort and tally.
//! * [A small range of integers](range): a counter for each of them.
//! * [Some values that are frequent](survey): exact counts for those, and upper bounds for the rest that mostly prove,
//!   in one pass, that nothing else is as frequent.
//! * [Values that seem to be all different](distinct): some bits of their hashes prove it, of all but a few.
//! * [The rest](partition): the values are split by their hash into parts that fit the L2 cache, and each is counted.
//!
//! A random sample chooses. It decides how long the answer takes, never what it is: each way proves that what
//! it counted is all, or hands over to the next.

mod distinct;
mod few;
mod partition;
mod range;
mod sample;
mod split;
mod survey;
mod tally;
#[cfg(test)]
mod tests;

use crate::engine::budget::Budget;
use crate::engine::crew::Crew;
use crate::engine::kernels::codes::Mix;
use crate::engine::simd::Simd;
use crate::engine::value::Value;
use task_proto::fault::Fault;
use task_proto::limits::MODES_LISTED;

use sample::Sample;
use survey::Dictionary;
use tally::Tally;

/// Values converted at once: 4 KiB of them, and what they become, stay in the L1 cache while the next ones
/// come. Twice as many took up to 1.5 times as long.
const CHUNK: usize = 512;
/// How many modes are listed.
pub(super) const LISTED: usize = MODES_LISTED;

/// The values that occur most often.
#[derive(Debug, Clone, PartialEq)]
pub struct Modes<V> {
    /// The 1000 smallest of them, ascending.
    pub values: Vec<V>,
    /// How often each occurs.
    pub frequency: u64,
    /// How many there are; 0 when two or more distinct values all occur equally often.
    pub total: u64,
}

impl<V> Modes<V> {
    /// The same, with values of another kind.
    pub(super) fn map<W>(self, value: impl FnMut(V) -> W) -> Modes<W> {
        let Modes { values, frequency, total } = self;
        Modes { values: values.into_iter().map(value).collect(), frequency, total }
    }
}

/// The values that occur most often among `count` numbers in these blocks, each of at most 2^18 values, where NaN
/// is none and −0 is 0. The seed decides how long it takes.
///
/// # Errors
/// `TooLarge` if the budget has no room for the scratch memory, at most that of the values and some MiB; the
/// crew's.
pub fn modes<V: Value>(
    simd: Simd,
    crew: &Crew<'_>,
    blocks: &[&[V]],
    count: u64,
    budget: &Budget,
    seed: u64,
) -> Result<Modes<V>, Fault> {
    let work = Work { simd, crew, blocks, budget };
    if count <= few::MOST {
        return Ok(few::tally(&work, count)?.finish(count));
    }
    let sample = Sample::new(&work, seed)?;
    if let Some(range) = range::Range::of::<V>(&sample, count)
        && let Some(tally) = range::tally(&work, range)?
    {
        return Ok(tally.finish(count));
    }
    let (dictionary, rules_out) = Dictionary::of::<V>(simd, &sample, seed);
    if rules_out {
        return Ok(surveyed(&work, dictionary)?.finish(count));
    }
    let mix = Mix::new(seed);
    if sample.repeated().is_empty()
        && let Some(tally) = distinct::tally(&work, &mix, count)?
    {
        return Ok(tally.finish(count));
    }
    Ok(partition::tally(&work, &mix, None, count)?.finish(count))
}

/// Tallies all values, with a second pass where the first is no proof.
fn surveyed<V: Value>(work: &Work<'_, V>, dictionary: Dictionary) -> Result<Tally, Fault> {
    let survey = survey::survey(work, dictionary)?;
    if survey.suspects == 0 {
        return Ok(survey.tally);
    }
    let suspects = partition::tally(work, survey.mix(), Some(&survey), survey.suspects)?;
    Ok(suspects.merge(survey.tally))
}

/// What every way works on.
struct Work<'a, V> {
    simd: Simd,
    crew: &'a Crew<'a>,
    blocks: &'a [&'a [V]],
    budget: &'a Budget,
}
