//! Hosts that are killed at random moments: their workers die with them, and the next service starts as if nothing
//! had been.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::load::{Crew, Load};
use crate::moments::Moments;
use crate::report::{Report, Scale};
use crate::service::{Service, Serving};
use crate::tally::{Fate, Tally};

/// How long a host's worker may outlive it.
const PROMISED: Duration = Duration::from_millis(300);
/// The same on any machine.
const GENEROUS: Duration = Duration::from_secs(10);

pub(crate) fn run(scale: Scale) -> Report {
    let mut report = Report::new(scale);
    let service = Service::new(&[]);
    let crew = Crew { ours: 2, plain: 1, ..Crew::of(&service, scale.seed) };
    let (mut starts, mut lives, mut left_behind, mut all) = (Vec::new(), Vec::new(), 0, Tally::default());

    let length = answering(&service, &crew, &mut starts, |serving, load| {
        serving.stop();
        load
    });
    all.add(length.0.end());
    let mut moments = Moments::new(scale.seed, length.1);
    let kills = scale.count(100, 2_000);
    for _ in 0..kills.div_ceil(2) {
        // While it starts: nobody calls, and nobody knows whether it was ready.
        let serving = service.start();
        moments.wait();
        lives.push(kill(serving));
        left_behind += service.sockets().len();
        // The next must work, and is killed in the middle of its calls.
        let (load, _) = answering(&service, &crew, &mut starts, |serving, load| {
            moments.wait();
            lives.push(kill(serving));
            load
        });
        all.add(load.end());
    }
    report.count("kills", lives.len() as u64);
    report.count("starts that worked", starts.len() as u64);
    report.count("socket files left behind and replaced", left_behind as u64);
    report.count("answers checked", all.of(Fate::Right));
    report.none("wrong", all.of(Fate::Wrong));
    report.none("that had to wait in vain", all.of(Fate::Late));
    let orphans = lives.iter().filter(|&&life| life > PROMISED).count();
    report.count("orphans after 300 ms", orphans as u64);
    report.demand_time(orphans == 0, || format!("{orphans} orphans after {PROMISED:?}"));
    report.demand(lives.iter().all(|&life| life < GENEROUS), || format!("orphans after {GENEROUS:?}"));
    report.times("seen gone after the kill", lives);
    report.times("start to first answer", starts);
    serving_again(&service);
    report
}

/// Starts it, waits for its first right answer, and does this: how long that answer took.
fn answering<'a>(
    service: &'a Service,
    crew: &Crew,
    starts: &mut Vec<Duration>,
    then: impl FnOnce(Serving<'a>, Load) -> Load,
) -> (Load, Duration) {
    let begun = Instant::now();
    let serving = service.start();
    serving.ready();
    let load = Load::start(crew);
    load.seen.until("the first answer", |now| (now.tally.of(Fate::Right) > 0).then_some(()));
    let took = begun.elapsed();
    starts.push(took);
    (then(serving, load), took)
}

fn kill(serving: Serving<'_>) -> Duration {
    serving.signal(Signal::KILL);
    serving.end().1
}

/// After the last kill, too.
fn serving_again(service: &Service) {
    let serving = service.start();
    serving.ready();
    serving.stop();
}
