//! `task call` without an answer: what it says of the call, and what to do.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use crate::invocation::{Home, PATIENCE};
use crate::serve::{serves, status};

fn until(mut it_is_so: impl FnMut() -> bool) {
    let late = Instant::now() + PATIENCE;
    while !it_is_so() {
        assert!(Instant::now() < late, "it never was");
        thread::yield_now();
    }
}

/// What `task call ping` says of a service at this socket in the home, as text and as JSON.
fn late(home: &Home, name: &str) -> (String, serde_json::Value) {
    let socket = home.path(name);
    let words = ["call", "ping", "--timeout", "300ms", "--socket", socket.to_str().unwrap()];
    let text = home.task(words).ends();
    let json = home.task([&words[..], &["--json"]].concat()).ends();
    assert_eq!((text.status.code(), json.status.code()), (Some(124), Some(124)), "{text}{json}");
    (text.stderr.clone(), json.json_error())
}

#[test]
fn a_call_whose_time_is_up_says_whether_it_may_have_been_executed() {
    let home = Home::new();
    // It takes connections, and what is sent on them, and executes it some day or not.
    let _silent = UnixListener::bind(home.path("silent")).unwrap();
    let (text, json) = late(&home, "silent");
    assert_eq!(text, "task: outcome unknown: no answer within 300ms (--timeout); see task status\n");
    assert_eq!((&json["kind"], &json["outcome"]), (&"deadline".into(), &"unknown".into()), "{json}");
    // No connection at all: its backlog is full.
    let full = UnixListener::bind(home.path("full")).unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let _waits = UnixStream::connect(home.path("full")).unwrap();
    let (text, json) = late(&home, "full");
    assert_eq!(text, "task: never sent: no answer within 300ms (--timeout); see task status\n");
    assert_eq!((&json["kind"], &json["outcome"]), (&"deadline".into(), &"never_sent".into()), "{json}");
}

#[test]
fn while_a_service_is_stopping_a_call_and_a_restart_say_so() {
    let home = Home::new();
    let service = serves(&home, &[]);
    let mut call = home.task(["call", "mean"]).with(|c| c.stdin(Stdio::piped())).starts(Stdio::piped());
    until(|| status(&home)["calls"]["in_flight"] == 1);
    thread::scope(|scope| {
        let stop = scope.spawn(|| home.task(["stop"]).ends_beside_others());
        until(|| status(&home)["state"] == "stopping");
        let place = home.path("runtime/task");
        let words = "is stopping: start another with task serve when it has ended";
        let late = home.task(["call", "mean", "1"]).ends_beside_others();
        late.fails(3, &format!("task: the service at {}/rpc.sock {words}", place.display()));
        let restart = home.task(["restart"]).ends_beside_others();
        restart.fails(1, "task: not restarted: the service is stopping");
        call.stdin().take().unwrap().write_all(b"1 2 3").unwrap();
        stop.join().unwrap().answers("");
    });
    call.ends_beside_others().answers("2\n");
    assert_eq!(service.ends().status.code(), Some(0));
}
