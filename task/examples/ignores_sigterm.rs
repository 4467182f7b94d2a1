//! A worker that answers every call with a mean of 42 and ignores SIGTERM: as one does whose shutdown hook hangs.

use std::future::ready;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures::StreamExt as _;
use signal_hook::consts::SIGTERM;
use task_proto::handshake::{Answer, Heard, Ready, Sandbox, receive_hello, send_answer};
use task_proto::limits::{HEARTBEAT, Limits};
use task_proto::number::Number;
use task_proto::scoreboard::Scores;
use task_proto::stats::{Mean, StatsRequest, StatsResponse};
use task_proto::wire::{self, Calls, Decoder, FdStream};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    signal_hook::flag::register(SIGTERM, Arc::new(AtomicBool::new(false)))?;
    let stdin = rustix::stdio::stdin();
    let Heard { protocol, hello, listener, scoreboard } = receive_hello(stdin)?;
    let scores = Scores::map(scoreboard)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let (build, pid) = ("stubborn".into(), std::process::id());
        let ready = Ready { protocol, build, pid, sandbox: Sandbox::None, lacks: None, memory: None };
        send_answer(stdin, &Answer::Ready(ready))?;
        // It lives: its heart beats as long as it runs.
        let mut beats = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                _ = beats.tick() => scores.tick(),
                accepted = listener.accept() => {
                    let limits = hello.limits.clone();
                    tokio::spawn(async move { answer(accepted?.0, &limits).await; Ok::<_, std::io::Error>(()) });
                }
            }
        }
    })
}

/// Serves one connection to its end.
async fn answer(stream: tokio::net::UnixStream, limits: &Limits) {
    let transport = wire::server(
        FdStream::new(stream, limits.attachments).expect("room for one"),
        limits,
        &Decoder::default(),
    );
    let mean = Mean { value: Number::Int(42), count: 1, missing: 0, warnings: Vec::new() };
    let service = tarpc::server::serve(move |_, _: StatsRequest| ready(Ok(StatsResponse::Mean(Ok(mean)))));
    let mut calls = Calls::new(transport);
    while let Some(Ok(call)) = calls.next().await {
        calls.start(call, service.clone()).await;
    }
}
