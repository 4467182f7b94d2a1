//! Requests that abort whatever worker executes them. They fail as that, after the second death; nobody else's calls
//! do, those beside them at both deaths neither.

use std::time::Duration;

use task_host::client::CallError;
use task_proto::number::Number;
use task_proto::stats::{Query, StatsRequest, StatsResponse};

use crate::house::LIMIT;
use crate::load::{Crew, Load};
use crate::moments::Moments;
use crate::ours;
use crate::report::{Report, Scale};
use crate::service::Service;
use crate::tally::{Fate, Now};
use crate::wires::Wire;

/// Calls that are executing beside each of them.
const BESIDE: usize = 3;
/// How soon a poisonous call must have failed on any machine.
const GENEROUS: Duration = Duration::from_secs(20);

pub(crate) fn run(scale: Scale) -> Report {
    let mut report = Report::new(scale);
    let service = Service::of("tripwires", &[]);
    let serving = service.start();
    serving.ready();
    let mut moments = Moments::new(scale.seed, LIMIT);
    let load = Load::start(&Crew { pipes: 1, ..Crew::of(&service, scale.seed) });
    let rounds = scale.count(10, 300);
    let (mut took, mut beside, mut crashed) = (Vec::new(), 0, 0);
    for _ in 0..rounds {
        load.seen.until("every caller had an answer from one worker", Now::common_worker);
        let before = generation(&load);
        let begun = std::time::Instant::now();
        let mut ask = |wire: Wire| {
            let trace_id = u128::from(moments.next()) << 64 | u128::from(moments.next());
            let query = Query::numbers(vec![Number::Int(wire.number())]);
            ours::ask_once(&service.socket(), trace_id, StatsRequest::Mean { query })
        };
        let neighbours: Vec<_> = (0..BESIDE).map(|_| ask(Wire::Slow)).collect();
        let poison = ask(Wire::Abort).join().expect("it does not panic");
        took.push(begun.elapsed());
        match &poison {
            Err(CallError::Crashed(crash)) => {
                crashed += 1;
                report.demand(crash.cause.contains("SIGABRT"), || format!("{crash:?}"));
                report.demand(crash.generation == before + 1, || {
                    format!("it was sent in generation {before}, and died in {}", crash.generation)
                });
            }
            other => report.demand(false, || format!("the poison is answered with {other:?}")),
        }
        for neighbour in neighbours {
            match neighbour.join().expect("it does not panic") {
                Ok(StatsResponse::Mean(Ok(mean)))
                    if mean.value == Number::Float(Wire::Slow.number() as f64) =>
                {
                    beside += 1;
                }
                other => report.demand(false, || format!("a call beside it is answered with {other:?}")),
            }
        }
        load.seen.until("the worker after the second death answers", |now| {
            now.newest.as_ref().filter(|(worker, _)| worker.generation >= before + 2).map(|_| ())
        });
        let after = generation(&load);
        report.demand(after == before + 2, || format!("{} workers died of one call", after - before));
    }
    let tally = load.end();
    report.count("poisonous calls", rounds as u64);
    report.count("failed as `Crashed`", crashed);
    report.count("answered beside them", beside);
    report.calls(&tally);
    report.none("innocent calls called poison", tally.of(Fate::Crashed));
    report.count("of which the pipe was lost with the worker", tally.of(Fate::Consumed));
    report.demand(took.iter().all(|took| *took < GENEROUS), || format!("{:?}", took.iter().max()));
    report.times("call to `Crashed`", took);
    serving.stop();
    report
}

fn generation(load: &Load) -> u64 {
    load.seen.lock().newest.as_ref().map_or(0, |(worker, _)| worker.generation)
}
