//! Means against rational arithmetic.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::Signed;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// Values of a block that is large enough for whole chunks at every level.
const LARGE: usize = 40_000;

#[test]
fn what_lies_beyond_all_digits_still_breaks_a_tie() {
    // 1 ÷ (2⁶³ − 2¹⁰) = 2⁻⁶³ (1 + 2⁻⁵³ + 2⁻¹⁰⁶ + …): half a last place, and a remainder.
    let above = quotient(false, &[1], 0, (1 << 63) - (1 << 10));
    assert_eq!(above.to_bits(), f64::exp2(-63.0).to_bits() + 1);
    // 2⁶³ (1 + 2⁻⁵³) is a tie.
    assert_eq!(quotient(false, &[1 << 10, 1 << 31], 0, 1).to_bits(), f64::exp2(63.0).to_bits());
}

#[test]
fn the_widest_sums_fit() {
    for simd in Simd::all() {
        for (value, mean) in [(f64::MAX, f64::MAX), (f64::MIN, f64::MIN), (-5e-324, -5e-324)] {
            let mut sum = Sum::default();
            for _ in 0..3 {
                sum.add(simd, &vec![value; LARGE]);
            }
            assert_eq!(sum.mean(3 * LARGE as u64).to_bits(), f64::to_bits(mean));
        }
    }
    assert_eq!(mean_of_ints(i128::from(i64::MIN) << 60, 1 << 60).to_bits(), (i64::MIN as f64).to_bits());
    assert_eq!(quotient(true, &[1], UNIT, 3).to_bits(), 0, "no negative zero");
}

/// Whether `mean` is the float nearest to `sum` / `count`, ties to even.
fn is_nearest(mean: f64, sum: &BigInt, unit: i32, count: u64) -> bool {
    let scale = BigRational::from_integer(BigInt::from(2).pow(unit.unsigned_abs()));
    let exact = BigRational::new(sum.clone(), count.into());
    let exact = if unit < 0 { exact / scale } else { exact * scale };
    let Some(mean_exact) = BigRational::from_float(mean) else { return false };
    let error = (mean_exact - &exact).abs();
    [mean.next_up(), mean.next_down()].into_iter().filter_map(BigRational::from_float).all(|neighbour| {
        let other = (neighbour - &exact).abs();
        error < other || error == other && mean.to_bits() & 1 == 0
    })
}

/// In units of the smallest subnormal.
fn exactly(value: f64) -> BigInt {
    let bits = value.to_bits();
    let (exponent, fraction) = (bits >> 52 & 0x7ff, bits & ((1 << 52) - 1));
    let magnitude =
        if exponent == 0 { fraction.into() } else { BigInt::from(fraction | 1 << 52) << (exponent - 1) };
    if value < 0.0 { -magnitude } else { magnitude }
}

fn expected_mean_is(mean: f64, values: &[f64]) -> bool {
    let numbers: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
    let (positive, negative) = (numbers.contains(&f64::INFINITY), numbers.contains(&f64::NEG_INFINITY));
    if numbers.is_empty() || positive && negative {
        return mean.is_nan();
    }
    if positive || negative {
        return mean.is_infinite() && (mean > 0.0) == positive;
    }
    let sum: BigInt = numbers.iter().copied().map(exactly).sum();
    is_nearest(mean, &sum, UNIT, numbers.len() as u64) && mean.to_bits() != (-0.0_f64).to_bits()
}

/// A value with an exponent of `low` to `high`, biased, and any sign and fraction.
fn with_exponent(random: &mut StdRng, low: u64, high: u64) -> f64 {
    let exponent = random.random_range(low..=high);
    f64::from_bits(random.random::<u64>() & !(0x7ff << 52) | exponent << 52)
}

fn value(random: &mut StdRng, shape: u32, index: usize) -> f64 {
    match shape {
        0 => random.random(),
        1 => with_exponent(random, 1000, 1060),
        2 => with_exponent(random, 0, 0x7fe),
        3 => with_exponent(random, 0, 40),
        4 => with_exponent(random, 0x7d0, 0x7fe),
        5 => [0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324][random.random_range(0..6)],
        6 => (index as f64).exp2(),
        7 => -f64::from(random.random_range(0..1000)),
        // Around the ends of the bins' range, at both sides of them.
        8 => with_exponent(random, 1010 + 1023 - 8, 1010 + 1023 + 4),
        9 => with_exponent(random, 1, 1023 - 955 + 4),
        // What cancels, up to a little.
        10 => [1e300, -1e300, 1.0, 1e-300][index % 4],
        11 => [f64::MAX, f64::MIN][index % 2],
        // What only the table holds, where the small ones are left over.
        12 => match index % 4 {
            0 => 1e300,
            1 => -1e300,
            _ => with_exponent(random, 0, 12),
        },
        _ => with_exponent(random, 1023 - 67, 1023),
    }
}

fn spoil(random: &mut StdRng, values: &mut [f64]) {
    let spoils = [f64::NAN, -f64::NAN, 1e300, -1e308, f64::INFINITY, f64::NEG_INFINITY];
    let spoil = spoils[random.random_range(0..spoils.len())];
    let part = [0.0, 0.0, 0.001, 0.01, 0.1, 1.0][random.random_range(0..6)];
    values.iter_mut().filter(|_| random.random_bool(part)).for_each(|value| *value = spoil);
}

#[test]
fn a_mean_is_the_float_nearest_to_the_exact_one_on_every_level() {
    let cases = std::env::var("CASES").map_or(600, |cases| cases.parse().unwrap());
    for case in 0..cases {
        let mut random = StdRng::seed_from_u64(case);
        let random = &mut random;
        let most = if case % 50 == 0 { 70_000 } else { 700 };
        let length = random.random_range(1..=most);
        let mut values = Vec::with_capacity(length);
        // One shape, or several one after the other.
        let only = random.random_bool(0.5).then(|| random.random_range(0..14));
        while values.len() < length {
            let shape = only.unwrap_or_else(|| random.random_range(0..14));
            let more = random.random_range(1..=length);
            values.extend((0..more).map(|index| value(random, shape, index)));
        }
        values.truncate(length);
        spoil(random, &mut values);
        let nan = values.iter().filter(|value| value.is_nan()).count();
        let count = (length - nan) as u64;
        let mut bits = Vec::new();
        for simd in Simd::all() {
            let mut sums = [Sum::default(), Sum::default()];
            let mut counted = 0;
            let size = random.random_range(1..=length);
            for (index, block) in values.chunks(size).enumerate() {
                counted += sums[index % 2].add(simd, block);
            }
            let [mut sum, other] = sums;
            sum.merge(&other);
            let mean = sum.mean(count);
            assert_eq!(counted, nan, "case {case} {simd:?}");
            assert!(expected_mean_is(mean, &values), "case {case} {simd:?}: {mean:e}");
            bits.push(mean.to_bits());
        }
        assert!(bits.iter().all(|other| *other == bits[0]), "case {case}");
    }
}

#[test]
fn a_mean_of_integers_is_the_float_nearest_to_the_exact_one() {
    let mut random = StdRng::seed_from_u64(1);
    for case in 0..500 {
        let length = random.random_range(1..3000);
        let shift = random.random_range(0..64);
        let values: Vec<i64> = (0..length)
            .map(|_| match case % 4 {
                0 => i64::MIN,
                1 => i64::MAX,
                _ => random.random::<i64>() >> shift,
            })
            .collect();
        let sum: i128 = values.iter().map(|&value| i128::from(value)).sum();
        assert_eq!(sum_ints(&values), sum);
        assert!(is_nearest(mean_of_ints(sum, length), &sum.into(), 0, length), "{sum} / {length}");
    }
}

#[test]
fn a_mean_of_nothing_is_nan() {
    assert!(Sum::default().mean(0).is_nan() && mean_of_ints(0, 0).is_nan());
    for simd in Simd::all() {
        let mut sum = Sum::default();
        assert_eq!((sum.add(simd, &[]), sum.add(simd, &[f64::NAN; 100])), (0, 100));
        assert!(sum.mean(0).is_nan());
    }
}

/// The sums of more than 2³⁷ values cannot be tested, but what is done with them can.
#[test]
fn a_full_table_is_emptied_without_a_trace() {
    let values: Vec<f64> = (0..64).map(|index| f64::exp2(f64::from(index) * 31.0 - 1000.0)).collect();
    for simd in Simd::all() {
        let mut sum = Sum::default();
        sum.add(simd, &values);
        sum.table.as_mut().expect("values that no bins hold").values = Table::MOST - 1;
        sum.add(simd, &values);
        assert!(sum.table.is_none());
        sum.add(simd, &values);
        assert!(expected_mean_is(sum.mean(3 * 64), &values));
    }
}

#[test]
fn integers_are_added_exactly_in_any_order_with_floats() {
    for int in [0, 1, -1, i128::from(u64::MAX), -(1 << 64), (1 << 125) + 1, -(1 << 125) - (1 << 64) - 1] {
        let mut sum = Sum::default();
        sum.add_int(int);
        sum.add(Simd::best(), &[0.5]);
        sum.add_int(-int);
        assert_eq!(sum.mean(1).to_bits(), 0.5_f64.to_bits(), "{int}");
        sum.add_int(int);
        sum.add(Simd::best(), &[-0.5]);
        assert_eq!(sum.mean(1).to_bits(), (int as f64).to_bits(), "{int}");
    }
}
