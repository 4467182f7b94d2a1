//! What guards a worker: who may connect and how many, descriptors, resource limits, signals ignored at the start.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::fs::{self, Permissions};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::Uid;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Signal, geteuid};
use support::{Alone, Host, Process, client, context, on_a_pipe, shown};
use task_proto::handshake::{Answer, Hello};
use task_proto::limits::Limits;
use task_proto::stats::StatsClient;
use task_proto::wire::Outgoing;
use tokio::task::JoinHandle;

/// A worker under the test as its host, started by this shell script; `exec "$@"` becomes the worker.
fn host_through(script: &str) -> Host {
    let mut host = Host::spawn_through(script, |_| {});
    match host.greet(&host.hello()) {
        Ok(Answer::Ready(_)) => host,
        other => panic!("{other:?}:\n{}", host.process.end().1),
    }
}

/// A row of `/proc/PID/limits`: soft and hard.
fn limit(process: &Process, row: &str) -> [String; 2] {
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid())).unwrap();
    let row = limits.lines().find_map(|line| line.strip_prefix(row)).unwrap();
    let mut words = row.split_whitespace().map(str::to_owned);
    [words.next().unwrap(), words.next().unwrap()]
}

#[test]
fn clients_that_send_their_own_socket_are_told_and_take_no_room_after_they_have_gone() {
    let worker = Alone::start();
    for _ in 0..=Limits::default().connections {
        let mut client = UnixStream::connect(&worker.socket).unwrap();
        let own = client.try_clone().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let own = [own.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&own)));
        sendmsg(&client, &[IoSlice::new(b"\0")], &mut control, SendFlags::NOSIGNAL).unwrap();
        client.set_read_timeout(Some(support::PATIENCE)).unwrap();
        let mut told = Vec::new();
        client.read_to_end(&mut told).unwrap();
        assert!(String::from_utf8_lossy(&told).contains("is a connection to this service"), "{told:?}");
    }
}

#[test]
fn descriptors_that_somebody_forgot_are_closed() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let script = r#"exec 7>&1 >/dev/null; echo inherited >&7; exec "$@""#;
    let host = Host::spawn_through(script, |command| {
        command.stdout(writer);
    });
    let mut line = [0; 10];
    reader.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"inherited\n");
    host.greet(&host.hello()).unwrap();
    // Every copy of the writer is closed, or this would wait for ever.
    assert!(support::readable(&reader), "the worker still holds it");
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn core_dumps_are_forbidden_and_descriptors_suffice_for_all_connections() {
    let host = host_through(r#"ulimit -c unlimited; ulimit -S -n 64; exec "$@""#);
    assert_eq!(limit(&host.process, "Max core file size"), ["0", "0"]);
    let [soft, hard] = limit(&host.process, "Max open files");
    let needed = 64 * (2 * 16 + 3) + 2 * 256 + 64;
    assert_eq!(soft.parse::<u64>().unwrap(), hard.parse().unwrap_or(u64::MAX).min(needed));
}

#[test]
fn what_was_ignored_at_the_start_stays_so_under_a_host_but_its_term_is_heeded() {
    let mut host = host_through(r#"trap "" HUP INT TERM; exec "$@""#);
    let ignored = u64::from_str_radix(&host.process.status("SigIgn:"), 16).unwrap();
    for signal in [Signal::HUP, Signal::INT, Signal::PIPE, Signal::XFSZ, Signal::TTIN] {
        assert_ne!(ignored & 1 << (signal.as_raw() - 1), 0, "{signal:?}");
    }
    host.process.signal(Signal::TERM);
    host.process.end_well();
}

#[test]
fn a_signal_blocked_by_whoever_started_it_comes_through() {
    let mut command = Command::new("env");
    command.args(["--block-signal=TERM", env!("CARGO_BIN_EXE_task-rpc"), "--socket"]);
    let directory = tempfile::tempdir().unwrap();
    command.arg(directory.path().join("s")).stderr(std::process::Stdio::piped());
    let mut process = Process::spawn(&mut command);
    process.wait_for("serving Stats");
    process.signal(Signal::TERM);
    process.end_well();
}

#[test]
fn another_users_connection_is_closed_and_logged() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let mut alone = Alone::start();
    // Let through by the file system, so that the worker itself has to look.
    fs::set_permissions(alone.directory.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&alone.socket, Permissions::from_mode(0o666)).unwrap();
    let socket = alone.socket.clone();
    let read = std::thread::spawn(move || {
        let nobody = Uid::from_raw(65534);
        // Of this thread alone.
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
        stream.read(&mut [0])
    });
    assert_eq!(read.join().unwrap().unwrap(), 0, "closed without a word");
    let line = alone.process.wait_for("another user");
    assert!(line.contains(r#""uid":65534"#), "{line}");
    assert!(line.contains(&format!(r#""pid":{}"#, std::process::id())), "{line}");
}

/// A worker that takes so many connections.
fn host_of(connections: usize) -> Host {
    let mut host = Host::spawn(|_| {});
    let hello = Hello { limits: Limits { connections, ..Limits::default() }, ..host.hello() };
    assert!(matches!(host.greet(&hello), Ok(Answer::Ready(_))), "{}", host.process.end().1);
    host
}

/// A call that is in flight for as long as the writer is open.
async fn call_in_flight(
    host: &Host,
    (client, outgoing): &(StatsClient, Outgoing),
) -> (JoinHandle<u64>, std::io::PipeWriter) {
    let before = host.board.read().unwrap().calls.len();
    let (client, (query, writer)) = (client.clone(), on_a_pipe(outgoing));
    let call = tokio::spawn(async move { client.mean(context(), query).await.unwrap().unwrap().count });
    shown(host, |seen| seen.calls.len() > before).await;
    (call, writer)
}

#[tokio::test]
async fn who_is_one_too_many_gets_the_place_of_the_connection_idle_longest() {
    let host = host_of(6);
    let busy = client(&host.socket).await;
    let (call, mut input) = call_in_flight(&host, &busy).await;
    // Not since they were made.
    let [idle, idle_longer] = [client(&host.socket).await, client(&host.socket).await];
    idle_longer.0.ping(context()).await.unwrap();
    idle.0.ping(context()).await.unwrap();
    let late = client(&host.socket).await;
    late.0.ping(context()).await.unwrap();
    assert_eq!(host.board.read().unwrap().connections, 3);
    // Its connection has ended, so that nothing is sent on it.
    idle_longer.0.ping(context()).await.unwrap_err();
    assert_eq!(host.board.read().unwrap().calls_total, 3);
    idle.0.ping(context()).await.unwrap();
    input.write_all(b"1 2 3").unwrap();
    drop(input);
    assert_eq!(call.await.unwrap(), 3);
}

#[tokio::test]
async fn a_process_whose_half_of_the_connections_is_busy_gets_no_more_and_others_do() {
    let mut host = host_of(4);
    let [first, second] = [client(&host.socket).await, client(&host.socket).await];
    let (first_call, mut first_input) = call_in_flight(&host, &first).await;
    let (second_call, second_input) = call_in_flight(&host, &second).await;
    let (third, _third) = client(&host.socket).await;
    third.ping(context()).await.unwrap_err();
    let pid = std::process::id();
    let line = host.process.wait_for("refused a connection");
    // Who says what it speaks hears why.
    for (sent, told) in [
        (&br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#[..], true),
        (br#"{"id":1,"method":"ping"}"#, false),
        (b"\0\0\0\x01\0", true),
        (b"GET / HTTP/1.0", false),
    ] {
        let mut refused = UnixStream::connect(&host.socket).unwrap();
        refused.write_all(sent).unwrap();
        let mut heard = Vec::new();
        refused.read_to_end(&mut heard).unwrap();
        let heard = String::from_utf8_lossy(&heard);
        assert_eq!(heard.contains("2 of the 4 connections"), told, "{heard}");
        assert_eq!(heard.is_empty(), !told);
    }
    assert!(line.contains(&format!(r#""pid":{pid}"#)) && line.contains(r#""connections":2"#), "{line}");
    assert_eq!(call_example(&host.socket), "mean    2\nmedian  2\nmode    1, 3\n");
    first_input.write_all(b"1 2 3").unwrap();
    drop(first_input);
    assert_eq!(first_call.await.unwrap(), 3);
    let (fourth, _fourth) = client(&host.socket).await;
    fourth.ping(context()).await.unwrap();
    drop(second_input);
    second_call.await.unwrap_err();
}

#[test]
fn who_begins_a_first_request_and_does_not_end_it_keeps_nobody_waiting() {
    for begun in [&b"\0"[..], b"{\"jsonrpc\":"] {
        let host = host_of(1);
        let mut slow = UnixStream::connect(&host.socket).unwrap();
        slow.write_all(begun).unwrap();
        let began = std::time::Instant::now();
        assert_eq!(call_example(&host.socket), "mean    2\nmedian  2\nmode    1, 3\n");
        let took = began.elapsed();
        assert!(took < Limits::default().frame_time / 2, "{took:?}");
    }
}

#[tokio::test]
async fn a_caller_behind_a_crowd_of_idle_connections_is_answered_at_once() {
    let host = Host::start();
    let crowd: Vec<_> = (0..500).map(|_| UnixStream::connect(&host.socket).unwrap()).collect();
    let began = std::time::Instant::now();
    let (client, _outgoing) = client(&host.socket).await;
    client.ping(context()).await.unwrap();
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
    let seen = host.board.read().unwrap();
    assert_eq!((seen.connections, seen.connections_total), (32, 501));
    drop(crowd);
}

/// The sockets that a process holds, as often as it holds them.
fn sockets(process: &Process) -> Vec<String> {
    let held = fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap();
    let held = held.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    held.map(|held| held.display().to_string()).filter(|held| held.starts_with("socket:")).collect()
}

#[tokio::test]
async fn a_connection_is_one_descriptor() {
    let host = Host::start();
    let before = sockets(&host.process);
    let (client, _outgoing) = client(&host.socket).await;
    client.ping(context()).await.unwrap();
    let with = sockets(&host.process);
    assert_eq!(with.len(), before.len() + 1, "{before:?} {with:?}");
}

/// Seconds within the hour of a log line.
fn seconds(line: &str) -> f64 {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let time = line["time"].as_str().unwrap().trim_end_matches('Z').to_owned();
    let mut parts = time.rsplit(':').map(str::parse::<f64>);
    let (seconds, minutes) = (parts.next().unwrap().unwrap(), parts.next().unwrap().unwrap());
    minutes * 60.0 + seconds
}

#[tokio::test]
async fn without_descriptors_it_neither_spins_nor_dies_and_serves_again() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -n 20; exec "$0" --socket "$1""#, env!("CARGO_BIN_EXE_task-rpc")]);
    let mut process = Process::spawn(command.arg(&socket).stderr(std::process::Stdio::piped()));
    process.wait_for("serving Stats");
    let crowd: Vec<_> = (0..20).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let mut before = None;
    for wait_ms in [5, 10, 20, 40] {
        let line = process.wait_for("cannot accept");
        assert!(line.contains(&format!(r#""wait_ms":{wait_ms}"#)), "{line}");
        let now = seconds(&line);
        if let Some((then, waited)) = before.replace((now, f64::from(wait_ms) / 1e3)) {
            assert!((now - then).rem_euclid(3600.0) >= waited, "{line}");
        }
    }
    drop(crowd);
    let (client, _outgoing) = client(&socket).await;
    client.ping(context()).await.unwrap();
    process.signal(Signal::TERM);
    drop(client);
    process.end_well();
}

#[test]
fn a_file_that_took_the_sockets_place_stays() {
    let mut alone = Alone::start();
    fs::remove_file(&alone.socket).unwrap();
    fs::write(&alone.socket, "precious").unwrap();
    alone.process.signal(Signal::TERM);
    alone.process.end_well();
    assert_eq!(fs::read(&alone.socket).unwrap(), b"precious");
}

/// What another process gets for 3 1 3 1 2.
fn call_example(socket: &Path) -> String {
    let example = PathBuf::from(env!("CARGO_BIN_EXE_task-rpc")).with_file_name("examples").join("call");
    let output = Command::new(&example).arg(socket).args(["3", "1", "3", "1", "2"]).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", example.display()));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_example_client_is_answered() {
    let alone = Alone::start();
    assert_eq!(call_example(&alone.socket), "mean    2\nmedian  2\nmode    1, 3\n");
}
