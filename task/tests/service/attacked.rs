//! Attacks, one after another, and somebody who was connected before and asks on: the answers come about as soon as
//! before, and nothing is left of an attack when it is over.

use std::fs;
use std::time::{Duration, Instant};

use crate::attack::{ATTACKS, Attack, Attackers};
use crate::house::{children, until};
use crate::moments::quantile;
use crate::report::{Report, Scale};
use crate::service::Service;
use crate::victim::Victim;

/// Of one core, while an attack is over and nobody asks.
const IDLE: f64 = 0.01;
/// Lines of the log that an attack may make, each second: whoever is refused may come again at once.
const LINES: u64 = 60;
/// The kernel's clock for processor times (`getconf CLK_TCK`).
const TICK: Duration = Duration::from_millis(10);

pub(crate) fn run(scale: Scale) -> Report {
    let mut report = Report::new(scale);
    let service = Service::new(&[]);
    let serving = service.start();
    serving.ready();
    let worker = until("there is a worker", || children(serving.pid()).first().copied());
    let mut victim = Victim::connect(&service.socket(), &service.house.path("numbers"), scale.seed);
    let length = Duration::from_secs(scale.count(1, 20) as u64);
    // What it has from the first call on: threads, and the connection itself.
    victim.ask(length);
    let base = descriptors(worker);
    let (mut calm, mut attacked) = (Vec::new(), Vec::new());
    for attack in &ATTACKS {
        let &Attack { name, processes, later, .. } = attack;
        let control = victim.ask(length);
        let (lines, begun) = (service.log().len(), Instant::now());
        let attackers = Attackers::start(attack, &service.socket());
        let during = victim.ask(length);
        let most = descriptors(worker);
        report.demand(attackers.end(), || format!("{name}: they were served as they must not be"));
        let lines = (service.log().len() - lines) as u64;
        report.demand(lines <= LINES * (begun.elapsed().as_secs() + 1), || {
            format!("{name}: {lines} lines in the log within {:?}", begun.elapsed())
        });
        until("the descriptors are back to what they were", || (descriptors(worker) <= base).then_some(()));
        let idle = used(worker, length);
        report.demand_time(idle <= IDLE, || {
            format!("{name}: afterwards idle at {:.1} % of a core", idle * 1e2)
        });
        let [control, during] = [control, during].map(|mut times| {
            times.sort_unstable();
            times
        });
        let [usual, now] = [&control, &during].map(|times| quantile(times, 0.99));
        report.note(format_args!(
            "{name} ({processes}): p99 {now:.1?}, without {usual:.1?}; {most} descriptors, {base} before and after; {lines} lines in the log; idle {:.1} %", idle * 1e2
        ));
        let beyond = now.saturating_sub(usual);
        report.demand_time(beyond <= later, || format!("{name}: p99 is {beyond:.1?} above the control's"));
        calm.extend(control);
        attacked.extend(during);
    }
    report.count("attacks", ATTACKS.len() as u64);
    report.count("answers checked", victim.answered);
    report.count("times that its connection made room", victim.dismissed);
    let last = victim.worker();
    report.demand(last == (worker, 1), || format!("the worker {worker} was replaced by {last:?}"));
    report.times("answered under attack", attacked);
    report.times("without", calm);
    drop(victim);
    serving.stop();
    report
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The part of a core that a process uses while this long nobody asks it.
fn used(pid: u32, length: Duration) -> f64 {
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // Its name, in parentheses, may contain anything; its times in user and kernel mode are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
        fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap()
    };
    let (before, begun) = (ticks(), Instant::now());
    std::thread::sleep(length);
    (TICK * (ticks() - before)).as_secs_f64() / begun.elapsed().as_secs_f64()
}
