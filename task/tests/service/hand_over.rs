//! Hand-overs under load, and as long under the same load without one: callers must not notice the difference.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::house::Run;
use crate::load::{Crew, Load};
use crate::moments::{Moments, quantile};
use crate::report::{Report, Scale};
use crate::service::{Service, Serving};
use crate::tally::{Fate, Now};

/// From the signal on, a hand-over is looked at for at least so long.
const WINDOW: Duration = Duration::from_millis(50);
/// How much longer than without a hand-over an answer may be in coming.
const PROMISED: Duration = Duration::from_millis(50);

pub(crate) fn run(scale: Scale) -> Report {
    let mut report = Report::new(scale);
    let service = Service::new(&[]);
    let serving = service.start();
    serving.ready();
    let load = Load::start(&Crew { pipes: 1, plain: 1, ..Crew::of(&service, scale.seed) });
    let mut moments = Moments::new(scale.seed, WINDOW);
    let hand_overs = scale.count(30, 500);
    let (mut gaps, mut control, mut took, mut length) = (Vec::new(), Vec::new(), Vec::new(), WINDOW);
    for number in 0..hand_overs {
        // The control comes before it or after it, and takes as long.
        let before = moments.coin();
        if before {
            control.push(gap_within(&load, length));
        }
        let worker = load.seen.until("every caller had an answer from one worker", Now::common_worker);
        load.seen.begin_gaps();
        let begun = Instant::now();
        let asked = ask(&service, &serving, number);
        load.seen.until("every caller had an answer from the next worker", |now| {
            now.common_worker().filter(|now| *now != worker)
        });
        took.push(begun.elapsed());
        thread::sleep(WINDOW.saturating_sub(begun.elapsed()));
        gaps.push(load.seen.largest_gap());
        length = begun.elapsed();
        if let Some(restart) = asked {
            restart.end().expect_success();
        }
        if !before {
            control.push(gap_within(&load, length));
        }
    }
    let tally = load.end();
    report.count("hand-overs", hand_overs as u64);
    report.calls(&tally);
    report.none("of which the pipe was lost though no worker died", tally.of(Fate::Consumed));
    report.count("that asked again of a pipe which the former worker had read", tally.of(Fate::Spent));
    report.none("cut off without our client", tally.of(Fate::Cut));
    report.none("called poison", tally.of(Fate::Crashed));
    let [most, usual] = [&gaps, &control].map(|gaps| gaps.iter().max().copied().unwrap_or_default());
    let beyond = most.saturating_sub(usual);
    report.note(format_args!("largest gap {most:?}, without a hand-over {usual:?}: {beyond:?} above it"));
    report.demand_time(beyond <= PROMISED, || format!("the largest gap is {beyond:?} above the control's"));
    // The largest of many is mostly the machine's; what each hand-over costs shows in half of them.
    let [half, usual] = [&mut gaps, &mut control].map(|gaps| {
        gaps.sort_unstable();
        quantile(gaps, 0.5)
    });
    let beyond = half.saturating_sub(usual);
    report.demand_time(beyond <= PROMISED, || format!("half of the gaps are {beyond:?} above the control's"));
    report.times("largest gap of a caller", gaps);
    report.times("the same without a hand-over", control);
    report.times("asked for until all are answered by the next", took);
    serving.stop();
    report
}

/// The longest that a caller waits for an answer within this time, in which nothing is done.
fn gap_within(load: &Load, length: Duration) -> Duration {
    load.seen.begin_gaps();
    thread::sleep(length);
    load.seen.largest_gap()
}

/// By signal and by command in turn.
fn ask(service: &Service, serving: &Serving<'_>, number: usize) -> Option<Run> {
    if number.is_multiple_of(2) {
        serving.signal(Signal::HUP);
        return None;
    }
    Some(Run::start(&mut service.task("restart")))
}
