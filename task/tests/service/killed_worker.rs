//! Workers that are killed, again and again, while clients call: once all had an answer, and at any moment at all.

use std::io::{PipeWriter, Write as _};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionread;
use rustix::process::Signal;
use task_host::client::CallError;
use task_proto::number::Number;
use task_proto::stats::StatsResponse;

use crate::house::{LIMIT, children, send, try_kill, until};
use crate::inputs;
use crate::load::{Crew, Load};
use crate::moments::Moments;
use crate::oracle::Statistic;
use crate::ours;
use crate::report::{Report, Scale};
use crate::service::Service;
use crate::tally::{Fate, Now};

/// From a kill to the next answer, for half of the kills.
const PROMISED: Duration = Duration::from_millis(10);
/// The same for each, on any machine: nothing is waited out.
const GENEROUS: Duration = Duration::from_secs(20);

/// Starts that tell how long one takes.
const STARTS: usize = 9;

/// Each worker has answered all callers, and is killed.
pub(crate) fn after_answers(scale: Scale) -> Report {
    signalled(scale, Signal::KILL, scale.count(200, 10_000))
}

/// Each worker has answered all callers, and is told to end by somebody who is not its host.
pub(crate) fn by_stray_term(scale: Scale) -> Report {
    signalled(scale, Signal::TERM, scale.count(50, 1_000))
}

fn signalled(scale: Scale, signal: Signal, signals: usize) -> Report {
    let mut report = Report::new(scale);
    let service = Service::new(&[]);
    let serving = service.start();
    serving.ready();
    let load = Load::start(&Crew { plain: 0, ..Crew::of(&service, scale.seed) });
    let mut recoveries = Vec::with_capacity(signals);
    let (mut moments, mut slow_ones) = (Moments::new(scale.seed, LIMIT), 0);
    for number in 0..signals {
        load.seen.until("every caller had an answer from one worker", Now::common_worker);
        // One that is told to end answers what it was asked before, however long that takes; nobody else waits for it.
        let slow =
            (signal == Signal::TERM && number.is_multiple_of(2)).then(|| Slow::ask(&service, moments.next()));
        let worker = load.seen.until("every caller had an answer from one worker", Now::common_worker);
        let killed = Instant::now();
        send(worker, signal).unwrap();
        let (_, answered) = load.seen.until_other_than(worker);
        recoveries.push(answered - killed);
        if let Some(slow) = slow {
            slow_ones += 1;
            let reply = slow.answer();
            report.demand(reply.is_ok(), || format!("a call that it had begun is answered with {reply:?}"));
        }
    }
    let tally = load.end();
    report.count("signals", signals as u64);
    if slow_ones > 0 {
        report.count("of them while it had a call that takes long", slow_ones);
    }
    report.calls(&tally);
    report.none("called poison", tally.of(Fate::Crashed));
    recoveries.sort_unstable();
    let (half, most) = (recoveries[signals / 2], recoveries[signals - 1]);
    report.demand_time(half <= PROMISED, || format!("half of them took over {half:?} to the next answer"));
    report.demand(most < GENEROUS, || format!("{most:?} to the next answer"));
    report.times("signal to next answer", recoveries);
    serving.stop();
    report
}

/// A call that takes as long as the one who asks likes: its input is a pipe, of which the rest is not yet written.
struct Slow {
    pipe: PipeWriter,
    asked: JoinHandle<Result<StatsResponse, CallError>>,
}

impl Slow {
    /// Asks, and waits until a worker reads.
    fn ask(service: &Service, trace_id: u64) -> Self {
        let (reader, mut pipe) = std::io::pipe().unwrap();
        pipe.write_all(b"1 2 ").unwrap();
        let request = inputs::request(Statistic::Mean, inputs::attached());
        let asked = ours::ask_once_of(&service.socket(), vec![reader.into()], trace_id.into(), request);
        until("a worker reads the pipe", || (ioctl_fionread(&pipe) == Ok(0)).then_some(()));
        Slow { pipe, asked }
    }

    /// Writes the rest, and takes the answer.
    fn answer(mut self) -> Result<(), String> {
        let written = self.pipe.write_all(b"6");
        drop(self.pipe);
        match (written, self.asked.join().expect("it does not panic")) {
            (Ok(()), Ok(StatsResponse::Mean(Ok(mean)))) if mean.value == Number::Float(3.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }
}

/// Whatever the worker is at: being spawned, greeting, serving.
pub(crate) fn at_any_time(scale: Scale) -> Report {
    let mut report = Report::new(scale);
    let service = Service::new(&["--max-failed-starts", "none"]);
    let serving = service.start();
    serving.ready();
    let load = Load::start(&Crew { pipes: 1, plain: 1, ..Crew::of(&service, scale.seed) });
    let host = serving.pid();
    // How long it takes to the next answer decides where the middle of a start is.
    let (mut last, mut killed) = (0, Instant::now());
    let mut lengths = Vec::new();
    for _ in 0..STARTS {
        last = load.seen.until("every caller had an answer from one worker", Now::common_worker);
        killed = Instant::now();
        try_kill(last).unwrap();
        lengths.push(load.seen.until_other_than(last).1 - killed);
    }
    lengths.sort_unstable();
    let mut moments = Moments::new(scale.seed, lengths[STARTS / 2]);
    let (mut early, mut recoveries) = (0, Vec::new());
    let kills = scale.count(100, 2_000);
    for _ in 0..kills {
        until("it is gone", || (!children(host).contains(&last)).then_some(()));
        // Two of three have answered somebody: the more starts fail in a row, the later comes the next.
        if moments.below(3) > 0 {
            // Not one that had answered before: a worker that is killed early has not, and leaves that one the newest.
            recoveries.push(load.seen.until_after(last, killed) - killed);
        }
        let worker = until("there is a worker", || children(host).first().copied());
        moments.wait();
        killed = Instant::now();
        try_kill(worker).unwrap();
        early += u64::from(load.seen.lock().newest.as_ref().is_none_or(|(newest, _)| newest.pid != worker));
        last = worker;
    }
    load.seen.until_after(last, killed);
    let tally = load.end();
    report.count("kills", kills as u64);
    report.count("of them before the first answer", early);
    report.calls(&tally);
    report.count("of which the pipe was lost with the worker", tally.sum(&[Fate::Consumed, Fate::Spent]));
    report.count("that were executing at five kills", tally.of(Fate::Crashed));
    report.times("kill to next answer, unless killed before it", recoveries);
    serving.stop();
    report
}
