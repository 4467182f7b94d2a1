//! Requests that abort whatever worker executes them. They fail as that, after the second death; nobody else's calls
//! do, those beside them at both deaths neither. A service that nobody else calls survives them as well.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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

/// Calls that are executing beside each of them; in some rounds one that takes a second.
const BESIDE: usize = 3;
/// How soon a poisonous call must have failed on any machine.
const GENEROUS: Duration = Duration::from_secs(20);
/// Poisonous calls in a row to a service that nobody else calls: more than starts may fail.
const ALONE: usize = 8;

pub(crate) fn run(scale: Scale) -> Report {
    let mut report = Report::new(scale);
    let service = Service::of("tripwires", &[]);
    let serving = service.start();
    serving.ready();
    let mut moments = Moments::new(scale.seed, LIMIT);
    let load = Load::start(&Crew { pipes: 1, ..Crew::of(&service, scale.seed) });
    let rounds = scale.count(10, 300);
    let (mut took, mut calls, mut beside, mut crashed) = (Vec::new(), 0, 0, 0);
    for round in 0..rounds {
        load.seen.until("every caller had an answer from one worker", Now::common_worker);
        let before = generation(&service, &mut moments);
        let begun = Instant::now();
        let slow = |number| if round % 5 == 1 && number == 0 { Wire::Long } else { Wire::Slow };
        let neighbours: Vec<_> = (0..BESIDE).map(slow).collect();
        let neighbours = neighbours.into_iter().map(|wire| (wire, ask(&service, wire, &mut moments)));
        let neighbours: Vec<_> = neighbours.collect();
        // In some rounds two at once. Each dies in two workers, in one of them both.
        let poisons = if round % 5 == 3 { 2 } else { 1 };
        let asked: Vec<_> = (0..poisons).map(|_| ask(&service, Wire::Abort, &mut moments)).collect();
        for poison in asked {
            calls += 1;
            crashed += u64::from(is_crash(&mut report, poison));
        }
        took.push(begun.elapsed());
        for (wire, neighbour) in neighbours {
            match neighbour.join().expect("it does not panic") {
                Ok(StatsResponse::Mean(Ok(mean))) if mean.value == Number::Float(wire.number() as f64) => {
                    beside += 1;
                }
                other => report.demand(false, || format!("a call beside it is answered with {other:?}")),
            }
        }
        let deaths = 2..=2 * poisons;
        let died = generation(&service, &mut moments) - before;
        if !deaths.contains(&died) {
            let log = service.log();
            let told = log.iter().filter(|record| record["fields"]["generation"].as_u64() >= Some(before));
            let told = told.map(|record| format!("{} {}", record["message"], record["fields"]));
            let told = told.collect::<Vec<_>>().join("\n    ");
            println!("    {told}");
            report.demand(false, || format!("{died} workers died of {poisons} calls"));
        }
    }
    let tally = load.end();
    report.count("poisonous calls beside others", calls);
    report.count("failed as `Crashed`", crashed);
    report.count("answered beside them", beside);
    report.calls(&tally);
    report.none("innocent calls called poison", tally.of(Fate::Crashed));
    report.count("of which the pipe was lost with the worker", tally.sum(&[Fate::Consumed, Fate::Spent]));
    report.demand(took.iter().all(|took| *took < GENEROUS), || format!("{:?}", took.iter().max()));
    report.times("call to `Crashed`", took);
    serving.stop();
    alone(&mut report, &mut moments);
    report
}

/// Nobody else calls, so every worker dies before it has answered.
fn alone(report: &mut Report, moments: &mut Moments) {
    let service = Service::of("tripwires", &[]);
    let serving = service.start();
    serving.ready();
    let mut took = Vec::new();
    for _ in 0..ALONE {
        let begun = Instant::now();
        is_crash(report, ask(&service, Wire::Abort, moments));
        took.push(begun.elapsed());
    }
    let reply = ask(&service, Wire::Slow, moments).join().expect("it does not panic");
    report.demand(reply.is_ok(), || format!("after {ALONE} of them it answers {reply:?}"));
    report.count("one after another to a service that nobody else calls", ALONE as u64);
    report.times("call to `Crashed` there", took);
    serving.stop();
}

type Asked = JoinHandle<Result<StatsResponse, CallError>>;

fn ask(service: &Service, wire: Wire, moments: &mut Moments) -> Asked {
    let trace_id = u128::from(moments.next()) << 64 | u128::from(moments.next());
    let query = Query::numbers(vec![Number::Int(wire.number())]);
    ours::ask_once(&service.socket(), trace_id, StatsRequest::Mean { query })
}

/// Whether this call fails as what workers die of.
fn is_crash(report: &mut Report, poison: Asked) -> bool {
    let reply = poison.join().expect("it does not panic");
    let is_crash = matches!(&reply, Err(CallError::Crashed(crash)) if crash.cause.contains("SIGABRT"));
    report.demand(is_crash, || format!("the poison is answered with {reply:?}"));
    is_crash
}

/// Which worker answers now. Once a poisonous call has failed, that is the one after its last death.
fn generation(service: &Service, moments: &mut Moments) -> u64 {
    let asked = ours::ask_once(&service.socket(), u128::from(moments.next()), StatsRequest::Ping {});
    match asked.join().expect("it does not panic") {
        Ok(StatsResponse::Ping(pong)) => pong.generation,
        other => panic!("ping is answered with {other:?}"),
    }
}
