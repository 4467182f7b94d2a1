//! The same numbers at every level of instructions and on any number of threads: not a bit may differ from sorting and
//! counting them, and from their exact sum. With as many numbers as the sampled ways need, around the edges of blocks.

#![expect(clippy::unwrap_used, reason = "a test: what is not there fails it")]

use std::sync::Mutex;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use task_proto::fault::Fault;
use task_worker::engine::{
    Budget, Crew, Modes, Simd, Sum, Value, mean_of_ints, middle, modes, sum_and_middle, sum_ints,
};

const BLOCK: usize = 256 * 1024;
const THREADS: [usize; 3] = [1, 2, 16];

/// The mean, by a sum of integers in this unit.
fn slow_mean(values: &[f64], unit: f64) -> f64 {
    let sum: i128 = values.iter().filter(|value| !value.is_nan()).map(|value| (value / unit) as i128).sum();
    let count = values.iter().filter(|value| !value.is_nan()).count() as u64;
    mean_of_ints(sum, count) * unit
}

/// The middle keys, and each mode's key, their frequency and how many there are, by sorting.
fn slow<V: Value>(values: &[V]) -> ((i64, i64), Vec<i64>, u64, u64) {
    let mut keys: Vec<i64> =
        values.iter().filter(|value| value.is_number()).map(|value| value.key()).collect();
    keys.sort_unstable();
    let middle = (keys[(keys.len() - 1) / 2], keys[keys.len() / 2]);
    let runs: Vec<(i64, u64)> = keys.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u64)).collect();
    let frequency = runs.iter().map(|run| run.1).max().unwrap();
    let found: Vec<i64> = runs.iter().filter(|run| run.1 == frequency).map(|run| run.0).collect();
    let total = found.len() as u64;
    if total > 1 && total * frequency == keys.len() as u64 {
        return (middle, Vec::new(), frequency, 0);
    }
    (middle, found.into_iter().take(1000).collect(), frequency, total)
}

fn check<V: Value>(name: &str, values: &[V], mean: impl Fn(&Crew<'_>, Simd, &[&[V]]) -> f64) -> f64 {
    let (expected, listed, frequency, total) = slow(values);
    let count = values.iter().filter(|value| value.is_number()).count() as u64;
    let blocks: Vec<&[V]> = values.chunks(BLOCK).collect();
    let means = Mutex::new(Vec::new());
    for simd in Simd::all() {
        for threads in THREADS {
            let crew = Crew::new(threads, &|| Ok(()));
            let seed = rand::random();
            let what = format!("{name}, {} values, {simd:?}, {threads} threads, seed {seed}", values.len());
            let mut lease = Budget::unlimited().lease();
            let (low, high) = middle(simd, &crew, &blocks, count, &mut lease, seed).unwrap();
            assert_eq!((low.key(), high.key()), expected, "{what}");
            let Modes { values: found, frequency: times, total: all } =
                modes(simd, &crew, &blocks, count, &Budget::unlimited(), seed).unwrap();
            let found: Vec<i64> = found.into_iter().map(V::key).collect();
            assert_eq!((&found, times, all), (&listed, frequency, total), "{what}");
            means.lock().unwrap().push(mean(&crew, simd, &blocks));
        }
    }
    let means = means.into_inner().unwrap();
    assert!(means.iter().all(|mean| mean.to_bits() == means[0].to_bits()), "{name}: {means:?}");
    means[0]
}

fn mean_of_floats(crew: &Crew<'_>, simd: Simd, blocks: &[&[f64]]) -> f64 {
    let sums = crew.fold(
        blocks.len(),
        || (Sum::default(), 0),
        |(sum, missing), index| {
            *missing += sum.add(simd, blocks[index]);
            Ok(())
        },
    );
    let (mut sum, mut missing) = (Sum::default(), 0);
    for (part, nan) in sums.unwrap() {
        sum.merge(&part);
        missing += nan;
    }
    let count = blocks.iter().map(|block| block.len()).sum::<usize>() - missing;
    // In one pass with the median it is the same.
    let (with, nan, found) =
        sum_and_middle(simd, crew, blocks, &mut Budget::unlimited().lease(), rand::random()).unwrap();
    assert_eq!((nan, found.is_some()), (missing as u64, count > 0));
    let mean = sum.mean(count as u64);
    assert_eq!(with.mean(count as u64).to_bits(), mean.to_bits());
    mean
}

/// A name, of what all values are multiples, so that a sum of integers is theirs, and the values.
type Shape = (&'static str, f64, fn(&mut SmallRng, usize) -> f64);

type IntShape = (&'static str, fn(&mut SmallRng, usize) -> i64);

const TINY: f64 = 1.0 / (1_u64 << 50) as f64 / (1_u64 << 50) as f64;
const SHAPES: [Shape; 9] = [
    ("uniform", TINY, |random, _| random.random_range(0..1_u64 << 50) as f64 * TINY),
    ("few", 0.25, |random, _| f64::from(random.random_range(-5..5)) * 1.25),
    ("small integers", 0.25, |random, _| f64::from(random.random_range(-300..700))),
    ("ascending", 0.25, |_, index| index as f64),
    ("alternating", 0.25, |_, index| if index % 2 == 0 { -1.0 } else { 1.0 }),
    ("equal", 0.25, |_, _| 42.5),
    ("skewed", 0.25, |random, _| {
        (1.0 / (random.random_range(1..1_u64 << 20) as f64 / (1_u64 << 20) as f64)).floor()
    }),
    ("with missing values", 0.25, |random, index| {
        if random.random_range(0..50) == 0 { f64::NAN } else { (index / 3) as f64 }
    }),
    ("zeros of both signs", 0.25, |random, _| [0.0, -0.0, 1.0, -1.0][random.random_range(0..4)]),
];

fn sizes(random: &mut SmallRng) -> [usize; 4] {
    [BLOCK - 1, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + random.random_range(1..BLOCK)]
}

#[test]
fn floats_have_the_same_answers_at_every_level_and_on_any_number_of_threads() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    for (name, unit, shape) in SHAPES {
        let size = sizes(&mut random)[random.random_range(0..4)];
        let values: Vec<f64> = (0..size).map(|index| shape(&mut random, index)).collect();
        let mean = check(name, &values, mean_of_floats);
        assert_eq!(mean.to_bits(), slow_mean(&values, unit).to_bits(), "{name}");
    }
}

#[test]
fn integers_have_the_same_answers_at_every_level_and_on_any_number_of_threads() {
    let mut random = SmallRng::seed_from_u64(rand::random());
    let shapes: [IntShape; 5] = [
        ("any", |random, _| random.next_u64() as i64),
        ("near the lowest", |random, _| i64::MIN + random.random_range(0..1000)),
        ("distinct", |_, index| index as i64 * 1_000_003),
        ("twice", |_, index| (index / 2) as i64 * 7_000_000_000_001),
        ("one often", |random, index| if index % 3 == 0 { 7 } else { random.next_u64() as i64 }),
    ];
    for (name, shape) in shapes {
        let size = sizes(&mut random)[random.random_range(0..4)];
        let values: Vec<i64> = (0..size).map(|index| shape(&mut random, index)).collect();
        let exact: i128 = values.iter().map(|&value| i128::from(value)).sum();
        let mean = check(name, &values, |crew, _, blocks| {
            let sums = crew.fold(
                blocks.len(),
                || 0,
                |sum, index| -> Result<(), Fault> {
                    *sum += sum_ints(blocks[index]);
                    Ok(())
                },
            );
            let sum: i128 = sums.unwrap().into_iter().sum();
            assert_eq!(sum, exact);
            mean_of_ints(sum, values.len() as u64)
        });
        assert!(mean.is_finite());
    }
}
