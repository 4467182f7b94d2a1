//! Long load: what a process has of descriptors, threads, zombies and memory must not grow with its calls, nor with
//! the faults that it survives.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::house::{children, field, figure, send, stop, try_kill, until};
use crate::load::{Crew, Load};
use crate::moments::Moments;
use crate::report::{Report, Scale};
use crate::service::{Service, Serving};
use crate::tally::{Fate, Now, Tally};

/// Time under observation, in seconds: with `FAULTS=long`, and otherwise. The warm-up takes a sixth more.
const LONG: usize = 30 * 60;
const SHORT: usize = 18;
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(500);
/// A process that holds the same for so long has come to rest.
const AT_REST: Duration = Duration::from_secs(1);
/// Between two faults, at most; drawn for each.
const BETWEEN_FAULTS: Duration = Duration::from_millis(1500);
/// What memory may grow by in an hour, in bytes: in half an hour's load, and in seconds', where noise is most of it.
const SLOPE: [f64; 2] = [1e6, 4e9];

/// A process at one moment.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: f64,
    descriptors: usize,
    threads: usize,
    zombies: usize,
    memory: f64,
}

/// One of its figures.
type Figure = fn(&Look) -> usize;

impl Look {
    fn at(pid: u32, begun: Instant) -> Self {
        let entries = |name: &str| fs::read_dir(format!("/proc/{pid}/{name}")).map_or(0, Iterator::count);
        let is_zombie =
            |&child: &u32| field(child, "status", "State").is_some_and(|state| state.starts_with('Z'));
        Look {
            at: begun.elapsed().as_secs_f64(),
            descriptors: entries("fd"),
            threads: entries("task"),
            zombies: children(pid).into_iter().filter(is_zombie).count(),
            memory: figure(pid, "status", "VmRSS").map_or(0.0, |kb| kb as f64 * 1024.0),
        }
    }
}

impl Look {
    /// A look at a process that nobody calls any more, once it has come to rest.
    fn at_rest(pid: u32, begun: Instant) -> Self {
        let held = |look: &Look| (look.descriptors, look.threads, look.zombies);
        let (mut look, mut same) = (Look::at(pid, begun), Instant::now());
        until("it has come to rest", || {
            let next = Look::at(pid, begun);
            if held(&next) != held(&look) {
                same = Instant::now();
            }
            look = next;
            (same.elapsed() > AT_REST).then_some(())
        });
        look
    }
}

/// The parent, while its workers are killed, stopped and replaced.
pub(crate) fn with_faults(scale: Scale) -> Report {
    let mut report = Report::new(scale);
    let service = Service::new(&[]);
    let serving = service.start();
    serving.ready();
    let crew = Crew { pipes: 1, plain: 1, ..Crew::of(&service, scale.seed) };
    let mut moments = Moments::new(scale.seed, BETWEEN_FAULTS);
    let [mut kills, mut terms, mut hand_overs, mut stops] = [0; 4];
    let mut harm = |load: &Load| {
        let worker = load.seen.until("every caller had an answer from one worker", Now::common_worker);
        match moments.below(20) {
            // It takes some seconds to be noticed.
            0 => {
                stops += 1;
                stop(worker);
            }
            1..=4 => {
                hand_overs += 1;
                serving.signal(Signal::HUP);
            }
            5..=6 => {
                terms += 1;
                send(worker, Signal::TERM).unwrap();
            }
            _ => {
                kills += 1;
                try_kill(worker).unwrap();
            }
        }
        load.seen.until("every caller had an answer from the next", |now| {
            now.common_worker().filter(|pid| *pid != worker)
        });
        settle(&serving);
        moments.wait();
    };
    let (tally, looks) = watch(scale, &crew, serving.pid(), &mut harm);
    report.count("kills", kills);
    report.count("hand-overs", hand_overs);
    report.count("SIGSTOPs", stops);
    report.count("stray SIGTERMs", terms);
    report.calls(&tally);
    report.count("of which the pipe was lost with the worker", tally.sum(&[Fate::Consumed, Fate::Spent]));
    report.none("called poison", tally.of(Fate::Crashed));
    compare(&mut report, scale, &looks);
    serving.stop();
    report
}

/// The child, while nothing happens to it.
pub(crate) fn without_faults(scale: Scale) -> Report {
    let mut report = Report::new(scale);
    let service = Service::new(&[]);
    let serving = service.start();
    serving.ready();
    let worker = until("there is a worker", || children(serving.pid()).first().copied());
    let crew = Crew { pipes: 1, plain: 1, ..Crew::of(&service, scale.seed) };
    let (tally, looks) = watch(scale, &crew, worker, &mut |_| thread::sleep(LOOK));
    report.demand(children(serving.pid()) == [worker], || "the worker was replaced".to_owned());
    report.calls(&tally);
    report.none("cut off without our client", tally.of(Fate::Cut));
    compare(&mut report, scale, &looks);
    serving.stop();
    report
}

/// Looks at a process under load, after each of these steps, once it has warmed up. The first look and the last are
/// at a process that nobody calls.
fn watch(scale: Scale, crew: &Crew, pid: u32, step: &mut dyn FnMut(&Load)) -> (Tally, Vec<Look>) {
    let begun = Instant::now();
    let length = Duration::from_secs(scale.count(SHORT, LONG) as u64);
    let load = Load::start(crew);
    while begun.elapsed() < length / 6 {
        step(&load);
    }
    let mut tally = load.end();
    let mut looks = vec![Look::at_rest(pid, begun)];
    let load = Load::start(&Crew { seed: crew.seed.wrapping_add(1), ..crew.clone() });
    while begun.elapsed() < length / 6 + length {
        step(&load);
        looks.push(Look::at(pid, begun));
    }
    tally.add(load.end());
    looks.push(Look::at_rest(pid, begun));
    (tally, looks)
}

/// Waits until the former worker is gone for good: reaped, its pipes emptied.
fn settle(serving: &Serving<'_>) {
    until("one worker is left", || (children(serving.pid()).len() == 1).then_some(()));
}

fn compare(report: &mut Report, scale: Scale, looks: &[Look]) {
    let [first, .., last] = looks else { return report.demand(false, || "nothing was looked at".to_owned()) };
    let kinds: [(&str, Figure); 3] = [
        ("descriptors", |look| look.descriptors),
        ("threads", |look| look.threads),
        ("zombies", |look| look.zombies),
    ];
    for (what, of) in kinds {
        report.note(format_args!("{what}: {} before, {} after", of(first), of(last)));
        report.demand(of(first) == of(last), || format!("{what} went from {} to {}", of(first), of(last)));
    }
    // Under load, all of them.
    let looks = &looks[1..looks.len() - 1];
    let slope = slope(looks) * 3600.0;
    report.note(format_args!(
        "memory: from {:.2} MB to {:.2} MB in {:.0} s, {:.2} MB an hour over {} looks",
        first.memory / 1e6,
        last.memory / 1e6,
        last.at - first.at,
        slope / 1e6,
        looks.len()
    ));
    let limit = SLOPE[usize::from(!scale.long)];
    report.demand(slope < limit, || format!("memory grows by {:.2} MB an hour", slope / 1e6));
}

/// Least squares, in bytes a second.
fn slope(looks: &[Look]) -> f64 {
    let count = looks.len() as f64;
    let mean = |of: fn(&Look) -> f64| looks.iter().map(of).sum::<f64>() / count;
    let (at, memory) = (mean(|look| look.at), mean(|look| look.memory));
    let covariance: f64 = looks.iter().map(|look| (look.at - at) * (look.memory - memory)).sum();
    let variance: f64 = looks.iter().map(|look| (look.at - at).powi(2)).sum();
    if variance > 0.0 { covariance / variance } else { 0.0 }
}
