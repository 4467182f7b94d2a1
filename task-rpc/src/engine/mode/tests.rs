//! Every way, level and number of threads against an oracle of a few lines, on shapes that hurt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;
use task_proto::fault::FaultKind;

/// The definition.
fn oracle<V: Value>(values: &[V]) -> Modes<V> {
    let mut counts = BTreeMap::new();
    for value in values.iter().filter(|value| value.partial_cmp(value).is_some()) {
        *counts.entry(value.key()).or_insert(0_u64) += 1;
    }
    let frequency = counts.values().copied().max().unwrap_or(0);
    let modes: Vec<_> =
        counts.iter().filter(|(_, times)| **times == frequency).map(|(key, _)| *key).collect();
    if counts.len() >= 2 && modes.len() == counts.len() {
        return Modes { values: Vec::new(), frequency, total: 0 };
    }
    Modes {
        values: modes.iter().take(1000).copied().map(V::from_key).collect(),
        frequency,
        total: modes.len() as u64,
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        Mix::new(self.0).hash(0)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

fn blocks<'v, V>(random: &mut Random, values: &'v [V]) -> Vec<&'v [V]> {
    let mut blocks = Vec::new();
    let mut rest = values;
    let most = random.below(4 * CHUNK as u64) + 1;
    while !rest.is_empty() {
        let (block, after) =
            rest.split_at((random.below(most) as usize + random.below(2) as usize).min(rest.len()));
        blocks.push(block);
        rest = after;
    }
    blocks
}

/// How often that way has said something.
static DISTINCT: AtomicU64 = AtomicU64::new(0);

/// What each way says that says something.
fn every_way<V: Value>(work: &Work<'_, V>, count: u64, seed: u64) -> Vec<(&'static str, Modes<V>)> {
    let Work { simd, crew, blocks, budget } = *work;
    let mut ways = vec![
        ("chosen", modes(simd, crew, blocks, count, budget, seed).unwrap()),
        ("few", few::tally(work, count).unwrap().finish(count)),
    ];
    // A single number is never partitioned.
    if count < 2 {
        return ways;
    }
    ways.push(("partition", partition::tally(work, &Mix::new(seed), None, count).unwrap().finish(count)));
    if let Some(tally) = distinct::tally(work, &Mix::new(seed), count).unwrap() {
        ways.push(("distinct", tally.finish(count)));
        DISTINCT.fetch_add(1, Relaxed);
    }
    let sample = Sample::new(work, seed).unwrap();
    let (dictionary, _) = Dictionary::of::<V>(simd, &sample, seed);
    ways.push(("survey", surveyed(work, dictionary).unwrap().finish(count)));
    if let Some(range) = range::Range::of::<V>(&sample, count)
        && let Some(tally) = range::tally(work, range).unwrap()
    {
        ways.push(("range", tally.finish(count)));
    }
    ways
}

fn check<V: Value>(random: &mut Random, name: &str, values: &[V]) {
    let expected = oracle(values);
    let count = values.iter().filter(|value| value.partial_cmp(value).is_some()).count() as u64;
    let blocks = blocks(random, values);
    let seed = random.next();
    for simd in Simd::all() {
        let threads = 1 + random.below(3) as usize;
        let crew = Crew::new(threads, &|| Ok(()));
        let budget = Budget::unlimited();
        let work = Work { simd, crew: &crew, blocks: &blocks, budget: &budget };
        for (way, modes) in every_way(&work, count, seed) {
            let same = modes == expected
                // Equal, and no −0.
                && modes.values.iter().zip(&expected.values).all(|(a, b)| format!("{a:?}") == format!("{b:?}"));
            assert!(
                same,
                "{name}, {way}, {simd:?}, {threads} threads, seed {seed}, {} values: {} × {} instead of {} × {}",
                values.len(),
                modes.total,
                modes.frequency,
                expected.total,
                expected.frequency,
            );
        }
        assert_eq!(budget.used(), 0);
    }
}

fn length(random: &mut Random) -> usize {
    let most = [3, 70, 1500, 6000, 20_000][random.below(5) as usize];
    random.below(most) as usize
}

/// One generator of values for each shape.
fn integers(random: &mut Random, shape: u64, len: usize) -> (&'static str, Vec<i64>) {
    let n = len as u64;
    let base = [0, -500, i64::MIN, i64::MAX - 999, 1 << 53][random.below(5) as usize];
    let mut make =
        |value: &mut dyn FnMut(&mut Random, u64) -> i64| (0..n).map(|index| value(random, index)).collect();
    match shape {
        0 => ("range", make(&mut |random, _| base + random.below(1000) as i64)),
        1 => (
            "range with outliers",
            make(&mut |random, _| match random.below(200) {
                0 => random.next() as i64 >> random.below(64),
                _ => base + random.below(100) as i64,
            }),
        ),
        2 => ("unique", make(&mut |_, index| (index as i64).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64))),
        3 => ("each twice", make(&mut |_, index| ((index % n.div_ceil(2)) as i64) << 40)),
        4 => ("equal", make(&mut |_, _| base)),
        5 => ("two", make(&mut |random, _| if random.below(2) == 0 { i64::MAX } else { i64::MIN })),
        6 => (
            "skewed",
            make(&mut |random, _| {
                let most = random.next() >> random.below(64);
                random.below(most) as i64
            }),
        ),
        7 => (
            "half of them one",
            make(&mut |random, _| if random.below(2) == 0 { 7 } else { random.next() as i64 }),
        ),
        8 => ("sorted, ties", make(&mut |_, index| (index / 3) as i64 * 1_000_003)),
        9 => ("reversed, ties", make(&mut |_, index| -((index / 5) as i64) << 33)),
        _ => (
            "ends alike",
            make(&mut |_, index| {
                if index < 300 {
                    5
                } else if index + 300 >= n {
                    6
                } else {
                    index as i64
                }
            }),
        ),
    }
}

fn floats(random: &mut Random, shape: u64, len: usize) -> (&'static str, Vec<f64>) {
    let (name, integers) = integers(random, shape, len);
    let kind = random.below(4);
    let values = integers.into_iter().map(|integer| match (kind, random.below(50)) {
        // NaN, of both signs.
        (1, 0..2) => f64::from_bits(u64::MAX >> random.below(2)),
        (1, 2) => [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY][random.below(4) as usize],
        (1, _) => integer as f64 * 0.1,
        (2, 0..25) => f64::NAN,
        (0 | 2, _) => integer as f64,
        // Any bits: all exponents, subnormals, infinities, NaN.
        _ => f64::from_bits(integer as u64),
    });
    (name, values.collect())
}

#[test]
fn every_way_finds_what_the_definition_says() {
    let cases = std::env::var("CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(330);
    let mut random = Random(std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1));
    for case in 0..cases {
        let len = length(&mut random);
        let (name, values) = integers(&mut random, case % 11, len);
        check(&mut random, name, &values);
        let (name, values) = floats(&mut random, case % 11, len);
        check(&mut random, name, &values);
    }
    assert!(DISTINCT.load(Relaxed) > cases / 10, "{DISTINCT:?}");
}

#[test]
fn no_numbers_have_no_mode_and_one_number_is_its_own() {
    let mut random = Random(3);
    check::<i64>(&mut random, "none", &[]);
    check(&mut random, "one", &[i64::MAX]);
    check(&mut random, "two", &[1, 2]);
    check(&mut random, "missing", &vec![f64::NAN; 5000]);
    let mut values = vec![f64::NAN; 5000];
    values[4321] = -0.0;
    check(&mut random, "one among missing", &values);
    values[1] = 0.0;
    check(&mut random, "zeros among missing", &values);
}

#[test]
fn zeros_are_one_value_and_shown_without_sign() {
    let mut random = Random(4);
    let zeros: Vec<f64> = (0..9000).map(|index| [0.0, -0.0, index as f64][index % 3]).collect();
    check(&mut random, "zeros", &zeros);
    let zeros: Vec<f64> = (0..9000).map(|index| [0.0, -0.0, index as f64 * 1e300][index % 3]).collect();
    check(&mut random, "zeros", &zeros);
}

#[test]
fn more_modes_than_are_listed_are_counted() {
    let mut random = Random(5);
    let mut values: Vec<i64> =
        (0..6000).flat_map(|index| [index * 1_000_000_007, index * 1_000_000_007]).collect();
    values.push(-5);
    for index in (1..values.len()).rev() {
        values.swap(index, random.below(index as u64 + 1) as usize);
    }
    assert_eq!(oracle(&values).total, 6000);
    check(&mut random, "6000 modes", &values);
}

#[test]
fn values_that_the_sample_misses_are_found() {
    // A mode in a row, between values that a sample sees more often only by chance.
    let mut random = Random(6);
    for run in [30, 60, 120] {
        let mut values: Vec<i64> = (0..20_000).map(|_| (random.below(400) as i64) << 50).collect();
        let at = random.below(19_000) as usize;
        values[at..at + run].fill(3);
        check(&mut random, "a run", &values);
    }
}

#[test]
fn without_room_for_scratch_it_is_too_large_before_anything_is_allocated() {
    let values: Vec<i64> = (0..50_000).map(|index| index << 44).collect();
    let blocks: Vec<&[i64]> = values.chunks(1000).collect();
    let crew = Crew::new(2, &|| Ok(()));
    let limit = |bytes| {
        let budget = Budget::new(Some(bytes));
        modes(Simd::best(), &crew, &blocks, 50_000, &budget, 1).map_err(|fault| fault.kind)
    };
    assert_eq!(limit(50_000 * 8), Err(FaultKind::TooLarge));
    assert_eq!(limit(50_000 * 8 + (1 << 20)).unwrap().total, 0);
}

#[test]
fn different_values_take_less_memory_than_others() {
    let crew = Crew::new(2, &|| Ok(()));
    let numbers = |alike: u64| (0..3_000_000).map(|index| (index / alike * alike) << 40).collect::<Vec<_>>();
    let total = |numbers: &[u64], megabytes: u64| {
        let values: Vec<i64> = numbers.iter().map(|number| *number as i64).collect();
        let blocks: Vec<&[i64]> = values.chunks(1 << 18).collect();
        let budget = Budget::new(Some(megabytes << 20));
        let modes = modes(Simd::best(), &crew, &blocks, values.len() as u64, &budget, 1);
        assert_eq!(budget.used(), 0);
        modes.map(|modes| modes.total).map_err(|fault| fault.kind)
    };
    let different = numbers(1);
    assert_eq!(total(&different, 23), Ok(0), "the values take 24");
    assert_eq!(total(&different, 10), Err(FaultKind::TooLarge));
    // A few of them twice are counted in no more memory.
    let mut some = different;
    some[1_000_000..1_001_000].copy_from_slice(&(0..1000).map(|index| index << 40).collect::<Vec<_>>());
    assert_eq!(total(&some, 23), Ok(1000));
    assert_eq!(total(&numbers(2), 23), Err(FaultKind::TooLarge));
    assert_eq!(total(&numbers(2), 34), Ok(0));
}

#[test]
fn a_cancellation_is_seen_at_each_look() {
    let mut random = Random(7);
    for shape in 0..11 {
        let (_, values) = integers(&mut random, shape, 20_000);
        let blocks: Vec<&[i64]> = values.chunks(1000).collect();
        let run = |allowed: u64| {
            let looks = AtomicU64::new(0);
            let look = || {
                if looks.fetch_add(1, Relaxed) < allowed {
                    return Ok(());
                }
                Err(Fault::new(FaultKind::Cancelled, ""))
            };
            let crew = Crew::new(1, &look);
            let outcome = modes(Simd::best(), &crew, &blocks, 20_000, &Budget::unlimited(), 1);
            (looks.load(Relaxed), outcome.map_err(|fault| fault.kind))
        };
        let (all, outcome) = run(u64::MAX);
        assert!(outcome.is_ok() && all > 20, "{all} looks");
        for allowed in [0, 1, all / 2, all - 1] {
            assert_eq!(run(allowed), (allowed + 1, Err(FaultKind::Cancelled)));
        }
    }
}

#[test]
fn a_count_that_is_too_small_is_an_error_and_no_panic() {
    let values: Vec<i64> = (0..5000).map(|index| index << 50).collect();
    let crew = Crew::new(2, &|| Ok(()));
    let outcome = modes(Simd::best(), &crew, &[&values[..]], 100, &Budget::unlimited(), 1);
    assert_eq!(outcome.map_err(|fault| fault.kind), Err(FaultKind::Internal));
}

#[test]
fn what_is_outside_of_a_range_counts_or_the_range_is_given_up() {
    for threads in [1, 2, 3] {
        let crew = Crew::new(threads, &|| Ok(()));
        let budget = Budget::unlimited();
        for simd in Simd::all() {
            let tally = |values: &[f64]| {
                let blocks: Vec<&[f64]> = values.chunks(700).collect();
                let work = Work { simd, crew: &crew, blocks: &blocks, budget: &budget };
                let range = range::Range { origin: -50, width: 100 };
                range::tally(&work, range).unwrap().map(|tally| tally.finish::<f64>(values.len() as u64))
            };
            let mut values: Vec<f64> = (0..3000).map(|index| f64::from(index % 100 - 50)).collect();
            values.extend([50.0; 40]);
            values.extend([-51.0, 0.5, 1e300, f64::INFINITY]);
            assert_eq!(tally(&values), Some(Modes { values: vec![50.0], frequency: 40, total: 1 }));
            // A whole block of them, whichever thread has it, and fewer than all threads together may keep.
            values.resize(values.len().next_multiple_of(700), 7.0);
            values.extend([1e9; 700]);
            values.extend(vec![7.0; 20_000]);
            assert_eq!(tally(&values), None, "one in a block too many");
        }
    }
}

#[test]
fn missing_values_are_in_each_dictionary_even_where_others_need_all_slots() {
    let keys: Vec<i64> = (0..200_000).map(|index| index / 2).collect();
    let sample = Sample { numbers: keys.len(), keys, integers: false };
    for seed in 0..20 {
        let (dictionary, _) = Dictionary::of::<f64>(Simd::best(), &sample, seed);
        assert!(dictionary.owns(dictionary.mix.hash(i64::MAX)));
    }
}

#[test]
fn different_values_that_are_alike_in_what_is_compared_first_are_told_apart() {
    let mix = Mix::new(77);
    // What differs in other bits only than the lowest 32 and those of the part.
    let others = |hash: u64| (0..64).map(move |other| hash ^ other << 50);
    let missing = mix.hash(i64::MAX);
    let canonical = |hash: &u64| f64::from_key(mix.key(*hash)).key() == mix.key(*hash) && *hash != missing;
    let alike: Vec<Vec<u64>> = (0..40)
        .map(|index| if index == 0 { missing } else { mix.hash(index << 40) })
        .map(|hash| others(hash).filter(canonical).take(20).collect())
        .collect();
    let single: Vec<f64> = (0..8000).map(|index| f64::from(index) * 1e30).collect();
    let of = |hash: u64| f64::from_key(mix.key(hash));
    for threads in [1, 3] {
        let crew = Crew::new(threads, &|| Ok(()));
        for simd in Simd::all() {
            let tally = |values: &[f64]| {
                let blocks: Vec<&[f64]> = values.chunks(6000).collect();
                let count = values.iter().filter(|value| !value.is_nan()).count() as u64;
                let work = Work { simd, crew: &crew, blocks: &blocks, budget: &Budget::unlimited() };
                assert!(distinct::tally(&work, &mix, count).unwrap().is_some());
                let modes = distinct::tally(&work, &mix, count).unwrap().unwrap().finish::<f64>(count);
                assert_eq!(modes, oracle(values), "{simd:?}, {threads} threads");
                modes.total
            };
            let mut values = single.clone();
            values.extend([f64::NAN; 100]);
            values.extend(alike.iter().flatten().map(|hash| of(*hash)));
            assert_eq!(tally(&values), 0, "all different");
            // Some of them twice.
            values.extend(alike.iter().take(5).map(|hashes| of(hashes[7])));
            assert_eq!(tally(&values), 5);
            values.extend(alike.iter().skip(3).take(1).map(|hashes| of(hashes[7])));
            assert_eq!(tally(&values), 1);
        }
    }
}

#[test]
fn where_many_are_alike_or_together_it_is_not_shown_that_all_are_different() {
    let crew = Crew::new(2, &|| Ok(()));
    let tally = |values: &[i64]| {
        let blocks: Vec<&[i64]> = values.chunks(20_000).collect();
        let work = Work { simd: Simd::best(), crew: &crew, blocks: &blocks, budget: &Budget::unlimited() };
        let count = values.len() as u64;
        distinct::tally(&work, &Mix::new(5), count).unwrap().map(|tally| tally.finish::<i64>(count).total)
    };
    let mut values: Vec<i64> = (0..60_000).map(|index| index << 44).collect();
    assert_eq!(tally(&values), Some(0));
    values[..3900].copy_from_slice(&(56_100..60_000).map(|index| index << 44).collect::<Vec<_>>());
    assert_eq!(tally(&values), Some(3900));
    values[..5000].copy_from_slice(&(55_000..60_000).map(|index| index << 44).collect::<Vec<_>>());
    assert_eq!(tally(&values), None, "too many are alike");
    values[..30_000].copy_from_slice(&(30_000..60_000).map(|index| index << 44).collect::<Vec<_>>());
    assert_eq!(tally(&values), None, "each twice");
    let mut values: Vec<i64> = (0..60_000).map(|index| index << 44).collect();
    values[41] = values[40];
    assert_eq!(tally(&values), None, "neighbours are alike");
    // 4000 of them, more than ten times each.
    let often = (0..60_000).map(|index| if index % 20_000 < 2000 { index } else { index % 4000 + 60_000 });
    assert_eq!(tally(&often.map(|index| index << 44).collect::<Vec<_>>()), None, "too many to count");
    // More than a part has room for of a few blocks, in each part.
    let mut filled = BTreeSet::new();
    for value in 0..2000 {
        let mut values: Vec<i64> = (0..60_000).map(|index| index << 44).collect();
        if filled.insert(Mix::new(5).hash(value) >> 35 & 127) {
            values[20_000..20_200].fill(value);
            assert_eq!(tally(&values), None, "a part has no room for them");
        }
    }
    assert_eq!(filled.len(), 128);
}

#[test]
fn floats_at_the_edge_of_the_exact_integers_are_themselves() {
    let mut random = Random(9);
    for edge in [-(1_i64 << 53), (1 << 53) - 64] {
        let values: Vec<f64> = (0..3000).map(|_| (edge + random.below(65) as i64) as f64).collect();
        check(&mut random, "edge", &values);
        let often: Vec<f64> = values.iter().copied().chain([(edge + 45) as f64; 500]).collect();
        check(&mut random, "edge, one often", &often);
    }
}
