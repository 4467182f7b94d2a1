//! `task-rpc --socket PATH`: its socket, its signals, its errors.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::fs;
use std::io::{Read, Seek, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use futures::{SinkExt, StreamExt};
use rustix::process::Signal;
use support::{Alone, PATIENCE, Process, client, context, numbers, on_a_pipe, refused, task_rpc};
use tarpc::{ClientMessage, Request};
use task_proto::limits::Limits;
use task_proto::number::Number;
use task_proto::stats::{Format, Missing, Query, Source, StatsRequest, StatsResponse};
use task_proto::wire::{self, ClientTransport, FdStream};

#[tokio::test]
async fn it_answers_and_term_or_int_removes_its_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut alone = Alone::start();
        let (client, _) = client(&alone.socket).await;
        let mean = client.mean(context(), numbers([1, 2, 6])).await.unwrap().unwrap();
        assert_eq!(mean.value, Number::Float(3.0));
        alone.process.signal(signal);
        let said = alone.process.end_well();
        assert!(said.contains(r#""message":"drained"#) && said.contains(r#""calls":1"#), "{said}");
        assert!(!alone.socket.exists());
    }
}

#[test]
fn a_stale_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    drop(UnixListener::bind(&socket).unwrap());
    let mut process = Process::spawn(task_rpc().arg("--socket").arg(&socket));
    process.wait_for("serving Stats");
    UnixStream::connect(&socket).unwrap();
}

#[test]
fn a_live_socket_a_file_and_a_missing_directory_are_refused_with_a_reason() {
    let alone = Alone::start();
    let file = alone.directory.path().join("notes.txt");
    fs::write(&file, "precious").unwrap();
    for (path, reason) in [
        (alone.socket.clone(), "is already served"),
        (file.clone(), "exists and is no socket"),
        (alone.directory.path().join("no/such"), "cannot open its directory: No such file"),
    ] {
        // One that serves after all is given up on, and killed.
        let (status, said) = Process::spawn(task_rpc().arg("--socket").arg(&path)).end();
        assert_eq!(status.code(), Some(1), "{said}");
        let start = format!("task-rpc: {}: {reason}", path.display());
        assert!(said.starts_with(&start) && said.lines().count() == 1, "{said}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    UnixStream::connect(&alone.socket).unwrap();
}

#[test]
fn without_a_socket_it_says_what_to_run_instead() {
    let output = task_rpc().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("`task`") && said.contains("--socket PATH"), "{said}");
}

#[test]
fn a_client_that_speaks_something_else_is_told_so() {
    let mut alone = Alone::start();
    let mut stream = UnixStream::connect(&alone.socket).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("speaks tarpc") && said.lines().count() == 1, "{said}");
    alone.process.wait_for("does not speak tarpc");
}

type Wire = ClientTransport<StatsRequest, StatsResponse>;

/// The client's end of a connection as it is on the wire, and another handle of its socket.
async fn on_the_wire(socket: &Path) -> (Wire, UnixStream) {
    let stream = wire::connect(socket).await.unwrap().into_std().unwrap();
    let half = stream.try_clone().unwrap();
    let stream = FdStream::new(tokio::net::UnixStream::from_std(stream).unwrap(), 0).unwrap();
    (wire::client(stream, &Limits::default()), half)
}

async fn send_ping(transport: &mut Wire) {
    let request = Request { context: context(), id: 7, message: StatsRequest::Ping {} };
    transport.send(ClientMessage::Request(request)).await.unwrap();
}

#[tokio::test]
async fn what_was_asked_before_the_end_of_requests_is_answered() {
    let alone = Alone::start();
    let (mut transport, half) = on_the_wire(&alone.socket).await;
    send_ping(&mut transport).await;
    half.shutdown(Shutdown::Write).unwrap();
    let reply = transport.next().await.unwrap().unwrap();
    assert_eq!(reply.request_id, 7);
    assert!(reply.message.is_ok());
    assert!(transport.next().await.is_none(), "then the connection ends");
}

#[tokio::test]
async fn calls_in_flight_are_answered_after_term_and_a_second_one_ends_at_once() {
    for twice in [false, true] {
        let mut alone = Alone::start();
        let (client, outgoing) = client(&alone.socket).await;
        let (query, mut writer) = on_a_pipe(&outgoing);
        let call = tokio::spawn({
            let client = client.clone();
            async move { client.mean(context(), query).await }
        });
        tokio::task::yield_now().await;
        // Requests are taken in order: once this is answered, the one before is in flight.
        client.ping(context()).await.unwrap();
        alone.process.signal(Signal::TERM);
        refused(&client).await;
        assert!(!alone.socket.exists(), "the socket is gone before the drain is over");
        if twice {
            alone.process.signal(Signal::TERM);
            assert_eq!(alone.process.end().0.signal(), Some(Signal::TERM.as_raw()));
            assert!(call.await.unwrap().is_err());
        } else {
            writer.write_all(b"1 2 3").unwrap();
            drop(writer);
            assert_eq!(call.await.unwrap().unwrap().unwrap().count, 3);
            alone.process.end_well();
        }
    }
}

#[test]
fn what_was_ignored_at_the_start_stays_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"trap "" HUP INT; exec "$0" --socket "$1""#, env!("CARGO_BIN_EXE_task-rpc")]);
    let mut process = Process::spawn(shell.arg(&socket).stderr(std::process::Stdio::piped()));
    process.wait_for("serving Stats");
    let ignored = u64::from_str_radix(&process.status("SigIgn:"), 16).unwrap();
    let caught = u64::from_str_radix(&process.status("SigCgt:"), 16).unwrap();
    for signal in [Signal::HUP, Signal::INT, Signal::PIPE, Signal::XFSZ] {
        assert_ne!(ignored & 1 << (signal.as_raw() - 1), 0, "{signal:?}");
    }
    assert_eq!(caught & 1 << (Signal::INT.as_raw() - 1), 0);
    process.signal(Signal::INT);
    process.signal(Signal::TERM);
    process.end_well();
}

#[tokio::test]
async fn a_client_that_leaves_is_no_reason_to_warn_and_one_that_breaks_the_protocol_is() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let mut process = Process::spawn(task_rpc().env("TASK_LOG", "debug").arg("--socket").arg(&socket));
    process.wait_for("serving Stats");
    // It is told what is spoken here when it has left already.
    process.signal(Signal::STOP);
    UnixStream::connect(&socket).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    process.signal(Signal::CONT);
    let line = process.wait_for(r#""closed a connection""#);
    assert!(line.contains(r#""level":"DEBUG""#) && line.contains("Broken pipe"), "{line}");
    // It asks again and does not listen to the answer.
    let (mut transport, half) = on_the_wire(&socket).await;
    send_ping(&mut transport).await;
    assert!(transport.next().await.unwrap().unwrap().message.is_ok());
    half.shutdown(Shutdown::Read).unwrap();
    send_ping(&mut transport).await;
    let line = process.wait_for(r#""closed a connection""#);
    assert!(line.contains(r#""level":"DEBUG""#) && line.contains(r#""error":"Broken pipe"#), "{line}");
    // A frame of 16 MiB.
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(&[0, 0xff, 0xff, 0xff, 0]).unwrap();
    let line = process.wait_for(r#""closed a connection""#);
    assert!(line.contains(r#""level":"WARN""#) && line.contains(r#""error":"a frame is over"#), "{line}");
}

#[tokio::test]
async fn memory_of_large_inputs_is_given_back_when_their_clients_have_gone() {
    let alone = Alone::start();
    let kb = |key| alone.process.status(key).trim_end_matches(" kB").parse::<u64>().unwrap();
    let numbers: Vec<_> = (0..500_000_u64).map(|number| (number * 7_919 % 500_000).to_string()).collect();
    let text = numbers.join(" ");
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    let file: Arc<OwnedFd> = Arc::new(file.into());
    for _ in 0..3 {
        let calls = (0..16).map(|_| async {
            let (client, outgoing) = client(&alone.socket).await;
            let attached = outgoing.push(Arc::clone(&file));
            let sources = vec![Source::Attached { attached, format: Format::Text }];
            let query = Query { sources, missing: Missing::Error };
            client.median(context(), query).await.unwrap().unwrap();
        });
        futures::future::join_all(calls).await;
    }
    let peak = kb("VmHWM:");
    let patience = Instant::now() + PATIENCE;
    while kb("RssAnon:") > 8 * 1024 {
        assert!(Instant::now() < patience, "{} kB are left of {peak}", kb("RssAnon:"));
        tokio::task::yield_now().await;
    }
    assert!(peak > 32 * 1024, "{peak} kB");
}
