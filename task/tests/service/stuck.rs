//! Workers that hang, each in its way. Health replaces them, says what they were at, and the callers are answered.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use task_proto::number::Number;
use task_proto::stats::{Query, StatsRequest, StatsResponse};

use crate::house::{LIMIT, stop};
use crate::load::{Crew, Load};
use crate::moments::Moments;
use crate::ours;
use crate::report::{Report, Scale};
use crate::service::Service;
use crate::tally::{Fate, Now};
use crate::wires::Wire;

/// From the fault to the first answer of the next worker: three looks of a second each, the one that was under way,
/// the autopsy and a start.
const PROMISED: Duration = Duration::from_secs(6);
/// The same on any machine.
const GENEROUS: Duration = Duration::from_secs(20);

const KINDS: [(&str, Wire); 3] =
    [("SIGSTOP", Wire::Wait), ("a spinning thread", Wire::Spin), ("a blocked loop", Wire::Block)];

pub(crate) fn run(scale: Scale) -> Report {
    let mut report = Report::new(scale);
    let rounds = scale.count(1, 20);
    let mut moments = Moments::new(scale.seed, LIMIT);
    let mut took = [const { Vec::new() }; KINDS.len()];
    let mut answered = 0;
    for round in 0..rounds {
        for (kind, (what, wire)) in KINDS.into_iter().enumerate() {
            let service = Service::of("tripwires", &[]);
            let serving = service.start();
            serving.ready();
            let load = Load::start(&Crew::of(&service, moments.next()));
            let worker = load.seen.until("every caller had an answer", Now::common_worker);
            let begun = Instant::now();
            let trace_id = u128::from(moments.next()) << 64 | u128::from(moments.next());
            let query = Query::numbers(vec![Number::Int(wire.number())]);
            let stuck = ours::ask_once(&service.socket(), trace_id, StatsRequest::Mean { query });
            if wire == Wire::Wait {
                // On the same loop its answers come after that call has begun.
                let answers = load.seen.lock().tally.of(Fate::Right) + 100;
                load.seen
                    .until("some calls later", |now| (now.tally.of(Fate::Right) > answers).then_some(()));
                stop(worker);
            }
            let (_, first) = load.seen.until_other_than(worker);
            load.seen.until("all are answered by the next", |now| {
                now.common_worker().filter(|pid| *pid != worker)
            });
            took[kind].push(first - begun);
            // In the next generation it does no harm: it is answered like any other.
            let reply = stuck.join().expect("it does not panic");
            let is_right = matches!(&reply, Ok(StatsResponse::Mean(Ok(mean)))
                if mean.value == Number::Float(wire.number() as f64));
            report.demand(is_right, || format!("{what}: the call that hung is answered with {reply:?}"));
            let tally = load.end();
            answered += tally.of(Fate::Right);
            report.demand(tally.failed() + tally.of(Fate::Wrong) + tally.of(Fate::Crashed) == 0, || {
                format!("{what}: {:?}", tally.reasons().collect::<Vec<_>>())
            });
            serving.signal(Signal::TERM);
            let (ended, _) = serving.end();
            report.demand(ended.status.code() == Some(0), || format!("{what}: {ended}"));
            let trace_id = format!("{trace_id:032x}");
            let log = service.log();
            let autopsy = log.iter().map(ToString::to_string).find(|record| {
                record.contains("Stats.mean")
                    && record.contains(&trace_id)
                    && record.contains(&worker.to_string())
            });
            report.demand(autopsy.is_some(), || format!("{what}: no autopsy names the call: {ended}"));
            if let Some(autopsy) = autopsy.filter(|_| round == 0) {
                report.note(format_args!("{what}: {autopsy}"));
            }
        }
    }
    report.count("hangs of each kind", rounds as u64);
    report.count("answers checked", answered);
    for ((what, _), took) in KINDS.into_iter().zip(took) {
        let most = took.iter().max().copied().unwrap_or_default();
        report.demand_time(most <= PROMISED, || format!("{what}: it took {most:?} to the next answer"));
        report.demand(most <= GENEROUS, || format!("{what}: it took {most:?} to the next answer"));
        report.times(what, took);
    }
    report
}
