//! What must hold of an answer, whatever the numbers: they are few, so a plain sum and a plain count will do.

use task_proto::fault::FaultKind;
use task_proto::number::Number;
use task_proto::stats::{Missing, Query, Source, StatsRequest, StatsResponse};

/// Panics if this is no answer to that.
pub(crate) fn check(request: &StatsRequest, answer: &StatsResponse) {
    let right = match (request, answer) {
        (StatsRequest::Ping {}, StatsResponse::Ping(pong)) => pong.pid == std::process::id(),
        // Nothing is ever attached.
        (StatsRequest::Release { .. }, StatsResponse::Release(released)) => {
            released.as_ref().is_err_and(|fault| fault.kind == FaultKind::NoAttachment)
        }
        (StatsRequest::Mean { query }, StatsResponse::Mean(answer)) => match answer {
            Ok(mean) => {
                let exact = integers(query).is_none_or(|integers| {
                    let sum: i128 = integers.iter().map(|&integer| i128::from(integer)).sum();
                    close(mean.value.to_f64(), sum as f64 / integers.len() as f64)
                });
                exact && counted(query, mean.count, mean.missing)
            }
            Err(fault) => faulty(query, fault.kind),
        },
        (StatsRequest::Median { query }, StatsResponse::Median(answer)) => match answer {
            Ok(median) => {
                let exact = integers(query).is_none_or(|mut integers| {
                    integers.sort_unstable();
                    let low = Number::Int(integers[(integers.len() - 1) / 2]);
                    let high = Number::Int(integers[integers.len() / 2]);
                    (median.low, median.high) == (low, high)
                });
                exact && counted(query, median.count, median.missing)
            }
            Err(fault) => faulty(query, fault.kind),
        },
        (StatsRequest::Mode { query }, StatsResponse::Mode(answer)) => match answer {
            Ok(mode) => {
                let exact = integers(query).is_none_or(|integers| {
                    let often = |value: &Number| {
                        integers.iter().filter(|&&integer| Number::Int(integer) == *value).count() as u64
                    };
                    mode.values.iter().all(|value| often(value) == mode.frequency)
                });
                let listed = mode.values.len() as u64;
                exact
                    && listed <= mode.total
                    && mode.total.saturating_mul(mode.frequency) <= mode.count
                    && counted(query, mode.count, mode.missing)
            }
            Err(fault) => faulty(query, fault.kind),
        },
        _ => false,
    };
    assert!(right, "{request:?} was answered with {answer:?}");
}

fn counted(query: &Query, count: u64, missing: u64) -> bool {
    let given: usize = query.sources.iter().map(|source| numbers(source).map_or(0, <[_]>::len)).sum();
    count + missing == given as u64 && (missing == 0 || query.missing == Missing::Skip)
}

/// Whether a query may fail so.
fn faulty(query: &Query, kind: FaultKind) -> bool {
    let attached = query.sources.iter().any(|source| numbers(source).is_none());
    match kind {
        FaultKind::NoAttachment | FaultKind::TooLarge => attached,
        FaultKind::MissingValue => query.missing == Missing::Error,
        FaultKind::EmptyInput => integers(query).is_none_or(|integers| integers.is_empty()),
        _ => false,
    }
}

fn numbers(source: &Source) -> Option<&[Number]> {
    match source {
        Source::Numbers(numbers) => Some(numbers),
        Source::Attached { .. } => None,
    }
}

/// The numbers, if they are integers, one by one and all together.
fn integers(query: &Query) -> Option<Vec<i64>> {
    let numbers: Vec<_> = query.sources.iter().map(numbers).collect::<Option<_>>()?;
    let integer = |number: &Number| match number {
        Number::Int(integer) => Some(*integer),
        Number::Float(_) => None,
    };
    numbers.concat().iter().map(integer).collect()
}

fn close(one: f64, other: f64) -> bool {
    (one - other).abs() <= other.abs() * 1e-12
}
