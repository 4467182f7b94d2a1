//! What the answers must be: exact, by plain means, from sequences whose values are multiples of one small fraction.

use std::collections::BTreeMap;

use task_proto::fault::{Fault, FaultKind};
use task_proto::limits::MODES_LISTED;
use task_proto::number::Number;
use task_proto::stats::{Mean, Median, Mode, StatsResponse};

/// Floats are multiples of 1/1024: sums of them fit an `i128`, and each of them an `f64`, exactly.
pub(crate) const UNITS: i128 = 1024;

/// A sequence: multiples of one over `units`, which is 1 (all are integers) or [`UNITS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) multiples: Vec<i128>,
    pub(crate) units: i128,
    /// Missing values that were skipped.
    pub(crate) missing: u64,
}

/// A statistic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statistic {
    Mean,
    Median,
    Mode,
}

/// What every statistic of an input must be.
#[derive(Debug)]
pub(crate) enum Expected {
    Answers(Box<(Mean, Median, Mode)>),
    /// A token at this line and column is no number.
    Fault {
        line: u64,
        column: u64,
    },
}

impl Sequence {
    fn number(&self, multiple: i128) -> Number {
        if self.units == 1 {
            Number::Int(multiple as i64)
        } else {
            Number::Float(nearest(multiple, self.units as u128))
        }
    }

    pub(crate) fn expected(&self) -> Expected {
        let mut sorted = self.multiples.clone();
        sorted.sort_unstable();
        let (count, missing, warnings) = (sorted.len() as u64, self.missing, Vec::new());
        let value = Number::Float(nearest(sorted.iter().sum(), u128::from(count) * self.units as u128));
        let mean = Mean { value, count, missing, warnings: warnings.clone() };

        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        let value = if count % 2 == 1 {
            self.number(low)
        } else {
            Number::Float(nearest(low + high, 2 * self.units as u128))
        };
        let (low, high) = (self.number(low), self.number(high));
        let median = Median { value, low, high, count, missing, warnings: warnings.clone() };

        let mut counts = BTreeMap::<_, u64>::new();
        for value in &sorted {
            *counts.entry(value).or_default() += 1;
        }
        let frequency = counts.values().copied().max().unwrap_or_default();
        let mut modes: Vec<_> = counts.iter().filter(|(_, times)| **times == frequency).collect();
        if modes.len() == counts.len() && counts.len() > 1 {
            modes.clear();
        }
        let values = modes.iter().take(MODES_LISTED).map(|(value, _)| self.number(***value)).collect();
        let mode = Mode { values, frequency, total: modes.len() as u64, count, missing, warnings };
        Expected::Answers(Box::new((mean, median, mode)))
    }
}

impl Expected {
    /// Whether this reply is the right one.
    pub(crate) fn is(&self, statistic: Statistic, reply: &StatsResponse) -> bool {
        match (self, statistic, reply) {
            (Expected::Answers(right), Statistic::Mean, StatsResponse::Mean(Ok(answer))) => {
                right.0 == *answer
            }
            (Expected::Answers(right), Statistic::Median, StatsResponse::Median(Ok(answer))) => {
                right.1 == *answer
            }
            (Expected::Answers(right), Statistic::Mode, StatsResponse::Mode(Ok(answer))) => {
                right.2 == *answer
            }
            (Expected::Fault { line, column }, Statistic::Mean, StatsResponse::Mean(Err(fault)))
            | (Expected::Fault { line, column }, Statistic::Median, StatsResponse::Median(Err(fault)))
            | (Expected::Fault { line, column }, Statistic::Mode, StatsResponse::Mode(Err(fault))) => {
                matches!(fault, Fault { kind: FaultKind::NotANumber, line: Some(l), column: Some(c), .. }
                    if l == line && c == column)
            }
            _ => false,
        }
    }
}

/// The `f64` nearest to `numerator / denominator`, ties to even.
fn nearest(numerator: i128, denominator: u128) -> f64 {
    let bits = |number: u128| i64::from(u128::BITS - number.leading_zeros());
    let magnitude = numerator.unsigned_abs();
    // The quotient gets at least 55 bits, 53 for the result and two to round by; the last tells of a remainder.
    let shift = (56 + bits(denominator) - bits(magnitude)).max(0) as u32;
    let quotient = (magnitude << shift) / denominator;
    let sticky = u128::from(!(magnitude << shift).is_multiple_of(denominator));
    // From u128 it is rounded once, to even; then scaled by a power of two, which is exact.
    let nearest = (quotient | sticky) as f64 / 2_f64.powi(shift.cast_signed());
    if numerator < 0 { -nearest } else { nearest }
}

/// Fails unless the oracle knows what can be reckoned on paper.
pub(crate) fn check() {
    assert_eq!(nearest(1, 3).to_bits(), (1.0_f64 / 3.0).to_bits());
    assert_eq!(nearest(-2, 3).to_bits(), (-2.0_f64 / 3.0).to_bits());
    assert_eq!(nearest(0, 7).to_bits(), 0.0_f64.to_bits());
    // 2^53 + 1 lies between two floats and goes to the even one; the least more goes to the other.
    assert_eq!(nearest((1 << 53) + 1, 1).to_bits(), 9_007_199_254_740_992.0_f64.to_bits());
    assert_eq!(nearest(((1 << 53) + 1) * 1000 + 1, 1000).to_bits(), 9_007_199_254_740_994.0_f64.to_bits());
    let int = Number::Int;
    let sequence = |multiples: &[i128], units| Sequence { multiples: multiples.to_vec(), units, missing: 0 };
    let Expected::Answers(answers) = sequence(&[1, 5, 3, 1, 13, 5, 2, 4], 1).expected() else {
        panic!("numbers have answers")
    };
    let (mean, median, mode) = *answers;
    assert_eq!(mean.value, Number::Float(4.25));
    assert_eq!((median.value, median.low, median.high), (Number::Float(3.5), int(3), int(4)));
    assert_eq!((mode.values, mode.frequency, mode.total), (vec![int(1), int(5)], 2, 2));
    let Expected::Answers(answers) = sequence(&[512, -1024], UNITS).expected() else {
        panic!("numbers have answers")
    };
    let (mean, median, mode) = *answers;
    assert_eq!((mean.value, median.low), (Number::Float(-0.25), Number::Float(-1.0)));
    assert_eq!((mode.values.len(), mode.frequency, mode.total), (0, 1, 0));
}
