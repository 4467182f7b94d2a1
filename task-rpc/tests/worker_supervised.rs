//! `task-rpc --supervised`: handshake, guards against a dead host, drain, scoreboard.

mod support;

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::Signal;
use support::{Host, client, context, numbers, on_a_pipe, refused, shown, task_rpc};
use tarpc::client::RpcError;
use tarpc::trace::SamplingDecision;
use tarpc::{ClientMessage, Request};
use task_proto::crash::{Condemned, Crash, TraceId};
use task_proto::handshake::{Answer, EXIT_REFUSED, Hello, PROTOCOL};
use task_proto::limits::Limits;
use task_proto::number::Number;
use task_proto::scoreboard::{Activity, Snapshot};
use task_proto::stats::{Format, Query, Source, StatsRequest, StatsResponse};
use task_proto::wire::{self, FdStream, Greeting};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_worker_says_ready_and_serves_on_the_hosts_socket() {
    let mut host = Host::spawn(|_| {});
    let Ok(Answer::Ready(ready)) = host.greet(&host.hello()) else { panic!("{:?}", host.process.end()) };
    assert_eq!((ready.protocol, ready.pid), (PROTOCOL[1], host.process.pid()));
    let line = host.process.wait_for("serving Stats");
    assert!(line.contains(&format!(r#""socket":"{}""#, host.socket.display())), "{line}");
    let (client, _) = client(&host.socket).await;
    assert_eq!(client.ping(context()).await.unwrap().generation, 3);
    assert_eq!(std::fs::read_link(format!("/proc/{}/cwd", ready.pid)).unwrap().to_str(), Some("/"));
}

#[tokio::test]
async fn a_connection_hears_which_worker_of_which_host_it_has_before_it_asks() {
    let host = Host::start();
    let mut stream = wire::connect(&host.socket).await.unwrap();
    // The first byte tells the protocol; no request has been read when the greeting comes.
    stream.write_all(b"\0").await.unwrap();
    let mut transport =
        wire::client::<StatsRequest, StatsResponse>(FdStream::new(stream, 0).unwrap(), &Limits::default());
    let greeting = transport.greeting();
    let heard = async {
        while greeting.get().is_none() {
            assert!(futures::poll!(transport.next()).is_pending());
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(support::PATIENCE, heard).await.unwrap();
    assert_eq!(greeting.get(), Some(&Greeting { instance: "test".into(), generation: 3, connection: 1 }));
}

#[test]
fn a_host_of_another_protocol_is_refused_for_good() {
    let mut host = Host::spawn(|_| {});
    let hello = Hello { protocol: [PROTOCOL[1] + 1, PROTOCOL[1] + 5], ..host.hello() };
    assert_eq!(host.greet(&hello).unwrap(), Answer::Refused { protocol: PROTOCOL, reason: None });
    let (status, said) = host.process.end();
    assert_eq!(status.code(), Some(EXIT_REFUSED.into()));
    let ([least, most], [low, high]) = (hello.protocol, PROTOCOL);
    let refusal = format!(
        "task-rpc: the host speaks protocols {least} to {most}, this program {low} to {high}: install both from one build\n"
    );
    assert_eq!(said, refusal);
}

#[test]
fn a_host_that_closes_before_hello_ends_the_worker() {
    let mut host = Host::spawn(|_| {});
    host.end = None;
    let (status, said) = host.process.end();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("no handshake"), "{said}");
}

#[test]
fn the_end_of_the_lifeline_ends_the_worker_at_once() {
    let mut host = Host::start();
    host.end = None;
    assert_eq!(host.process.end().0.code(), Some(1));
}

#[test]
fn a_worker_whose_parent_is_not_the_named_host_does_not_start() {
    let output = task_rpc().args(["--supervised", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("task-rpc: process 1 is not my parent"), "{said}");
}

#[test]
fn a_worker_dies_with_the_thread_that_spawned_it() {
    // Held by the test, so that the lifeline stays whole.
    let mut host = std::thread::spawn(Host::start).join().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&host.process.end().0),
        Some(Signal::KILL.as_raw())
    );
}

#[tokio::test]
async fn term_drains_and_leaves_the_listener_to_the_next_generation() {
    let mut host = Host::start();
    let (first, outgoing) = client(&host.socket).await;
    let (query, mut writer) = on_a_pipe(&outgoing);
    let call = tokio::spawn({
        let client = first.clone();
        async move { client.median(context(), query).await }
    });
    shown(&host, |seen| seen.calls.iter().any(|call| call.method == "Stats.median")).await;
    host.process.signal(Signal::TERM);
    refused(&first).await;
    let _waits_in_the_backlog = UnixStream::connect(&host.socket).unwrap();
    writer.write_all(b"5 7 6").unwrap();
    drop(writer);
    assert_eq!(call.await.unwrap().unwrap().unwrap().count, 3);
    let said = host.process.end_well();
    assert!(said.contains(r#""message":"drained""#), "{said}");
    host.listener.accept().unwrap();
}

/// Run by the function below, in another process: it hands a connection over on its standard input.
#[test]
#[ignore = "hands a connection to the process that runs it"]
fn connect_for_another() {
    let stream = UnixStream::connect(std::env::var("WORKER_TEST_SOCKET").unwrap()).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [stream.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(rustix::stdio::stdin(), &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
}

/// A connection whose peer, to the worker, is another process than this.
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
fn connected_by_another(socket: &Path) -> tokio::net::UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "connect_for_another", "--ignored"])
        .env("WORKER_TEST_SOCKET", socket)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&ours, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let stream = UnixStream::from(received.unwrap());
    stream.set_nonblocking(true).unwrap();
    tokio::net::UnixStream::from_std(stream).unwrap()
}

#[tokio::test]
async fn what_was_sent_to_a_full_worker_before_term_is_answered() {
    let mut host = Host::spawn(|_| {});
    let limits = Limits { connections: 1, ..Limits::default() };
    host.greet(&Hello { limits: limits.clone(), ..host.hello() }).unwrap();
    let (first, outgoing) = client(&host.socket).await;
    let (query, mut writer) = on_a_pipe(&outgoing);
    let call = tokio::spawn({
        let first = first.clone();
        async move { first.median(context(), query).await }
    });
    shown(&host, |seen| !seen.calls.is_empty()).await;
    let mut waiting = Vec::new();
    for id in 0..3 {
        // One process alone may not have them all.
        let stream = FdStream::new(connected_by_another(&host.socket), 0).unwrap();
        let mut transport = wire::client::<StatsRequest, StatsResponse>(stream, &limits);
        let request = Request { context: context(), id, message: StatsRequest::Ping {} };
        transport.send(ClientMessage::Request(request)).await.unwrap();
        waiting.push(transport);
    }
    host.process.signal(Signal::TERM);
    refused(&first).await;
    writer.write_all(b"5 7 6").unwrap();
    drop(writer);
    assert_eq!(call.await.unwrap().unwrap().unwrap().count, 3);
    for (id, mut transport) in (0..).zip(waiting) {
        let reply = tokio::time::timeout(support::PATIENCE, transport.next()).await.expect("an answer");
        let reply = reply.unwrap().unwrap();
        assert_eq!((reply.request_id, reply.message.is_ok()), (id, true));
        assert!(transport.next().await.is_none(), "then it ends");
    }
    host.process.end_well();
}

/// A client that is stopped, say, while the worker hands over: it would keep the old one for ever.
#[tokio::test]
async fn a_client_that_takes_no_replies_does_not_keep_a_drained_worker() {
    let mut host = Host::start();
    let stream = wire::connect(&host.socket).await.unwrap();
    let mut transport =
        wire::client::<StatsRequest, StatsResponse>(FdStream::new(stream, 0).unwrap(), &Limits::default());
    // A thousand modes each, since one number occurs once only: more than a socket holds of replies that nobody reads.
    let query = Query::numbers((0..3_999).map(|number| Number::Float(f64::from(number / 2) + 0.1)).collect());
    for id in 0..100 {
        let request =
            Request { context: context(), id, message: StatsRequest::Mode { query: query.clone() } };
        transport.send(ClientMessage::Request(request)).await.unwrap();
    }
    shown(&host, |seen| seen.calls_total == 100).await;
    host.process.signal(Signal::TERM);
    let said = host.process.end_well();
    assert!(said.contains("the client does not take its replies"), "{said}");
    drop(transport);
}

#[tokio::test]
async fn a_client_that_hangs_up_cancels_its_calls() {
    let host = Host::start();
    let limits = Limits::default();
    let stream = FdStream::new(wire::connect(&host.socket).await.unwrap(), limits.attachments).unwrap();
    let (query, _writer) = on_a_pipe(stream.outgoing());
    // Nothing but the wire: tarpc's client would send a cancellation before it leaves.
    let mut transport = wire::client::<StatsRequest, StatsResponse>(stream, &limits);
    let request = Request { context: context(), id: 7, message: StatsRequest::Mean { query } };
    transport.send(ClientMessage::Request(request)).await.unwrap();
    shown(&host, |seen| !seen.calls.is_empty()).await;
    drop(transport);
    let seen = shown(&host, |seen| seen.calls.is_empty() && seen.connections == 0).await;
    assert_eq!((seen.connections_total, seen.calls_total), (1, 0));
}

#[tokio::test]
async fn the_scoreboard_outlives_a_killed_worker() {
    let mut host = Host::start();
    let (client, outgoing) = client(&host.socket).await;
    client.mean(context(), numbers([1])).await.unwrap().unwrap();
    client.mean(context(), numbers([])).await.unwrap().unwrap_err();
    let (query, mut writer) = on_a_pipe(&outgoing);
    writer.write_all(b"1 2 3 ").unwrap();
    let context = context();
    let call = tokio::spawn(async move { client.mean(context, query).await });
    shown(&host, |seen| seen.heartbeat > 1 && seen.calls.iter().any(|call| call.consumed == 6)).await;
    host.process.signal(Signal::KILL);
    host.process.end();
    let seen = host.board.read().unwrap();
    assert_eq!((seen.calls_total, seen.calls_failed, seen.calls.len()), (2, 1, 1));
    assert_eq!((seen.calls[0].method.as_str(), seen.calls[0].consumed), ("Stats.mean", 6));
    assert!(call.await.unwrap().is_err());
}

#[tokio::test]
async fn an_ordinary_call_gets_a_line_at_the_level_that_the_host_asks_for() {
    let mut host = Host::spawn(|command| {
        command.env("TASK_LOG", "info");
    });
    host.greet(&host.hello()).unwrap();
    let (client, _) = client(&host.socket).await;
    let mut context = context();
    context.trace_context.trace_id = 0xab_u128.into();
    client.mean(context, numbers([1, 2])).await.unwrap().unwrap();
    let line = host.process.wait_for("answered");
    for part in [r#""level":"INFO""#, r#""target":"stats""#, r#""method":"mean""#, r#""count":2"#] {
        assert!(line.contains(part), "{line}");
    }
    assert!(line.contains(r#""trace_id":"000000000000000000000000000000ab""#), "{line}");
}

#[tokio::test]
async fn without_word_from_the_host_only_failed_and_sampled_calls_get_a_line() {
    let mut host = Host::start();
    let (client, _) = client(&host.socket).await;
    client.mean(traced(0xa), numbers([1])).await.unwrap().unwrap();
    let mut sampled = traced(0xb);
    sampled.trace_context.sampling_decision = SamplingDecision::Sampled;
    client.mean(sampled, numbers([1])).await.unwrap().unwrap();
    client.mean(traced(0xc), numbers([])).await.unwrap().unwrap_err();
    drop(client);
    host.process.signal(Signal::TERM);
    let said = host.process.end_well();
    let traces: Vec<_> = said.lines().filter(|line| line.contains("trace_id")).collect();
    let [sampled, failed] = &traces[..] else { panic!("{said}") };
    assert!(sampled.contains(&TraceId(0xb).to_string()) && sampled.contains(r#""level":"INFO""#), "{said}");
    assert!(failed.contains(&TraceId(0xc).to_string()) && failed.contains(r#""message":"failed""#), "{said}");
    assert!(failed.contains(r#""level":"INFO""#) && failed.contains(r#""reason":"empty_input: "#), "{said}");
}

#[tokio::test]
async fn calls_of_a_client_without_trace_ids_get_one_each_on_the_scoreboard_and_in_the_log() {
    let mut host = Host::spawn(|command| {
        command.env("TASK_LOG", "info");
    });
    host.greet(&host.hello()).unwrap();
    let (client, outgoing) = client(&host.socket).await;
    let untraced = context();
    assert_eq!(u128::from(*untraced.trace_id()), 0, "as of a stock client");
    let (queries, writers): (Vec<_>, Vec<_>) = (0..2).map(|_| on_a_pipe(&outgoing)).unzip();
    let mut calls = Vec::new();
    for query in queries {
        let client = client.clone();
        calls.push(tokio::spawn(async move { client.mean(untraced, query).await }));
    }
    let seen = shown(&host, |seen| seen.calls.len() == 2).await;
    let ids: Vec<_> = seen.calls.iter().map(|call| call.trace_id).collect();
    assert!(ids[0] != 0 && ids[1] != 0 && ids[0] != ids[1], "{ids:x?}");
    for mut writer in writers {
        writer.write_all(b"1 2").unwrap();
    }
    for call in calls {
        call.await.unwrap().unwrap().unwrap();
    }
    let lines = [host.process.wait_for("answered"), host.process.wait_for("answered")];
    for id in ids {
        let id = format!(r#""trace_id":"{id:032x}""#);
        assert!(lines.iter().any(|line| line.contains(&id)), "{id} in {lines:?}");
    }
}

/// A context with this trace id.
fn traced(trace_id: u128) -> tarpc::context::Context {
    let mut context = context();
    context.trace_context.trace_id = trace_id.into();
    context
}

#[tokio::test]
async fn a_condemned_call_is_answered_with_its_crash_and_not_executed() {
    let mut host = Host::spawn(|_| {});
    let crash =
        Crash { generation: 2, cause: "killed by SIGABRT".into(), stderr_tail: vec!["last words".into()] };
    let condemned = vec![Condemned { trace_id: TraceId(0xbad), crash: crash.clone() }];
    host.greet(&Hello { condemned, ..host.hello() }).unwrap();
    let (client, outgoing) = client(&host.socket).await;
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"1 2").unwrap();
    drop(writer);
    let attached = outgoing.push(Arc::new(reader.try_clone().unwrap().into()));
    let query = Query { sources: vec![Source::Attached { attached, format: Format::Text }], ..numbers([]) };
    match client.mean(traced(0xbad), query.clone()).await {
        Err(RpcError::Server(error)) => assert_eq!(Crash::from_error(&error), Some(crash)),
        other => panic!("{other:?}"),
    }
    let line = host.process.wait_for("not executed");
    assert!(line.contains(&TraceId(0xbad).to_string()) && line.contains("killed by SIGABRT"), "{line}");
    let seen = host.board.read().unwrap();
    assert_eq!((seen.calls_total, seen.calls_failed, seen.calls.len()), (1, 1, 0));
    // Any other call goes on, and finds the input untouched.
    assert!(support::readable(&reader));
    assert_eq!(client.mean(traced(0xbae), query).await.unwrap().unwrap().count, 2);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

fn activity(seen: &Snapshot, trace_id: u128) -> Option<Activity> {
    seen.calls.iter().find(|call| call.trace_id == trace_id).map(|call| call.activity)
}

#[tokio::test]
async fn suspects_take_turns_and_others_wait_no_longer_than_a_trial() {
    const COUNT: u64 = 32_000_000;
    // On one processor, so that what follows takes long.
    let host = Host::spawn_through("exec taskset -c 0 \"$@\"", |worker| {
        worker.env("TASK_SIMD", "portable");
    });
    host.greet(&Hello { suspects: vec![TraceId(1), TraceId(2), TraceId(3)], ..host.hello() }).unwrap();
    // Of two connections: the turn is the process's.
    let (one, outgoing) = client(&host.socket).await;
    let (other, _outgoing) = client(&host.socket).await;
    let (mut query, mut writer) = on_a_pipe(&outgoing);
    query.sources = vec![Source::Attached { attached: 0, format: Format::I64 }];
    // As every value is there once, to find the mode takes longer than a trial lasts.
    let writing = std::thread::spawn(move || {
        for first in (0..COUNT).step_by(100_000) {
            let values = (first..first + 100_000).map(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            writer.write_all(&values.flat_map(u64::to_le_bytes).collect::<Vec<_>>()).unwrap();
        }
    });
    assert_eq!(one.mean(context(), query.clone()).await.unwrap().unwrap().count, COUNT);
    writing.join().unwrap();

    let sorting = tokio::spawn(async move { one.mode(traced(1), query).await });
    shown(&host, |seen| activity(seen, 1) == Some(Activity::Computing)).await;
    let ping = |trace_id| {
        let other = other.clone();
        tokio::spawn(async move { other.ping(traced(trace_id)).await })
    };
    let (second, third) = (ping(2), ping(3));
    shown(&host, |seen| [2, 3].map(|call| activity(seen, call)) == [Some(Activity::Held); 2]).await;
    // One that is cancelled while it is held takes no turn.
    third.abort();
    shown(&host, |seen| activity(seen, 3).is_none()).await;
    ping(9).await.unwrap().unwrap();
    assert_eq!(activity(&host.board.read().unwrap(), 2), Some(Activity::Held), "it is still held");
    assert!(!sorting.is_finished());
    sorting.await.unwrap().unwrap().unwrap();
    second.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_suspect_that_waits_for_its_input_keeps_no_other_waiting() {
    let host = Host::spawn(|_| {});
    host.greet(&Hello { suspects: vec![TraceId(1), TraceId(2)], ..host.hello() }).unwrap();
    let (client, outgoing) = client(&host.socket).await;
    let call = |trace_id| {
        let (client, (query, writer)) = (client.clone(), on_a_pipe(&outgoing));
        (tokio::spawn(async move { client.mean(traced(trace_id), query).await }), writer)
    };
    let (first, mut first_input) = call(1);
    first_input.write_all(b"1 ").unwrap();
    shown(&host, |seen| seen.calls.iter().any(|call| call.consumed == 2)).await;
    shown(&host, |seen| activity(seen, 1) == Some(Activity::Waiting)).await;
    let (second, mut second_input) = call(2);
    second_input.write_all(b"5 6").unwrap();
    drop(second_input);
    assert_eq!(second.await.unwrap().unwrap().unwrap().count, 2);
    first_input.write_all(b"2 3").unwrap();
    drop(first_input);
    assert_eq!(first.await.unwrap().unwrap().unwrap().count, 3);
}

#[tokio::test]
async fn a_call_shows_whether_it_waits_for_its_input_or_computes() {
    let host = Host::start();
    let (client, outgoing) = client(&host.socket).await;
    let (query, mut writer) = on_a_pipe(&outgoing);
    let call = tokio::spawn({
        let (client, query) = (client.clone(), query.clone());
        async move { client.mean(context(), query).await }
    });
    let at = |activity| move |seen: &Snapshot| seen.calls.iter().any(|call| call.activity == activity);
    shown(&host, at(Activity::Waiting)).await;
    let words = (0..3_000_000).map(|number| (number * 1_000_003_u64 % 3_000_000).to_string());
    let text = words.collect::<Vec<_>>().join(" ");
    let writing = std::thread::spawn(move || writer.write_all(text.as_bytes()).unwrap());
    assert_eq!(call.await.unwrap().unwrap().unwrap().count, 3_000_000);
    writing.join().unwrap();
    // Of numbers that have been read, each of which is there once.
    let call = tokio::spawn(async move { client.mode(context(), query).await });
    shown(&host, at(Activity::Computing)).await;
    assert_eq!(call.await.unwrap().unwrap().unwrap().count, 3_000_000);
}
