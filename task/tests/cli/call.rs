//! `task call` without an answer: what it says of the call, and what to do.

use std::os::unix::net::{UnixListener, UnixStream};

use crate::invocation::Home;

/// What `task call ping` says of a service at `rpc.sock` in the home, as text and as JSON.
fn late(home: &Home) -> (String, serde_json::Value) {
    let socket = home.path("rpc.sock");
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
    let listener = UnixListener::bind(home.path("rpc.sock")).unwrap();
    let (text, json) = late(&home);
    assert_eq!(text, "task: outcome unknown: no answer within 300ms (--timeout)\n");
    assert_eq!((&json["kind"], &json["outcome"]), (&"deadline".into(), &"unknown".into()), "{json}");
    // No connection at all: its backlog is full.
    rustix::net::listen(&listener, 0).unwrap();
    let _waits = UnixStream::connect(home.path("rpc.sock")).unwrap();
    let (text, json) = late(&home);
    assert_eq!(text, "task: never sent: no answer within 300ms (--timeout)\n");
    assert_eq!((&json["kind"], &json["outcome"]), (&"deadline".into(), &"never_sent".into()), "{json}");
}
