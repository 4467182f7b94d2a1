//! More clients than a worker takes connections, and hand-overs: they make room for each other between their calls, and
//! none notices. As many as there are connections only sit there: they must make room, too.

use std::os::unix::net::UnixStream;

use rustix::process::Signal;
use task_proto::limits::Limits;

use crate::load::{Crew, Load};
use crate::report::{Report, Scale};
use crate::service::Service;
use crate::tally::{Fate, Now};

const CALLERS: usize = 90;
/// Some of them with pipes.
const PIPES: usize = 10;

pub(crate) fn run(scale: Scale) -> Report {
    let mut report = Report::new(scale);
    let service = Service::new(&[]);
    let serving = service.start();
    serving.ready();
    let seats = Limits::default().connections;
    // The backlog has room for all whom the worker does not take at once.
    let idle: Vec<_> = (0..seats).map(|_| UnixStream::connect(service.socket()).unwrap()).collect();
    let load = Load::start(&Crew { ours: CALLERS - PIPES, pipes: PIPES, ..Crew::of(&service, scale.seed) });
    let hand_overs = scale.count(5, 100);
    for _ in 0..hand_overs {
        let worker = load.seen.until("every caller had an answer from one worker", Now::common_worker);
        serving.signal(Signal::HUP);
        load.seen.until("every caller had an answer from the next worker", |now| {
            now.common_worker().filter(|now| *now != worker)
        });
    }
    let tally = load.end();
    drop(idle);
    report.count("clients that ask", CALLERS as u64);
    report.count("that only sit there", seats as u64);
    report.count("hand-overs", hand_overs as u64);
    report.calls(&tally);
    report.none("of which the pipe was lost though no worker died", tally.of(Fate::Consumed));
    report.count("that asked again of a pipe which an earlier connection had read", tally.of(Fate::Spent));
    report.none("called poison", tally.of(Fate::Crashed));
    serving.stop();
    report
}
