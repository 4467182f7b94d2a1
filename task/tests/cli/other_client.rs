//! Another program asks a `task-rpc` that stands alone: the example that the README shows.

use std::path::Path;
use std::process::Stdio;

use rustix::process::{Signal, kill_process};

use crate::invocation::{Home, TASK};

#[test]
fn the_example_gets_its_answers_from_a_worker_alone_and_its_socket_goes_with_it() {
    let home = Home::new();
    let beside = |name: &str| Path::new(TASK).with_file_name(name).to_str().unwrap().to_owned();
    let socket = home.path("stats.sock");
    let path = socket.to_str().unwrap();
    for signal in [Signal::TERM, Signal::INT] {
        let alone = home.run(&beside("task-rpc"), ["--socket", path]).starts(Stdio::piped());
        alone.hears("serving Stats");
        let call = |words: &[&str]| home.run(&beside("examples/call"), [&[path], words].concat()).ends();
        call(&["3", "1", "3", "1", "2"]).answers("mean    2\nmedian  2\nmode    1, 3\n");
        assert!(!call(&["nan"]).status.success());
        assert!(!call(&["three"]).status.success());
        kill_process(alone.pid(), signal).unwrap();
        let ended = alone.ends();
        assert!(ended.status.success() && ended.stderr.contains("drained"), "{ended}");
        assert!(!socket.exists(), "the socket is still there: {ended}");
        assert!(!call(&["1"]).status.success(), "nobody serves any more");
    }
}
