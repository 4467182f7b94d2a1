//! A worker that dies at every start: it is tried again, ever later, until that is enough.

use std::time::{Duration, Instant};

use crate::report::{Report, Scale};
use crate::service::Service;

/// Starts in a row that may fail.
const STARTS: usize = 5;
/// How long all of it takes at least and at most: after the second start waits of 200, 400 and 800 ms, each by half
/// to one and a half.
const LEAST: Duration = Duration::from_millis(700);
const MOST: Duration = Duration::from_millis(2100);
/// On any machine.
const GENEROUS: Duration = Duration::from_secs(30);

pub(crate) fn run(scale: Scale) -> Report {
    let mut report = Report::new(scale);
    let runs = scale.count(1, 10);
    let mut took = Vec::new();
    for _ in 0..runs {
        let service = Service::of("dies_at_once", &[]);
        let begun = Instant::now();
        let serving = service.start();
        let ready = serving.is_ready();
        let (ended, _) = serving.end();
        took.push(begun.elapsed());
        report.demand(!ready, || format!("it said that it was ready: {ended}"));
        report.demand(ended.status.code() == Some(1), || format!("it should exit 1: {ended}"));
        for said in ["dies_at_once", "exited 3", "gave up after 5", "no such table: "] {
            report.demand(ended.stderr.contains(said), || format!("it does not say {said:?}: {ended}"));
        }
        let starts = service.logged("spawned").len();
        report.demand(starts == STARTS, || format!("{starts} starts: {ended}"));
        let waits: Vec<_> = service
            .logged("next start in")
            .iter()
            .filter_map(|record| {
                record["message"].as_str()?.split(' ').find_map(|word| word.parse::<f64>().ok())
            })
            .collect();
        report.demand(waits.len() >= 3, || format!("waits of {waits:?}: {ended}"));
        report.note(format_args!("waits of {waits:?} s"));
        report.demand(service.sockets().is_empty(), || format!("{:?} is left", service.sockets()));
    }
    report.count("services", runs as u64);
    report.count("starts of each", STARTS as u64);
    let (least, most) = (took.iter().min(), took.iter().max());
    report.demand(least.is_some_and(|least| *least >= LEAST), || format!("it waited too little: {least:?}"));
    report.demand(most.is_some_and(|most| *most < GENEROUS), || format!("it took {most:?}"));
    report.demand_time(most.is_some_and(|most| *most < MOST + LEAST), || format!("it took {most:?}"));
    report.times("start to exit 1", took);
    report
}
