//! Mean and median of many shapes of numbers, each beside a plain read of the same memory in the same round.
//!
//! `mean_median [N] [KIND…]`: nanoseconds a value, and the ratio to the read, medians of the rounds, two threads.

use std::hint::black_box;
use std::time::Instant;

use task_proto::fault::Fault;
use task_worker::engine::{Budget, Crew, Simd, Sum, mean_of_ints, middle, sum_and_middle, sum_ints};

const BLOCK: usize = 256 * 1024;
const ROUNDS: usize = 7;

const FLOATS: [&str; 13] = [
    "uniform",
    "normal",
    "normal1000",
    "lognormal",
    "bits",
    "ints",
    "sorted",
    "reversed",
    "equal",
    "two",
    "nan1",
    "nan50",
    "outliers",
];
const INTS: [&str; 5] = ["i64bits", "i64small", "i64sorted", "i64equal", "i64two"];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let count = arguments.next().map_or(100_000_000, |count| count.parse().expect("a number of values"));
    let kinds: Vec<String> = arguments.collect();
    let wanted = |kind: &str| kinds.is_empty() || kinds.iter().any(|wanted| wanted == kind);
    let best: Vec<Simd> = Simd::all().collect();
    println!("{:12} {:10} {:>8} {:>14} {:>14} {:>14}", "kind", "level", "read", "mean", "median", "both");
    let data = huge(count);
    for kind in FLOATS.into_iter().filter(|kind| wanted(kind)) {
        fill(data, |random, index| float(kind, random, index, count).to_bits());
        let blocks: Vec<&[f64]> = data.chunks(BLOCK).map(as_floats).collect();
        let all = if kind == "uniform" || kind == "bits" { &best[..] } else { &best[best.len() - 1..] };
        for &simd in all {
            floats(kind, simd, &blocks);
        }
    }
    for kind in INTS.into_iter().filter(|kind| wanted(kind)) {
        fill(data, |random, index| int(kind, random, index) as u64);
        let blocks: Vec<&[i64]> = data.chunks(BLOCK).map(as_ints).collect();
        let all = if kind == "i64bits" { &best[..] } else { &best[best.len() - 1..] };
        for &simd in all {
            ints(kind, simd, &blocks);
        }
    }
}

fn floats(kind: &str, simd: Simd, blocks: &[&[f64]]) {
    let budget = Budget::unlimited();
    let never = || Ok(());
    let crew = Crew::new(2, &never);
    let count = blocks.iter().map(|block| block.iter().filter(|value| !value.is_nan()).count() as u64).sum();
    let mut times = [const { Vec::new() }; 4];
    for seed in 0..ROUNDS as u64 {
        times[0].push(time(|| read(&crew, blocks, f64::to_bits)));
        times[1].push(time(|| {
            let states = crew.fold(blocks.len(), Sum::default, |sum, index| -> Result<(), Fault> {
                sum.add(simd, blocks[index]);
                Ok(())
            });
            let mut sum = Sum::default();
            states.expect("no fault").iter().for_each(|other| sum.merge(other));
            black_box(sum.mean(count));
        }));
        times[2].push(time(|| {
            black_box(middle(simd, &crew, blocks, count, &mut budget.lease(), seed).expect("no fault"));
        }));
        times[3].push(time(|| {
            black_box(sum_and_middle(simd, &crew, blocks, &mut budget.lease(), seed).expect("no fault"));
        }));
    }
    print(kind, simd, blocks.iter().map(|block| block.len()).sum(), &mut times);
}

fn ints(kind: &str, simd: Simd, blocks: &[&[i64]]) {
    let budget = Budget::unlimited();
    let never = || Ok(());
    let crew = Crew::new(2, &never);
    let count = blocks.iter().map(|block| block.len() as u64).sum();
    let mut times = [const { Vec::new() }; 3];
    for seed in 0..ROUNDS as u64 {
        times[0].push(time(|| read(&crew, blocks, |value| value as u64)));
        times[1].push(time(|| {
            let states = crew.fold(
                blocks.len(),
                || 0,
                |sum, index| -> Result<(), Fault> {
                    *sum += sum_ints(blocks[index]);
                    Ok(())
                },
            );
            black_box(mean_of_ints(states.expect("no fault").iter().sum(), count));
        }));
        times[2].push(time(|| {
            black_box(middle(simd, &crew, blocks, count, &mut budget.lease(), seed).expect("no fault"));
        }));
    }
    print(kind, simd, count as usize, &mut times);
}

fn print(kind: &str, simd: Simd, count: usize, times: &mut [Vec<f64>]) {
    let medians: Vec<f64> = times
        .iter_mut()
        .map(|times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2] * 1e9 / count as f64
        })
        .collect();
    print!("{kind:12} {:10} {:8.3}", format!("{:?}", simd.level()), medians[0]);
    for median in &medians[1..] {
        print!("  {median:5.3} ({:4.2})", median / medians[0]);
    }
    println!();
}

fn time(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

/// Every bit of every value decides the result.
fn read<V: Copy + Sync>(crew: &Crew, blocks: &[&[V]], bits: impl Fn(V) -> u64 + Sync) {
    let states = crew.fold(
        blocks.len(),
        || [0; 32],
        |lanes: &mut [u64; 32], index| {
            for group in blocks[index].as_chunks::<32>().0 {
                for (lane, &value) in lanes.iter_mut().zip(group) {
                    *lane ^= bits(value);
                }
            }
            Ok(())
        },
    );
    black_box(states.expect("no fault"));
}

fn float(kind: &str, random: &mut Random, index: usize, count: usize) -> f64 {
    match kind {
        "uniform" => random.unit(),
        "normal" => random.normal(),
        "normal1000" => 1000.0 + random.normal(),
        "lognormal" => (3.0 * random.normal()).exp(),
        "bits" => loop {
            let value = f64::from_bits(random.next());
            if value.is_finite() {
                break value;
            }
        },
        "ints" => (random.next() % 1_000_000) as f64,
        "sorted" => index as f64 * 0.5,
        "reversed" => (count - index) as f64 * 0.5,
        "equal" => 42.5,
        "two" => f64::from((random.next() % 2) as u32),
        "nan1" => {
            if random.next().is_multiple_of(100) {
                f64::NAN
            } else {
                random.normal()
            }
        }
        "nan50" => {
            if random.next().is_multiple_of(2) {
                f64::NAN
            } else {
                random.normal()
            }
        }
        "outliers" => {
            if random.next().is_multiple_of(10_000) {
                1e300
            } else {
                random.normal()
            }
        }
        kind => panic!("no kind {kind}"),
    }
}

fn int(kind: &str, random: &mut Random, index: usize) -> i64 {
    match kind {
        "i64bits" => random.next() as i64,
        "i64small" => (random.next() % 1000) as i64,
        "i64sorted" => index as i64,
        "i64equal" => -7,
        "i64two" => {
            if random.next().is_multiple_of(2) {
                i64::MIN
            } else {
                i64::MAX
            }
        }
        kind => panic!("no kind {kind}"),
    }
}

fn fill(data: &mut [u64], value: impl Fn(&mut Random, usize) -> u64 + Sync) {
    let half = data.len() / 2;
    std::thread::scope(|scope| {
        let value = &value;
        for (part, start) in data.chunks_mut(half.max(1)).zip((0..).step_by(half.max(1))) {
            scope.spawn(move || {
                let mut random = Random(start as u64 + 1);
                part.iter_mut().enumerate().for_each(|(at, place)| *place = value(&mut random, start + at));
            });
        }
    });
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (radius, turn) = (self.unit().max(1e-300), self.unit());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()
    }
}

/// Memory in huge pages, as the engine's blocks are.
#[expect(unsafe_code, reason = "maps memory")]
fn huge(count: usize) -> &'static mut [u64] {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
    const PAGE: usize = 2 << 20;
    let bytes = count * size_of::<u64>() + PAGE;
    // SAFETY: a new mapping, that is never unmapped, is used by nothing else; zeros are integers.
    unsafe {
        let start = mmap_anonymous(
            std::ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
        .expect("memory");
        madvise(start, bytes, Advice::LinuxHugepage).expect("huge pages");
        let start = start.byte_add(start.align_offset(PAGE));
        std::slice::from_raw_parts_mut(start.cast(), count)
    }
}

#[expect(unsafe_code, reason = "the same memory for all kinds")]
fn as_floats(data: &[u64]) -> &[f64] {
    // SAFETY: of the same size and alignment, and any bits are a float.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), data.len()) }
}

#[expect(unsafe_code, reason = "the same memory for all kinds")]
fn as_ints(data: &[u64]) -> &[i64] {
    // SAFETY: of the same size and alignment, and any bits are an integer.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), data.len()) }
}
