use std::slice;

use task_proto::fault::FaultKind;

use super::*;
use crate::engine::{Data, Engine, Median, Modes};

fn collector(budget: &Budget) -> Collector {
    Collector::new(Simd::best(), budget, Missing::Error)
}

/// What is asked of all of these, one after the other.
async fn answers(sequence: Sequence, budget: &Budget) -> (f64, Median, Modes<Number>) {
    let mean = sequence.mean();
    let data = Arc::new(Data::new(sequence, Engine::new(Simd::best(), budget.clone())));
    (mean, *data.median().await.unwrap(), data.modes().await.unwrap().as_ref().clone())
}

#[tokio::test]
async fn a_few_others_among_small_integers_cost_no_memory_for_all() {
    let budget = Budget::new(Some(64 << 20));
    let ints: Vec<i64> = (0..400_000_i64).map(|index| index * index % 1000 - 500).collect();
    // Among floats the sum of these is 0, and otherwise −1.
    let outliers = [i64::MAX, i64::MIN, 1 << 40, -1 << 40];
    let floats = [0.5, -0.0, 17.0, f64::INFINITY, 1e300];
    // None of a kind, some, and more than are sorted.
    let many: Vec<f64> = (0..100_000).map(|index| f64::from(index) + 0.25).collect();
    for (outliers, floats) in [
        (&outliers[..], &[][..]),
        (&[], &floats[..3]),
        (&outliers, &floats[..3]),
        (&outliers, &floats),
        (&outliers, &many),
    ] {
        let mut collector = collector(&budget);
        collector.ints(&ints[..200_000]).unwrap();
        let mut other = collector.beside();
        for outlier in outliers {
            other.ints(slice::from_ref(outlier)).unwrap();
        }
        other.floats(floats).unwrap();
        other.ints(&ints[200_000..]).unwrap();
        collector.absorb(other);
        let sequence = collector.finish(&|| Ok(())).unwrap();
        let count = sequence.count();
        let few = floats.len() < many.len();
        assert_eq!(sequence.is_float(), !floats.is_empty());
        assert_eq!(budget.used() < 100_000, few, "{} bytes", budget.used());
        let found = answers(sequence, &budget).await;
        assert_eq!(budget.used(), 0, "it is gone");

        let all: Vec<i64> = ints.iter().chain(outliers).copied().collect();
        // The same numbers, as they are kept one by one: mapped arrays are, and these are looked at here.
        let expected = if floats.is_empty() {
            let mut sorted = all.clone();
            sorted.sort_unstable();
            let sum = all.iter().map(|&int| i128::from(int)).sum();
            expected(mean_of_ints(sum, count), &sorted, Number::Int)
        } else {
            let mut sorted: Vec<f64> =
                all.iter().map(|&int| int as f64).chain(floats.iter().map(|float| float + 0.0)).collect();
            sorted.sort_unstable_by(f64::total_cmp);
            let mut sum = Sum::default();
            sum.add(Simd::best(), &sorted);
            expected(sum.mean(count), &sorted, Number::Float)
        };
        assert_eq!(found, expected);
    }
}

/// The answers for numbers in ascending order, of this mean.
fn expected<V: Value>(mean: f64, sorted: &[V], number: fn(V) -> Number) -> (f64, Median, Modes<Number>) {
    let count = sorted.len();
    let median = Median::of(count as u64, sorted[(count - 1) / 2], sorted[count / 2], number);
    let runs: Vec<_> = sorted.chunk_by(|left, right| left.key() == right.key()).collect();
    let frequency = runs.iter().map(|run| run.len()).max().unwrap();
    let modes: Vec<_> = runs.iter().filter(|run| run.len() == frequency).map(|run| number(run[0])).collect();
    assert!(modes.len() < 1000 && modes.len() < runs.len());
    (mean, median, Modes { total: modes.len() as u64, values: modes, frequency: frequency as u64 })
}

#[test]
fn what_counts_on_many_threads_takes_the_memory_of_one_afterwards() {
    let budget = Budget::new(None);
    let mut collector = collector(&budget);
    let ints: Vec<i64> = (0..100_000).map(|index| index % 100).collect();
    for _ in 0..50 {
        let mut other = collector.beside();
        other.ints(&ints).unwrap();
        assert!(budget.used() >= counts::BYTES);
        collector.absorb(other);
    }
    assert!(budget.used() <= counts::BYTES, "{} bytes", budget.used());
    let sequence = collector.finish(&|| Ok(())).unwrap();
    assert_eq!(sequence.count(), 5_000_000);
    assert!(budget.used() <= tallied::kept(100), "{} bytes", budget.used());
}

#[test]
fn a_few_thousand_are_counted_where_that_saves_all_work_with_them() {
    // One after the other, each run is of a narrow range.
    for (step, range, counted) in
        [(7919, 1000, true), (7919, 4000, false), (7919, 60_000, false), (1, 60_000, false)]
    {
        let budget = Budget::new(None);
        let mut collector = collector(&budget);
        let ints: Vec<_> = (0..10_000).map(|index| index * step % range).collect();
        ints.chunks(2048).for_each(|ints| collector.ints(ints).unwrap());
        assert_eq!(collector.counts.is_some(), counted, "{range}");
        assert!(!collector.window.is_given_up(), "more of them may yet be counted");
        let sequence = collector.finish(&|| Ok(())).unwrap();
        assert_eq!(matches!(sequence.values, Values::TalliedInts(_)), counted, "{range}");
    }
}

#[test]
fn some_others_among_the_first_do_not_end_the_counting() {
    let narrow: Vec<i64> = (0..1_000_000).map(|index| index % 100).collect();
    for before in [0, 8192] {
        let mut collector = collector(&Budget::new(None));
        let (first, rest) = narrow.split_at(before);
        for ints in [first, &[1 << 40; 200], rest] {
            ints.chunks(2048).for_each(|ints| collector.ints(ints).unwrap());
        }
        assert!(collector.counts.is_some() && !collector.window.is_given_up(), "after {before}");
        let sequence = collector.finish(&|| Ok(())).unwrap();
        assert!(matches!(sequence.values, Values::TalliedInts(_)), "after {before}");
    }
}

#[test]
fn a_run_of_others_does_not_end_the_counting_of_many() {
    let budget = Budget::new(None);
    let mut collector = collector(&budget);
    let ints: Vec<i64> = (0..1_000_000).map(|index| index % 100).collect();
    collector.ints(&ints).unwrap();
    collector.ints(&[1 << 40; 60]).unwrap();
    collector.ints(&ints).unwrap();
    assert!(!collector.window.is_given_up());
    // But as many others as there are of these do.
    collector.ints(&vec![1 << 40; 1_000_000]).unwrap();
    assert!(collector.window.is_given_up());
}

#[test]
fn to_tally_looks_at_its_cancellation() {
    for floats in [&[][..], &[0.5; 10]] {
        let mut collector = collector(&Budget::new(None));
        collector.ints(&vec![7; 100_000]).unwrap();
        collector.ints(&[1 << 40]).unwrap();
        collector.floats(floats).unwrap();
        let cancelled = || Err(Fault::new(FaultKind::Cancelled, ""));
        assert_eq!(collector.finish(&cancelled).unwrap_err().kind, FaultKind::Cancelled);
    }
}
