//! The three guards that end a worker whose host is gone, each where the two others do not help.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Instant;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Signal;
use task_proto::handshake::{Answer, Hello, PROTOCOL, SandboxMode, receive_answer, send_hello};
use task_proto::limits::{Limits, PIPE};
use task_proto::scoreboard::Board;

use crate::house::{House, Run, stop, task_rpc};

/// Starts a worker that is told that `host` is its host; its lifeline.
fn worker_of(house: &House, host: u32) -> (Run, OwnedFd) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let mut command = house.command(&task_rpc());
    // The command holds the worker's end, and goes with this function.
    let run = Run::start(command.arg("--supervised").arg(host.to_string()).stdin(theirs));
    (run, ours)
}

#[test]
fn a_stopped_worker_dies_with_its_host() {
    let house = House::new();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let run = Run::start(house.task(&[]).stdin(reader));
    let (task, worker) = (run.pid(), run.worker(None));
    // More than a pipe holds: when it is written the worker has begun its work.
    writer.write_all(&b"1 ".repeat(PIPE)).unwrap();
    stop(worker);
    run.signal(Signal::KILL);
    let ended = run.end();
    let gone = house.gone(task, ended.at);
    println!("a stopped worker was gone after {gone:?}");
}

#[test]
fn a_worker_whose_parent_is_not_its_host_ends_at_once() {
    let house = House::new();
    // As it is when the host dies between its spawn and the worker's first step: somebody else is the parent by then.
    let (run, _lifeline) = worker_of(&house, 1);
    let ended = run.end();
    ended.expect(1, "").says(&["process 1 is not my parent"]);
}

#[test]
fn a_worker_ends_with_its_lifeline() {
    let house = House::new();
    let (run, lifeline) = worker_of(&house, std::process::id());
    let socket = house.path("rpc.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let board = Board::create().unwrap();
    let hello = Hello {
        protocol: PROTOCOL,
        instance: "test".into(),
        generation: 1,
        socket: socket.display().to_string(),
        limits: Limits::default(),
        sandbox: SandboxMode::default(),
        suspects: Vec::new(),
        condemned: Vec::new(),
    };
    send_hello(lifeline.as_fd(), &hello, listener.as_fd(), board.fd()).unwrap();
    let Ok(Answer::Ready(ready)) = receive_answer(lifeline.as_fd()) else { panic!("it is ready") };
    assert_eq!(ready.pid, run.pid());
    let cut = Instant::now();
    drop(lifeline);
    let ended = run.end();
    println!("gone {:?} after its lifeline: {}", ended.at - cut, ended.status);
}
