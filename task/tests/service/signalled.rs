//! Services that are told to end at random moments, from their first to their last: once, and again while they end.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::load::{Crew, Load};
use crate::moments::Moments;
use crate::report::{Report, Scale};
use crate::service::Service;
use crate::tally::{Fate, Tally};

/// What a service may take to end on any machine: it waits for no limit.
const GENEROUS: Duration = Duration::from_secs(9);

const ENDINGS: [&[Signal]; 5] = [
    &[Signal::INT],
    &[Signal::TERM],
    &[Signal::INT, Signal::INT],
    &[Signal::TERM, Signal::TERM],
    &[Signal::INT, Signal::TERM],
];

pub(crate) fn run(scale: Scale) -> Report {
    // A shell without job control ignores INT in what it runs with `&`, and so would the services.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    let int = 1 << (Signal::INT.as_raw() - 1);
    assert_eq!(
        u64::from_str_radix(ignored, 16).unwrap() & int,
        0,
        "INT is ignored here: run it in the foreground"
    );
    let mut report = Report::new(scale);
    let service = Service::new(&[]);
    let crew = Crew { ours: 2, plain: 2, ..Crew::of(&service, scale.seed) };
    // A start tells how long one takes.
    let begun = Instant::now();
    let serving = service.start();
    serving.ready();
    let mut moments = Moments::new(scale.seed, begun.elapsed());
    serving.stop();

    let (mut once, mut twice) = (Tally::default(), Tally::default());
    let (mut ends, mut left, mut too_early, mut wrong_status) = (Vec::new(), 0, 0, Vec::new());
    let runs = scale.count(150, 2_000);
    for number in 0..runs {
        let signals = ENDINGS[number % ENDINGS.len()];
        let serving = service.start();
        // Half of them while they start, half under load.
        let load = moments.coin().then(|| {
            serving.ready();
            let load = Load::start(&crew);
            load.seen.until("the first answer", |now| (now.tally.of(Fate::Right) > 0).then_some(()));
            load
        });
        moments.wait();
        let sent = Instant::now();
        serving.signal(signals[0]);
        for &signal in &signals[1..] {
            moments.wait();
            // It may have ended since.
            serving.signal(signal);
        }
        let (ended, _) = serving.end();
        ends.push(ended.at - sent);
        left += service.sockets().len();
        // Before it has heard of signals it has made nothing, and dies of them.
        let unprepared =
            load.is_none() && ended.signal() == Some(signals[0].as_raw()) && ended.stderr.is_empty();
        too_early += u64::from(unprepared);
        if ended.status.code() != Some(0) && !unprepared {
            wrong_status.push(format!("{signals:?}: {ended}"));
        }
        if let Some(load) = load {
            let tally = load.end();
            (if signals.len() == 1 { &mut once } else { &mut twice }).add(tally);
        }
    }
    report.count("services ended", runs as u64);
    report.count("of them before they heard signals", too_early);
    report.none("socket files left", left as u64);
    report.none("with another status than 0", wrong_status.len() as u64);
    wrong_status.iter().take(2).for_each(|ended| report.note(ended));
    report.count("answers checked", once.of(Fate::Right) + twice.of(Fate::Right));
    report.none("wrong", once.of(Fate::Wrong) + twice.of(Fate::Wrong));
    let lost = once.sum(&[Fate::Cut, Fate::Unknown, Fate::Late, Fate::Failed]);
    report.none("accepted calls lost at a single signal", lost);
    report.count("cut off at a second one", twice.sum(&[Fate::Cut, Fate::Unknown]));
    report.reasons(&once);
    let most = ends.iter().max().copied().unwrap_or_default();
    report.demand(most < GENEROUS, || format!("one took {most:?} to end"));
    report.times("signal to exit", ends);
    report
}
