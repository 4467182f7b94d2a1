//! Workers under a debugger. Whoever traces a process learns first of its exit, and nobody else can reap it meanwhile.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;
use rustix::process::Signal;
use task_proto::limits::KILL;

use crate::house::{House, Run, children, field, kill, until};
use crate::remote::{service, task};

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
    let mut strace = Command::new("strace");
    let tracer = strace.args(["-f", "-o", "/dev/null", "-p", &worker.to_string()]).stdin(Stdio::null());
    let tracer = Run::start(tracer);
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

/// Traces these threads, until it is dropped. What is traced is its tracer's to reap.
struct Tracer {
    release: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Tracer {
    fn of(threads: Vec<i32>) -> Self {
        let (release, released) = channel();
        let (seized, all_seized) = channel();
        let thread = std::thread::spawn(move || {
            for thread in threads {
                ptrace::seize(Pid::from_raw(thread), Options::empty()).unwrap();
            }
            seized.send(()).unwrap();
            // Its end lets go of them.
            let _ = released.recv();
        });
        all_seized.recv().unwrap();
        Tracer { release: Some(release), thread: Some(thread) }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        drop(self.release.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn a_service_replaces_a_worker_that_a_tracer_holds_and_reaps_it_when_it_can() {
    let house = House::new();
    let (serve, _) = service(&house, &[]);
    let call = |number| Run::start(task(&house, &["call", "mean", number]).stdin(Stdio::null())).end();
    let threads = |pid: u32| {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads.map(|thread| thread.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    };
    // Its first thread is held, so that it cannot be reaped; or all are, so that it does not even look dead.
    for (all, why) in [(false, "whoever traces it"), (true, "does not die of SIGKILL")] {
        call("1").expect(0, "1\n");
        let worker = serve.worker(None);
        let tracer = Tracer::of(if all { threads(worker) } else { vec![worker.cast_signed()] });
        kill(worker);
        call("2").expect(0, "2\n");
        let status = Run::start(&mut task(&house, &["status", "--json"])).end();
        let status: serde_json::Value = serde_json::from_str(&status.expect_success().stdout).unwrap();
        let reason = status["last_restart"]["reason"].as_str().unwrap();
        assert!(reason.contains(why), "{reason}");
        assert_eq!(children(serve.pid()).len(), 2, "the dead one is held");
        drop(tracer);
        until("it is reaped", || (children(serve.pid()).len() == 1).then_some(()));
    }
}
