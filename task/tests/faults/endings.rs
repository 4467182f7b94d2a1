//! Runs that are ended at random moments, many of each kind. After each: no process of it lives for long, no socket
//! and no directory is left, and it ended as it was told to.
//!
//! `ENDINGS` is the number of runs of each kind, 200 by default; `SEED` repeats the moments of a former run. How long a
//! killed host's worker lives on is printed.

use std::fs::{self, File, FileTimes};
use std::io::{PipeWriter, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;

use crate::house::{ANSWER, Ended, House, NUMBERS, Run, try_kill};
use crate::moments::{Moments, quantile};

/// Runs of each kind, if `ENDINGS` does not say otherwise.
const RUNS: usize = 200;
/// What a loaded machine may take until a run's processes are gone. What is more than [`PROMISED`] is printed.
const GONE: Duration = Duration::from_secs(5);
/// What they take at most otherwise.
const PROMISED: Duration = Duration::from_millis(300);
/// The age of an unfinished run directory that is swept.
const OLD: Duration = Duration::from_hours(2);

#[test]
fn a_run_that_answers_leaves_nothing() {
    Endings::begin("answered").run(|house, _| {
        let run = Run::start(house.task(&[]).args(NUMBERS));
        let task = run.pid();
        let ended = run.end();
        ended.expect(0, ANSWER);
        (task, ended)
    });
}

#[test]
fn a_run_that_fails_leaves_nothing() {
    Endings::begin("failed").run(|house, _| {
        let file = house.path("bad.txt");
        fs::write(&file, "1 2\n3 x\n").unwrap();
        let run = Run::start(house.task(&[]).arg(&file));
        let task = run.pid();
        let ended = run.end();
        ended.expect(1, "").says(&["bad.txt:2:3"]);
        (task, ended)
    });
}

#[test]
fn a_run_that_is_interrupted_leaves_nothing() {
    Endings::begin("INT").signalled(&[Signal::INT]);
}

#[test]
fn a_run_that_is_terminated_leaves_nothing() {
    Endings::begin("TERM").signalled(&[Signal::TERM]);
}

#[test]
fn a_run_whose_terminal_goes_leaves_nothing() {
    Endings::begin("HUP").signalled(&[Signal::HUP]);
}

#[test]
fn a_run_that_is_quit_leaves_nothing() {
    Endings::begin("QUIT").signalled(&[Signal::QUIT]);
}

#[test]
fn a_run_that_is_interrupted_twice_leaves_nothing() {
    Endings::begin("INT twice").signalled(&[Signal::INT, Signal::INT]);
}

#[test]
fn a_run_that_is_terminated_twice_leaves_nothing() {
    Endings::begin("TERM twice").signalled(&[Signal::TERM, Signal::TERM]);
}

#[test]
fn a_run_whose_terminal_goes_twice_leaves_nothing() {
    Endings::begin("HUP twice").signalled(&[Signal::HUP, Signal::HUP]);
}

/// It answers right, or says that the worker could not start; with a pipe also that it was consumed.
#[test]
fn a_run_whose_worker_is_killed_leaves_nothing() {
    let mut answers = 0;
    let mut kills = 0;
    Endings::begin("KILL of the worker").run(|house, moments| {
        let (run, input) = if moments.coin() { waiting(house) } else { answering(house) };
        let task = run.pid();
        moments.wait();
        let worker = house.processes(task).first().copied();
        // It may have ended since.
        if worker.is_some_and(|worker| try_kill(worker).is_ok()) {
            kills += 1;
        }
        drop(input);
        let ended = run.end();
        match ended.status.code() {
            Some(0) => {
                answers += 1;
                ended.expect(0, ANSWER)
            }
            _ => ended.expect(1, ""),
        };
        if ended.status.code() != Some(0) {
            let known = ["before it was ready", "cannot be read again"];
            assert!(known.iter().any(|known| ended.stderr.contains(known)), "{ended}");
        }
        (task, ended)
    });
    println!("{kills} were hit, {answers} answered");
}

#[test]
fn what_a_killed_run_leaves_is_swept_by_the_next() {
    let mut left_behind = 0;
    Endings::begin("KILL of the host").run(|house, moments| {
        let (run, _input) = if moments.coin() { waiting(house) } else { answering(house) };
        let task = run.pid();
        moments.wait();
        run.signal(Signal::KILL);
        let ended = run.end();
        match ended.signal() {
            None => ended.expect(0, ANSWER),
            Some(signal) => {
                assert_eq!(signal, Signal::KILL.as_raw(), "{ended}");
                &ended
            }
        };
        // Before the sweep, so that what is found gone was not ended by it.
        house.gone(task, ended.at);
        left_behind += house.left().len();
        Run::start(&mut house.task(&["7"])).end().expect(0, "mean    7\nmedian  7\nmode    7 (1 of 1)\n");
        // Killed between two system calls of its making, a directory has no lock that tells; its age does.
        if let [unfinished] = &house.left()[..]
            && unfinished.file_name().unwrap().to_str().unwrap().starts_with("tmp-")
        {
            make_old(unfinished);
            Run::start(&mut house.task(&["7"])).end().expect(0, "mean    7\nmedian  7\nmode    7 (1 of 1)\n");
        }
        (task, ended)
    });
    println!("{left_behind} directories were left behind and swept");
}

/// A run that answers by itself.
fn answering(house: &House) -> (Run, Option<PipeWriter>) {
    (Run::start(house.task(&[]).args(NUMBERS)), None)
}

/// A run that waits for more input, which ends when the pipe is dropped.
fn waiting(house: &House) -> (Run, Option<PipeWriter>) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"3 1 3 1 2 ").unwrap();
    // The command, and its copy of the reading end, goes with this function.
    let mut command: Command = house.task(&[]);
    (Run::start(command.stdin(reader)), Some(writer))
}

fn make_old(directory: &Path) {
    let old = FileTimes::new().set_modified(SystemTime::now() - OLD);
    File::open(directory).and_then(|directory| directory.set_times(old)).unwrap();
}

/// One kind of ending, many times.
struct Endings {
    kind: &'static str,
    runs: usize,
    moments: Moments,
    house: House,
}

impl Endings {
    fn begin(kind: &'static str) -> Self {
        let set = |name| std::env::var(name).ok().map(|set| set.parse::<u64>().expect("a number"));
        let runs = set("ENDINGS").map_or(RUNS, |runs| runs as usize);
        let seed = set("SEED").unwrap_or_else(rand::random);
        let house = House::new();
        let mut lengths: Vec<_> = (0..9).map(|_| answering(&house).0.end().took).collect();
        lengths.sort();
        let length = lengths[lengths.len() / 2];
        println!("{kind}: {runs} runs, SEED={seed}, each of {length:?}");
        Endings { kind, runs, moments: Moments::new(seed, length), house }
    }

    /// Runs `act` again and again; it says which `task` ran and how it ended. Nothing may be left of it.
    fn run(mut self, mut act: impl FnMut(&House, &mut Moments) -> (u32, Ended)) {
        let mut lives = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..self.runs {
            let (task, ended) = act(&self.house, &mut self.moments);
            let gone = self.house.gone(task, ended.at);
            assert!(gone < GONE, "processes lived {gone:?} after {ended}");
            let locks = || fs::read_to_string("/proc/locks").unwrap_or_default();
            assert!(
                self.house.left().is_empty(),
                "{:?} was left after {ended}\n{}",
                self.house.left(),
                locks()
            );
            lives.push(gone);
            ends.push(ended.took);
        }
        let late = lives.iter().filter(|&&gone| gone > PROMISED).count();
        println!(
            "{}: run {}, seen gone after {}, {late} beyond {PROMISED:?}",
            self.kind,
            spread(&mut ends),
            spread(&mut lives)
        );
    }

    /// Sends these signals, each at a moment of its own.
    fn signalled(self, signals: &[Signal]) {
        let number = signals[0].as_raw();
        let mut answered = 0;
        self.run(|house, moments| {
            let waits = moments.coin();
            let (run, input) = if waits { waiting(house) } else { answering(house) };
            let task = run.pid();
            for signal in signals {
                moments.wait();
                run.signal(*signal);
            }
            let ended = run.end();
            drop(input);
            if ended.signal() == Some(number) {
                assert!(ended.stdout.is_empty() || (!waits && ended.stdout == ANSWER), "{ended}");
            } else {
                assert!(!waits, "only the signal can have ended {ended}");
                ended.expect(0, ANSWER);
                answered += 1;
            }
            (task, ended)
        });
        println!("{answered} had answered before");
    }
}

fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let [median, most_of_them, most] = [0.5, 0.99, 1.0].map(|part| quantile(times, part));
    format!("median {median:?}, 99 % {most_of_them:?}, most {most:?}")
}
