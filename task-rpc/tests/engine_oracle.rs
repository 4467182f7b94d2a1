//! The engine against exact rational arithmetic, written in the plainest way there is: sums of `BigRational`, a
//! rounding of its own, a sorted list, a map of counts. Not a bit may differ.
//!
//! `TASK_TEST_SEED` repeats a run, `TASK_TEST_CASES` makes it longer.

#![expect(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "a test: what is not there fails it, and answers are exact"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, Zero};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use task_proto::number::Number;
use task_proto::stats::Missing;
use task_worker::engine::{Budget, Collector, Data, Engine, Sequence, Simd};

fn sequence(numbers: &[Number]) -> Sequence {
    let mut collector = Collector::new(Simd::best(), &Budget::unlimited(), Missing::Error);
    for &number in numbers {
        collector.number(number).unwrap();
    }
    collector.finish(&|| Ok(())).unwrap()
}

/// The values as the definitions take them: integers, or all of them floats.
fn values(numbers: &[Number]) -> Vec<Number> {
    if numbers.iter().all(|number| matches!(number, Number::Int(_))) {
        return numbers.to_vec();
    }
    let zero = |float: f64| if float == 0.0 { 0.0 } else { float };
    numbers.iter().map(|number| Number::Float(zero(number.to_f64()))).collect()
}

fn exact(number: Number) -> BigRational {
    match number {
        Number::Int(int) => BigRational::from_integer(int.into()),
        Number::Float(float) => BigRational::from_float(float).unwrap(),
    }
}

/// 2 to the power of an exponent of either sign.
fn power(exponent: i32) -> BigRational {
    let power = BigRational::from_integer(BigInt::one() << exponent.unsigned_abs());
    if exponent < 0 { power.recip() } else { power }
}

/// The nearest `f64`, ties to even: the value in units of its last place, floor, and what is left over.
fn nearest(value: &BigRational) -> f64 {
    if value.is_zero() {
        return 0.0;
    }
    let magnitude = value.abs();
    let bits = |int: &BigInt| int.bits() as i32;
    let mut exponent = (bits(magnitude.numer()) - bits(magnitude.denom()) - 54).max(-1074);
    while exponent < 971 && magnitude >= power(exponent + 53) {
        exponent += 1;
    }
    let units = &magnitude / power(exponent);
    let whole = units.floor().to_integer();
    let left = units - BigRational::from_integer(whole.clone());
    let half = BigRational::new(1.into(), 2.into());
    let odd = whole.bit(0);
    let up = left > half || (left == half && odd);
    let mantissa = u64::try_from(whole).unwrap() + u64::from(up);
    assert!(mantissa <= 1 << 53);
    // Exact: the mantissa is, and so is its product with a power of two, in two steps that cannot overflow.
    let low = f64::powi(2.0, exponent.max(-1000));
    let float = if exponent < -1000 {
        f64::from_bits(
            mantissa + if exponent == -1074 { 0 } else { u64::from((exponent + 1074) as u32) << 52 },
        )
    } else {
        mantissa as f64 * low
    };
    if value.is_negative() && float != 0.0 { -float } else { float }
}

fn expected_mean(values: &[Number]) -> f64 {
    if let Some(infinite) = infinite(values) {
        return infinite;
    }
    let sum: BigRational = values.iter().map(|&value| exact(value)).sum();
    nearest(&(sum / BigRational::from_integer(values.len().into())))
}

/// The sum, where an infinity is in it.
fn infinite(values: &[Number]) -> Option<f64> {
    let has = |infinity| values.contains(&Number::Float(infinity));
    match (has(f64::INFINITY), has(f64::NEG_INFINITY)) {
        (true, true) => Some(f64::NAN),
        (true, false) => Some(f64::INFINITY),
        (false, true) => Some(f64::NEG_INFINITY),
        (false, false) => None,
    }
}

fn key(number: Number) -> (i64, u64) {
    match number {
        Number::Int(int) => (int, 0),
        Number::Float(float) => (0, bits(float)),
    }
}

fn bits(float: f64) -> u64 {
    if float.is_nan() { f64::NAN.to_bits() } else { float.to_bits() }
}

fn same(left: Number, right: Number) -> bool {
    match (left, right) {
        (Number::Int(left), Number::Int(right)) => left == right,
        (Number::Float(left), Number::Float(right)) => bits(left) == bits(right),
        _ => false,
    }
}

fn check(numbers: &[Number]) {
    let values = values(numbers);
    let sequence = sequence(numbers);
    let count = values.len();
    assert_eq!(sequence.count(), count as u64);

    let got = sequence.mean();
    let want = expected_mean(&values);
    assert_eq!(bits(got), bits(want), "mean {got:e}, not {want:e}, of {numbers:?}");

    let mut sorted = values.clone();
    sorted.sort_by(|left, right| match (left, right) {
        (Number::Int(left), Number::Int(right)) => left.cmp(right),
        (left, right) => left.to_f64().partial_cmp(&right.to_f64()).unwrap(),
    });
    let (low, high) = (sorted[(count - 1) / 2], sorted[count / 2]);
    let median = match (count % 2, infinite(&[low, high])) {
        (1, _) => low,
        (_, Some(infinite)) => Number::Float(infinite),
        (_, None) => {
            Number::Float(nearest(&((exact(low) + exact(high)) / BigRational::from_integer(2.into()))))
        }
    };
    let data = Arc::new(Data::new(sequence, Engine::new(Simd::best(), Budget::unlimited())));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (middle, found) =
        runtime.block_on(async { (data.median().await.unwrap(), data.modes().await.unwrap()) });
    assert!(same(middle.low, low) && same(middle.high, high), "{middle:?} of {numbers:?}");
    let got = middle.value;
    assert!(same(got, median), "median {got:?}, not {median:?}, of {numbers:?}");

    let mut counts = BTreeMap::new();
    for &value in &values {
        *counts.entry(key(value)).or_insert(0_u64) += 1;
    }
    let frequency = *counts.values().max().unwrap();
    let all_alike = counts.len() >= 2 && counts.values().all(|&times| times == frequency);
    let mut modes = sorted;
    modes.retain(|&value| counts[&key(value)] == frequency && !all_alike);
    modes.dedup();
    let total = modes.len();
    modes.truncate(1000);
    assert_eq!(found.frequency, frequency, "of {numbers:?}");
    assert_eq!(found.total, total as u64, "of {numbers:?}");
    assert_eq!(found.values.len(), modes.len(), "of {numbers:?}");
    assert!(found.values.iter().zip(modes).all(|(&left, right)| same(left, right)), "of {numbers:?}");
}

type Shape = (&'static str, fn(&mut SmallRng) -> Number);

fn pick<T: Copy>(random: &mut SmallRng, choices: &[T]) -> T {
    choices[random.random_range(0..choices.len())]
}

/// Any finite float: all exponents are equally likely.
fn finite(random: &mut SmallRng) -> f64 {
    loop {
        let float = f64::from_bits(random.next_u64());
        if float.is_finite() {
            return float;
        }
    }
}

const SHAPES: &[Shape] = &[
    ("any i64", |random| Number::Int(random.next_u64() as i64)),
    ("extremes of i64", |random| {
        let near = random.random_range(0..3);
        Number::Int(pick(
            random,
            &[i64::MIN + near, i64::MAX - near, near - 1, (1 << 53) + near, -(1 << 53) - near],
        ))
    }),
    ("any float", |random| Number::Float(finite(random))),
    ("extremes of f64", |random| {
        let float = pick(random, &[f64::MAX, f64::MAX.next_down(), 1e308, f64::MIN_POSITIVE, 1.0, 5e-324]);
        Number::Float(if random.random() { float } else { -float })
    }),
    ("subnormals", |random| {
        let float = f64::from_bits(random.next_u64() >> random.random_range(11..64));
        Number::Float(if random.random() { float } else { -float })
    }),
    ("zeros of both signs", |random| Number::Float(pick(random, &[0.0, -0.0, 0.0, -0.0, 5e-324, -5e-324]))),
    ("infinities", |random| {
        let other = finite(random);
        Number::Float(pick(random, &[other, other, other, 1.0, f64::INFINITY, f64::NEG_INFINITY]))
    }),
    ("one infinity", |random| {
        let other = finite(random);
        Number::Float(pick(random, &[other, 2.0, f64::INFINITY]))
    }),
    ("ties", |random| Number::Int(random.random_range(-3..3))),
    ("halves between floats", |random| {
        Number::Float((1_u64 << 53) as f64 + pick(random, &[0.0, 2.0, 4.0, -1.0, -2.0]))
    }),
    ("near each other", |random| Number::Float(1.0 + f64::EPSILON * f64::from(random.random_range(0..9)))),
    ("cancelling", |random| Number::Float(pick(random, &[1e16, -1e16, 1.0, 1e308, -1e308, 1e-308, 3e-324]))),
    ("mixed", |random| {
        let int = random.next_u64() as i64 >> random.random_range(0..64);
        pick(random, &[Number::Int(int), Number::Int(int), Number::Float(int as f64), Number::Float(0.5)])
    }),
];

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn every_answer_is_the_exact_one_to_the_last_bit() {
    let seed = setting("TASK_TEST_SEED").unwrap_or_else(rand::random);
    let cases = setting("TASK_TEST_CASES").unwrap_or(26_000);
    println!("TASK_TEST_SEED={seed} TASK_TEST_CASES={cases}");
    let mut random = SmallRng::seed_from_u64(seed);
    for case in 0..cases {
        let (name, number) = SHAPES[case as usize % SHAPES.len()];
        let count = match random.random_range(0..10) {
            0 => 1,
            1..=4 => random.random_range(2..6),
            5..=8 => random.random_range(2..40),
            _ => random.random_range(40..200),
        };
        let mut numbers: Vec<_> = (0..count).map(|_| number(&mut random)).collect();
        match random.random_range(0..12) {
            0 => numbers = vec![numbers[0]; numbers.len()],
            1 => numbers.extend_from_within(..),
            2 => numbers.dedup(),
            _ => {}
        }
        let outcome = std::panic::catch_unwind(|| check(&numbers));
        assert!(outcome.is_ok(), "case {case}, {name}: TASK_TEST_SEED={seed}");
    }
}

#[test]
fn answers_stay_exact_over_the_borders_of_blocks_and_runs() {
    let mut random = SmallRng::seed_from_u64(7);
    // Beyond four blocks, so that two runs are merged; integers first, then floats.
    let mut numbers: Vec<_> = (0..700_000).map(|_| Number::Int(random.random_range(0..200_000))).collect();
    check(&numbers);
    numbers.extend((0..200_000).map(|_| Number::Float(random.random_range(0.0..9.0))));
    numbers.push(Number::Float(f64::MAX));
    check(&numbers);
}

#[test]
fn more_than_a_thousand_modes_are_counted_and_a_thousand_listed() {
    let twice = (0..1500).chain(0..1500).map(Number::Int);
    check(&twice.chain([Number::Int(-1)]).collect::<Vec<_>>());
}

#[test]
fn the_oracle_rounds_as_the_language_does() {
    for text in
        ["0.1", "1e-323", "2.2250738585072011e-308", "9007199254740993", "1.7976931348623157e308", "4.9e-324"]
    {
        let float: f64 = text.parse().unwrap();
        assert_eq!(nearest(&BigRational::from_float(float).unwrap()), float);
    }
    let third = BigRational::new(1.into(), 3.into());
    assert_eq!(nearest(&third), 1.0 / 3.0);
    assert_eq!(nearest(&(third * power(-1070))), 5.0 * 5e-324);
}
