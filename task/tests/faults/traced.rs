//! Workers under a debugger. Whoever traces a process learns first of its exit, and nobody else can reap it meanwhile.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use task_proto::limits::KILL;

use crate::house::{House, Run, children, field, kill, until};
use crate::remote::{service, task};

fn can_trace() -> bool {
    let can = Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok();
    if !can {
        eprintln!("skipped: strace is not installed");
    }
    can
}

/// Somebody who traces this process, and does nothing any more.
fn stopped_tracer(pid: u32) -> Run {
    let tracer = Run::start(
        Command::new("strace").args(["-f", "-o", "/dev/null", "-p", &pid.to_string()]).stdin(Stdio::null()),
    );
    let traced_by = tracer.pid().to_string();
    until("it is traced", || (field(pid, "status", "TracerPid")? == traced_by).then_some(()));
    tracer.signal(Signal::STOP);
    until("its tracer is stopped", || tracer.is_stopped().then_some(()));
    tracer
}

#[test]
fn a_worker_that_a_stopped_tracer_holds_does_not_freeze_the_run() {
    if !can_trace() {
        return;
    }
    let house = House::new();
    let (reader, _writer) = std::io::pipe().unwrap();
    let run = Run::start(house.task(&["--only", "mean"]).stdin(reader));
    let (task, worker) = (run.pid(), run.worker(None));
    until("it reads its input", || (!house.sockets().is_empty()).then_some(()));
    let tracer = stopped_tracer(worker);
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

#[test]
fn a_service_replaces_a_worker_that_a_stopped_tracer_holds_and_reaps_it_when_it_can() {
    if !can_trace() {
        return;
    }
    let house = House::new();
    let (serve, worker) = service(&house, &[]);
    // It is not traced before it serves, as it asks then who its parent is.
    Run::start(task(&house, &["call", "mean", "1"]).stdin(Stdio::null())).end().expect(0, "1\n");
    let tracer = stopped_tracer(worker);
    kill(worker);
    Run::start(task(&house, &["call", "mean", "2"]).stdin(Stdio::null())).end().expect(0, "2\n");
    let status = Run::start(&mut task(&house, &["status", "--json"])).end();
    let status: serde_json::Value = serde_json::from_str(&status.expect_success().stdout).unwrap();
    let reason = status["last_restart"]["reason"].as_str().unwrap();
    assert!(reason.contains("whoever traces it"), "{reason}");
    assert_eq!(children(serve.pid()).len(), 2, "the dead one is held");
    drop(tracer);
    until("it is reaped", || (children(serve.pid()).len() == 1).then_some(()));
}
