//! What libFuzzer has found, and mutations of it, on any toolchain. `SEED=` and `COUNT=` for others, and more.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use rustix::process::{Resource, Rlimit, setrlimit};
use task_fuzz::{MOST, TARGETS, Target};

/// Mutations of each corpus.
const COUNT: u64 = 3000;

/// Memory for all of it, in bytes: some 10 MB are used. Who believes a message that says how long it is asks for more.
const DATA: u64 = 256 << 20;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The same seed is to mean the same inputs.
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// One of them after a few changes of the kinds that libFuzzer makes.
fn mutated(corpus: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    let mut data = corpus[random.random_range(0..corpus.len())].clone();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=data.len());
        let until = random.random_range(at..=data.len().min(at + 16));
        match random.random_range(0..5) {
            0 if at < data.len() => data[at] ^= 1 << random.random_range(0..8),
            1 if at < data.len() => data[at] = random.random(),
            2 => drop(data.drain(at..until)),
            3 => {
                let again = data[at..until].to_vec();
                drop(data.splice(at..at, again));
            }
            _ => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let from = random.random_range(0..=other.len());
                let part = &other[from..other.len().min(from + 64)];
                drop(data.splice(at..until, part.iter().copied()));
            }
        }
    }
    data.truncate(MOST);
    data
}

fn try_on(name: &str, target: Target, data: &[u8]) -> u64 {
    catch_unwind(AssertUnwindSafe(|| target(data))).unwrap_or_else(|_| {
        panic!("{name} fails on b\"{}\"", data.escape_ascii());
    })
}

fn replay(name: &str) {
    let data = Rlimit { current: Some(DATA), maximum: Some(DATA) };
    setrlimit(Resource::Data, data).unwrap();
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).unwrap();
    let corpus = corpus(name);
    let seed = setting("SEED").unwrap_or_else(|| rand::rng().next_u64());
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let known: u64 = corpus.iter().map(|data| try_on(name, target, data)).sum();
    assert!(known > 0, "the corpus of {name} has no message");
    let count = setting("COUNT").unwrap_or(COUNT);
    let new: u64 = (0..count).map(|_| try_on(name, target, &mutated(&corpus, &mut random))).sum();
    println!("{name}: {known} messages of {} inputs, {new} of {count} mutations", corpus.len());
}

#[test]
fn frames_of_anybody_are_answered_once_and_right_or_not_at_all() {
    replay("frames");
}

#[test]
fn lines_of_anybody_are_answered_once_and_right_or_not_at_all() {
    replay("lines");
}

#[test]
fn a_worker_understands_its_host_or_says_so() {
    replay("hello");
}

#[test]
fn a_host_understands_its_worker_or_says_so() {
    replay("answer");
}

#[test]
fn a_scoreboard_can_be_read_whatever_is_on_it() {
    replay("scoreboard");
}

#[test]
fn a_text_is_the_same_however_it_is_cut() {
    replay("text");
}

#[test]
fn an_npy_file_is_the_same_however_much_of_it_has_come() {
    replay("npy");
}

#[test]
fn every_target_is_replayed_here() {
    let own = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay.rs")).unwrap();
    for (name, _) in TARGETS {
        assert!(own.contains(&format!("replay(\"{name}\");")), "{name}");
    }
}
