//! How fast text becomes numbers: GB/s and ns a number on one thread, for each level, beside a pass that only counts newlines
//! and the standard library's `parse`. Medians of interleaved rounds, on text that fits the L2 cache and on 200 MB.

use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

use task_worker::engine::Simd;
use task_worker::engine::text::{self, Parser, RUN_ROOM};

const ROUNDS: usize = 5;
const SMALL: usize = 384 * 1024;
const LARGE: usize = 200_000_000;
const CHUNK: usize = 256 * 1024;

/// The rows that are measured on 200 MB too.
const IN_MEMORY: [&str; 5] =
    ["ints 0..1000", "ints of mixed width, signs", "ints of 18 digits", "floats of 17 digits", "floats %.2f"];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

type Way = Box<dyn Fn(&[u8]) -> usize>;
type Append = fn(&mut String, &mut Random);

macro_rules! row {
    ($name:literal, $random:ident => $($format:tt)*) => {
        ($name, (|text, $random| write!(text, $($format)*).unwrap_or_default()) as Append)
    };
}

fn main() {
    let only = std::env::args().nth(1);
    let large = std::env::args().nth(2).is_none();
    let rows = [
        row!("ints 0..1000", r => "{}\n", r.next() % 1000),
        row!("ints 0..10, spaces", r => "{} ", r.next() % 10),
        row!("ints 0..1000, comma space", r => "{}, ", r.next() % 1000),
        row!("ints 0..1000, commas", r => "{},", r.next() % 1000),
        row!("ints 0..1e6, CRLF", r => "{}\r\n", r.next() % 1_000_000),
        row!("ints 0..1e8", r => "{}\n", r.next() % 100_000_000),
        row!("ints of mixed width, signs", r => "{}\n", ((r.next() >> 4) as i64 - (1 << 59)) >> (r.next() % 60)),
        row!("ints of 18 digits", r => "{}\n", 100_000_000_000_000_000 + r.next() % 900_000_000_000_000_000),
        row!("ints of 64 bits", r => "{}\n", r.next() as i64),
        row!("ints 0..1000, 10 % NA", r => "{}\n", if r.next() % 10 == 0 { "NA".into() } else { (r.next() % 1000).to_string() }),
        row!("floats of 17 digits", r => "{}\n", r.unit()),
        row!("floats fixed %.17f", r => "{:.17}\n", 0.1 + 0.9 * r.unit()),
        row!("floats fixed %.15f", r => "{:.15}\n", 0.1 + 0.9 * r.unit()),
        row!("floats of 17 digits, 10 % NA", r => "{}\n", if r.next() % 10 == 0 { "NA".into() } else { r.unit().to_string() }),
        row!("normal floats, signs", r => "{}\n", (r.unit() + r.unit() + r.unit() - 1.5) * 3.0),
        row!("floats %.2f", r => "{:.2}\n", r.unit() * 1000.0),
        row!("floats %.6f", r => "{:.6}\n", r.unit() * 1000.0),
        row!("floats %.9f", r => "{:.9}\n", r.unit() * 100.0),
        row!("floats %.20f", r => "{:.20}\n", r.unit()),
        row!("floats %.5e", r => "{:.5e}\n", r.unit() * 1e30),
        row!("floats %.18e", r => "{:.18e}\n", r.unit() * 1e3),
        row!("floats of random bits, %e", r => "{:e}\n", f64::from_bits(r.next() & !(1 << 62))),
        row!("floats and ints by turns", r => "{}\n{:.3}\n", r.next() % 1000, r.unit() * 1000.0),
    ];
    println!("{:30} {:>10} {:>9} {:>9}", "", "level", "GB/s", "ns/number");
    for (name, append) in rows {
        if only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let mut random = Random(0x1234_5678_9abc_def1);
        let mut unit = String::with_capacity(4 << 20);
        while unit.len() < 4 << 20 {
            append(&mut unit, &mut random);
        }
        let mut small = String::new();
        let mut random = Random(0x1234_5678_9abc_def1);
        while small.len() < SMALL {
            append(&mut small, &mut random);
        }
        measure(name, "L2", small.as_bytes(), 40);
        if large && IN_MEMORY.contains(&name) {
            measure(name, "memory", unit.repeat(LARGE / unit.len()).as_bytes(), 1);
        }
    }
}

fn measure(name: &str, where_: &str, text: &[u8], passes: usize) {
    let mut ways: Vec<(String, Way)> = Vec::new();
    for simd in Simd::all() {
        ways.push((format!("{:?}", simd.level()), Box::new(move |text| parse(simd, text))));
    }
    ways.push(("newlines".into(), Box::new(newlines)));
    ways.push(("std".into(), Box::new(standard)));
    let numbers = parse(Simd::best(), text).max(1);
    let mut times = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for ((way, run), times) in ways.iter().zip(&mut times) {
            let (text, passes) =
                if way == "std" { (&text[..text.len().min(SMALL)], 1) } else { (text, passes) };
            if way == "std" && times.len() > 2 {
                continue;
            }
            let start = Instant::now();
            for _ in 0..passes {
                black_box(run(black_box(text)));
            }
            times.push(start.elapsed().as_secs_f64() / passes as f64 / text.len() as f64);
        }
    }
    for ((way, _), mut times) in ways.into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let time = times[times.len() / 2];
        let number = time * text.len() as f64 / numbers as f64;
        println!("{:30} {way:>10} {:9.2} {:9.2}", format!("{name}, {where_}"), 1e-9 / time, 1e9 * number);
    }
}

/// The numbers of a text in chunks, as a thread of the engine takes them; how many there are.
fn parse(simd: Simd, text: &[u8]) -> usize {
    let (mut ints, mut floats) = (Vec::with_capacity(RUN_ROOM), Vec::with_capacity(RUN_ROOM));
    let (mut count, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..text.len().min(at + CHUNK)];
        let chunk = if at + rest.len() == text.len() { rest } else { &rest[..text::cut(rest)] };
        let mut parser = Parser::new(simd, chunk);
        while parser.next_run(&mut ints, &mut floats) {
            count += ints.len() + floats.len();
            black_box((&ints, &floats));
            ints.clear();
            floats.clear();
        }
        let summary = parser.finish();
        assert!(summary.fault.is_none(), "{:?}", summary.fault);
        at += chunk.len();
    }
    count
}

fn standard(text: &[u8]) -> usize {
    let words = text.split(|byte| b" \r\n,".contains(byte)).filter(|word| !word.is_empty());
    let words = words.filter_map(|word| std::str::from_utf8(word).ok());
    words.filter(|word| black_box(word.parse::<f64>()).is_ok()).count()
}

/// One byte after the other, in vectors of which the compiler knows.
fn newlines(text: &[u8]) -> usize {
    let in_few = |few: &[u8]| few.iter().map(|&byte| u8::from(byte == b'\n')).sum::<u8>();
    text.chunks(192).map(|few| usize::from(in_few(few))).sum()
}
