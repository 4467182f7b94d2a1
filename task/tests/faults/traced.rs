//! Workers under a debugger. Whoever traces a process learns first of its exit, and nobody else can reap it meanwhile.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use task_proto::limits::KILL;

use crate::house::{House, Run, field, kill, until};

#[test]
fn a_worker_that_a_stopped_tracer_holds_does_not_freeze_the_run() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: strace is not installed");
        return;
    }
    let house = House::new();
    let (reader, _writer) = std::io::pipe().unwrap();
    let run = Run::start(house.task(&["--only", "mean"]).stdin(reader));
    let (task, worker) = (run.pid(), run.worker(None));
    until("it reads its input", || (!house.sockets().is_empty()).then_some(()));
    let tracer = Run::start(
        Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-p", &worker.to_string()])
            .stdin(Stdio::null()),
    );
    let traced_by = tracer.pid().to_string();
    until("it is traced", || (field(worker, "status", "TracerPid")? == traced_by).then_some(()));
    tracer.signal(Signal::STOP);
    until("its tracer is stopped", || tracer.is_stopped().then_some(()));
    kill(worker);
    run.signal(Signal::TERM);
    until("the signal was heard", || house.sockets().is_empty().then_some(()));
    // The second does not wait for calls to be answered.
    run.signal(Signal::TERM);
    let limit = KILL + Duration::from_secs(5);
    let ends = run.ends_within(limit);
    // The tracer goes in any case: then the worker can be reaped.
    drop(tracer);
    assert!(ends, "it still hangs {limit:?} after SIGTERM:\n{}", run.stderr());
    let ended = run.end();
    assert_eq!(ended.signal(), Some(Signal::TERM.as_raw()), "{ended}");
    assert!(house.left().is_empty(), "{ended}");
    house.gone(task, ended.at);
}
