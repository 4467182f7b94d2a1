//! Several runs, and a worker that runs alone, at the same time.

use std::process::Stdio;

use rustix::process::Signal;
use task_proto::limits::Limits;
use task_proto::number::Number;
use task_proto::stats::{Query, StatsClient};
use task_proto::wire::{self, FdStream};

use crate::house::{ANSWER, House, NUMBERS, Run, task_rpc, until};

#[test]
fn two_runs_and_a_worker_alone_answer_at_once_and_leave_nothing() {
    let house = House::new();
    let socket = house.path("alone.sock");
    let alone = Run::start(house.command(&task_rpc()).arg("--socket").arg(&socket));

    // Both have a worker, and wait for the end of their input.
    let waiting = [(); 2].map(|()| {
        let (reader, writer) = std::io::pipe().unwrap();
        let run = Run::start(house.task(&["5", "-"]).stdin(Stdio::from(reader)));
        run.worker(None);
        (run, writer)
    });
    until("both have a socket", || (house.sockets().len() == 2).then_some(()));

    Run::start(house.task(&[]).args(NUMBERS)).end().expect(0, ANSWER);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mean = runtime.block_on(async {
        until("the worker alone listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
        let limits = Limits::default();
        let stream = FdStream::new(wire::connect(&socket).await.unwrap(), limits.attachments).unwrap();
        let stats = StatsClient::new(tarpc::client::Config::default(), wire::client(stream, &limits)).spawn();
        stats.mean(tarpc::context::current(), Query::numbers(vec![Number::Int(2), Number::Int(5)])).await
    });
    assert_eq!(mean.unwrap().unwrap().value, Number::Float(3.5));

    let tasks = waiting.map(|(run, writer)| {
        let task = run.pid();
        drop(writer);
        run.end().expect(0, "mean    5\nmedian  5\nmode    5 (1 of 1)\n");
        task
    });
    assert!(tasks.iter().all(|&task| house.processes(task).is_empty()));
    assert!(house.left().is_empty(), "{:?}", house.left());
    assert!(socket.exists());
    alone.signal(Signal::TERM);
    alone.end().expect(0, "");
    assert!(!socket.exists(), "it takes its socket away");
}
