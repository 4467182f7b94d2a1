//! Medians against sorting. The limits are small under test, so that few values go all ways.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::bracket::PIECE;
use super::super::budget::Budget;
use super::*;

#[expect(clippy::unnecessary_wraps, reason = "as the crew looks at it")]
fn never() -> Result<(), Fault> {
    Ok(())
}

/// What sorting says.
fn sorted_middle<V: Value>(values: &[V]) -> Option<[i64; 2]> {
    let mut keys: Vec<i64> =
        values.iter().filter(|value| value.is_number()).map(|value| value.key()).collect();
    keys.sort_unstable();
    let last = keys.len().checked_sub(1)?;
    Some([keys[last / 2], keys[keys.len() / 2]])
}

fn ints(random: &mut StdRng, shape: u32, length: usize) -> Vec<i64> {
    let few = random.random_range(1..20);
    let some = random.random::<i64>();
    (0..length as i64)
        .map(|index| match shape {
            0 => random.random(),
            1 => index,
            2 => -index,
            3 => some,
            4 => [i64::MIN, i64::MAX][random.random_range(0..2)],
            5 => [some, some.wrapping_add(1)][usize::from(random.random_range(0..100) < few)],
            6 => random.random_range(0..few),
            7 => index.min(length as i64 - index),
            8 => (random.random::<f64>() * 40.0).exp() as i64,
            _ => some.wrapping_add(random.random_range(0..10) * i64::from(random.random_bool(0.5))),
        })
        .collect()
}

fn floats(random: &mut StdRng, shape: u32, length: usize) -> Vec<f64> {
    let mut values: Vec<f64> = match shape {
        0 => (0..length).map(|_| f64::from_bits(random.random())).collect(),
        1 => {
            let ends = [f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 5e-324, -5e-324, f64::MAX];
            (0..length).map(|_| ends[random.random_range(0..7)]).collect()
        }
        2 => (0..length).map(|_| random.random()).collect(),
        3 => {
            let zeros = [0.0, -0.0];
            (0..length).map(|_| zeros[random.random_range(0..2)]).collect()
        }
        shape => ints(random, shape % 10, length).into_iter().map(|int| int as f64).collect(),
    };
    let part = [0.0, 0.0, 0.01, 0.5, 0.99, 1.0][random.random_range(0..6)];
    values.iter_mut().filter(|_| random.random_bool(part)).for_each(|value| *value = f64::NAN);
    values
}

/// Blocks of any length, some empty.
fn cut<'a, V>(random: &mut StdRng, values: &'a [V]) -> Vec<&'a [V]> {
    let most = random.random_range(1..=values.len().max(1));
    let mut rest = values;
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        let (block, more) = rest.split_at(random.random_range(0..=most.min(rest.len())));
        blocks.push(block);
        rest = more;
    }
    blocks
}

fn cases() -> u64 {
    std::env::var("CASES").map_or(1500, |cases| cases.parse().unwrap())
}

#[test]
fn the_middle_is_what_sorting_finds_on_every_level() {
    for case in 0..cases() {
        let mut random = StdRng::seed_from_u64(case);
        let random = &mut random;
        let length = random.random_range(1..if case % 20 == 0 { 20_000 } else { 1500 });
        let shape = random.random_range(0..14);
        let threads = random.random_range(1..4);
        let crew = Crew::new(threads, &never);
        let budget = Budget::unlimited();
        for simd in Simd::all() {
            let values = ints(random, shape, length);
            let found = middle(simd, &crew, &cut(random, &values), length as u64, &mut budget.lease(), case);
            let found = found.map(|(low, high)| [low.key(), high.key()]);
            assert_eq!(
                found.ok(),
                sorted_middle(&values),
                "case {case} {simd:?}, {length} ints of shape {shape}"
            );

            let values = floats(random, shape, length);
            let expected = sorted_middle(&values);
            let blocks = cut(random, &values);
            let nan = values.iter().filter(|value| value.is_nan()).count() as u64;
            let context = format!("case {case} {simd:?}, {length} floats of shape {shape}");
            let (sum, missing, found) =
                sum_and_middle(simd, &crew, &blocks, &mut budget.lease(), case).unwrap();
            assert_eq!(missing, nan, "{context}");
            assert_eq!(found.map(|(low, high)| [low.key(), high.key()]), expected, "{context}");
            let found = middle(simd, &crew, &blocks, length as u64 - nan, &mut budget.lease(), case).ok();
            assert_eq!(found.map(|(low, high)| [low.key(), high.key()]), expected, "{context}");
            let mut plain = Sum::default();
            for block in &blocks {
                plain.add(simd, block);
            }
            let count = length as u64 - nan;
            assert_eq!(sum.mean(count).to_bits(), plain.mean(count).to_bits(), "{context}");
        }
        assert_eq!(budget.used(), 0);
    }
}

#[test]
fn bisection_finds_every_rank() {
    for case in 0..cases() / 10 {
        let mut random = StdRng::seed_from_u64(case);
        let random = &mut random;
        let (length, shape) = (random.random_range(1..300), random.random_range(0..14));
        let crew = Crew::new(2, &never);
        let values = ints(random, shape, length);
        let mut sorted = values.clone();
        sorted.sort_unstable();
        let blocks = cut(random, &values);
        let rank = random.random_range(0..length);
        let found = |low, high| bisect(&crew, &blocks, rank as u64, low, high).unwrap();
        assert_eq!(found(i64::MIN, i64::MAX), sorted[rank], "case {case}");
        assert_eq!(found(sorted[rank], sorted[rank]), sorted[rank], "case {case}");
        assert_eq!(found(sorted[0], sorted[length - 1]), sorted[rank], "case {case}");
        assert!(bisect(&crew, &blocks, length as u64, i64::MIN, i64::MAX).is_err());

        let values = floats(random, shape, length);
        let mut sorted: Vec<i64> =
            values.iter().filter(|value| value.is_number()).map(|value| value.key()).collect();
        sorted.sort_unstable();
        if let Some(&key) = sorted.get(rank % sorted.len().max(1)) {
            let rank = (rank % sorted.len()) as u64;
            let found = bisect(&crew, &cut(random, &values), rank, f64::LOWEST, f64::HIGHEST).unwrap();
            assert_eq!(found.key(), key, "case {case}");
        }
    }
}

/// A bracket from elsewhere, as a sample without luck is.
#[test]
fn a_bracket_anywhere_finds_the_ranks_or_narrows_them_down() {
    let (mut inside, mut outside) = (0, 0);
    for case in 0..cases() {
        let mut random = StdRng::seed_from_u64(case);
        let random = &mut random;
        let (length, shape) = (random.random_range(100..2000), random.random_range(0..14));
        let values = ints(random, shape, length);
        let mut sorted = values.clone();
        sorted.sort_unstable();
        let mut any = || match random.random_range(0..10) {
            0 => random.random(),
            1 => i64::MIN,
            2 => i64::MAX,
            _ => sorted[random.random_range(0..length)],
        };
        let (one, other) = (any(), any());
        let bracket = Bracket { low: one.min(other), high: one.max(other), share: 0.1 };
        let rank = random.random_range(0..length - 1);
        let ranks = [rank as u64, rank as u64 + u64::from(random.random_bool(0.5))];
        let expected = ranks.map(|rank| sorted[rank as usize]);
        let crew = Crew::new(2, &never);
        let budget = Budget::unlimited();
        let mut lease = budget.lease();
        let blocks = cut(random, &values);
        for simd in Simd::all() {
            let room = Room::new(&crew, &blocks, &bracket, &mut Paid::new(&mut lease)).unwrap();
            let mut gathered = Gathered::default();
            for block in &blocks {
                bracket.pass(simd, block, &[], &room, &mut gathered);
            }
            match bracket.finish(gathered, &blocks, length as u64, ranks) {
                Outcome::Inside(found) => {
                    inside += 1;
                    assert_eq!(
                        found.select(simd, &crew, ranks, &mut lease, case).unwrap(),
                        expected,
                        "case {case}"
                    );
                }
                Outcome::Outside { floor, ceiling } => {
                    outside += 1;
                    assert!(
                        floor <= expected[0] && expected[1] <= ceiling,
                        "case {case}: {floor} {expected:?} {ceiling}"
                    );
                }
            }
        }
    }
    assert!(inside > 100 && outside > 100, "{inside} inside, {outside} outside");
}

#[test]
fn what_is_gathered_is_paid_for_and_bounded() {
    let crew = Crew::new(2, &never);
    let values: Vec<i64> = (0..100_000).collect();
    let blocks: Vec<&[i64]> = values.chunks(1000).collect();
    let all = Bracket { low: -1, high: 100_000, share: 1.0 };
    let budget = Budget::unlimited();
    let mut lease = budget.lease();
    let room = Room::new(&crew, &blocks, &all, &mut Paid::new(&mut lease)).unwrap();
    let mut gathered = [Gathered::default(), Gathered::default()];
    for (index, block) in blocks.iter().enumerate() {
        all.pass(Simd::best(), block, &[], &room, &mut gathered[index % 2]);
    }
    let held: usize =
        gathered.iter().flat_map(|gathered| &gathered.pieces).map(|piece| piece.capacity() * 8).sum();
    assert!(gathered.iter().all(|gathered| gathered.overflowed && gathered.inside == 50_000));
    assert!(held as u64 <= budget.used(), "{held} bytes held, {} paid", budget.used());
    assert!(budget.used() <= (100_000 / 8 * 5 / 4 + 2 * PIECE as u64) * 8, "{} paid", budget.used());
}

#[test]
fn without_memory_or_numbers_or_time_there_is_a_fault() {
    let values: Vec<i64> = (0..100_000).collect();
    let blocks: Vec<&[i64]> = values.chunks(1000).collect();
    let crew = Crew::new(2, &never);
    let find = |crew: &Crew, limit, count| {
        middle(Simd::best(), crew, &blocks, count, &mut Budget::new(limit).lease(), 1)
            .map_err(|fault| fault.kind)
    };
    assert_eq!(find(&crew, None, 100_000), Ok((49_999, 50_000)));
    assert_eq!(find(&crew, Some(1000), 100_000), Err(FaultKind::TooLarge));
    assert_eq!(find(&crew, None, 0), Err(FaultKind::Internal));
    assert_eq!(find(&crew, None, 1_000_000), Err(FaultKind::Internal));
    let few = middle(Simd::best(), &crew, &[&values[..10]], 21, &mut Budget::unlimited().lease(), 1);
    assert_eq!(few.map_err(|fault| fault.kind), Err(FaultKind::Internal));
    let cancelled = || Err(Fault::new(FaultKind::Cancelled, ""));
    assert_eq!(find(&Crew::new(2, &cancelled), None, 100_000), Err(FaultKind::Cancelled));
    let nothing =
        sum_and_middle(Simd::best(), &crew, &[&[f64::NAN; 5], &[]], &mut Budget::unlimited().lease(), 1);
    assert!(matches!(nothing, Ok((_, 5, None))));
}
