//! Times the mode against the plain read of the same values, in interleaved rounds: `mode [N [KIND…]]`.

use std::hint::black_box;
use std::time::Instant;

use task_worker::engine::{Budget, Crew, Level, Simd, Value, modes};

const BLOCK: usize = 256 * 1024;
const ROUNDS: usize = 5;
const KINDS: [&str; 13] = [
    "int1000",
    "int1000-f64",
    "int1000-min",
    "int1e5",
    "few",
    "equal",
    "two",
    "zipf",
    "unique",
    "unique-int",
    "twice",
    "half",
    "nan",
];

fn main() {
    let mut args = std::env::args().skip(1);
    let count: usize = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(100_000_000);
    let mut kinds: Vec<String> = args.collect();
    if kinds.is_empty() {
        kinds = KINDS.map(String::from).to_vec();
    }
    println!("{count} values, 2 threads, median of {ROUNDS}: ns/value (ratio to the plain read)");
    for kind in &kinds {
        match kind.as_str() {
            "int1000" => row(kind, count, |random, _| (random % 1000) as i64),
            "int1000-min" => row(kind, count, |random, _| i64::MIN + (random % 1000) as i64),
            "int1000-f64" => row(kind, count, |random, _| (random % 1000) as f64),
            "int1e5" => row(kind, count, |random, _| (random % 100_000) as i64 + 1),
            "int1e6" => row(kind, count, |random, _| (random % 800_000) as i64 + 1),
            "few" => row(kind, count, |random, _| (random % 10) as f64 * 1.37),
            "floats1000" => row(kind, count, |random, _| (random % 1000) as f64 * 1.37),
            "floats1e5" => row(kind, count, |random, _| (random % 100_000) as f64 * 1.37),
            "equal" => row(kind, count, |_, _| 42.5),
            "two" => row(kind, count, |random, _| if random & 1 == 0 { 1.5 } else { 1e100 }),
            "zipf" => row(kind, count, |random, _| 1e7_f64.powf(unit(random)).floor()),
            "unique" => row(kind, count, |_, index| 1.0 + shuffled(index) as f64 * f64::EPSILON),
            "unique-int" => row(kind, count, |_, index| shuffled(index) as i64),
            "twice" => row(kind, count, |_, index| 1.0 + shuffled(index / 2 * 2) as f64 * f64::EPSILON),
            "half" => row(kind, count, |random, index| {
                if random & 1 == 0 { 42.5 } else { 1.0 + shuffled(index) as f64 * f64::EPSILON }
            }),
            "nan" => row(kind, count, |random, index| {
                if random % 100 == 0 { f64::NAN } else { 1.0 + shuffled(index) as f64 * f64::EPSILON }
            }),
            other => eprintln!("no kind {other}"),
        }
    }
}

/// A permutation of the integers below 2^52.
fn shuffled(index: u64) -> u64 {
    const MASK: u64 = (1 << 52) - 1;
    let word = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) & MASK;
    ((word ^ word >> 26).wrapping_mul(0xd6e8_feb8_6659_fd93)) & MASK
}

/// Of 56 random bits.
fn unit(random: u64) -> f64 {
    random as f64 / (1_u64 << 56) as f64
}

fn row<V: Value + Default + Bits>(kind: &str, count: usize, value: impl Fn(u64, u64) -> V + Sync) {
    let mut values = vec![V::default(); count];
    std::thread::scope(|scope| {
        for (part, values) in values.chunks_mut(count.div_ceil(2)).enumerate() {
            let value = &value;
            scope.spawn(move || {
                let mut random = 0x2545_f491_4f6c_dd1d_u64.wrapping_add(part as u64);
                for (index, slot) in values.iter_mut().enumerate() {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let word = random ^ random >> 29;
                    // In an order that is far from that of the index.
                    let index = (part * count.div_ceil(2) + index) as u64;
                    *slot = value(word >> 8, index);
                }
            });
        }
    });
    if kind == "twice" {
        shuffle(&mut values);
    }
    let blocks: Vec<&[V]> = values.chunks(BLOCK).collect();
    let numbers = values.iter().filter(|value| !V::IS_FLOAT || value.key() != i64::MAX).count() as u64;
    let crew = Crew::new(2, &|| Ok(()));
    let levels: Vec<Simd> = match std::env::var("LEVELS").as_deref() {
        Ok("all") => Simd::all().collect(),
        _ => vec![Simd::best()],
    };
    let mut times = vec![Vec::new(); levels.len() + 1];
    let mut shown = String::new();
    for round in 0..ROUNDS {
        let start = Instant::now();
        black_box(read(&crew, &blocks));
        times[0].push(start.elapsed().as_secs_f64());
        for (times, &simd) in times[1..].iter_mut().zip(&levels) {
            let start = Instant::now();
            let modes =
                modes(simd, &crew, &blocks, numbers, &Budget::unlimited(), round as u64).expect("unlimited");
            times.push(start.elapsed().as_secs_f64());
            shown = format!("{} × {} {:?}", modes.frequency, modes.total, modes.values.first());
        }
    }
    let medians: Vec<f64> = times
        .iter_mut()
        .map(|times| {
            times.sort_by(f64::total_cmp);
            times[ROUNDS / 2] * 1e9 / count as f64
        })
        .collect();
    print!("{kind:12} read {:.3}", medians[0]);
    for (median, simd) in medians[1..].iter().zip(&levels) {
        let level = match simd.level() {
            Level::Portable => "portable",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        };
        print!("  {level} {median:.3} ({:.2})", median / medians[0]);
    }
    println!("  [{shown}]");
}

trait Bits: Copy + Sync {
    fn bits(self) -> i64;
}

impl Bits for i64 {
    fn bits(self) -> i64 {
        self
    }
}

impl Bits for f64 {
    fn bits(self) -> i64 {
        self.to_bits() as i64
    }
}

/// Reads all, with 32 sums at once.
fn read<V: Bits>(crew: &Crew<'_>, blocks: &[&[V]]) -> i64 {
    let parts = crew
        .fold(
            blocks.len(),
            || [0_i64; 32],
            |sums, block| {
                for chunk in blocks[block].chunks_exact(32) {
                    for (sum, value) in sums.iter_mut().zip(chunk) {
                        *sum ^= value.bits();
                    }
                }
                Ok(())
            },
        )
        .expect("never cancelled");
    parts.into_iter().flatten().fold(0, |sum, part| sum ^ part)
}

fn shuffle<V>(values: &mut [V]) {
    let mut random = 1_u64;
    for index in (1..values.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        values.swap(index, ((u128::from(random) * (index as u128 + 1)) >> 64) as usize);
    }
}
