//! What a service manager does: it hands over a socket, and is told how the service stands.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Signal, kill_process};

use crate::invocation::{Home, Invocation, PATIENCE, TASK};

/// The directory of the sockets, made as a service manager makes it.
fn base(home: &Home) -> PathBuf {
    let base = home.path("runtime/task");
    fs::create_dir(&base).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o700)).unwrap();
    base
}

/// `task serve` with this as descriptor 3, and these variables.
fn given(home: &Home, what: impl Into<OwnedFd>, variables: &str) -> Invocation {
    let script = format!("exec 3<&0 0</dev/null; {variables} exec {TASK} serve");
    let what = what.into();
    home.run("sh", ["-c", &script]).with(|command| command.stdin(Stdio::from(what)))
}

fn answers(path: &Path) {
    let mut client = UnixStream::connect(path).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"hello?\n").unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("task-rpc: this socket speaks tarpc"), "{said:?}");
}

#[test]
fn a_socket_that_is_handed_over_is_served_and_stays() {
    let home = Home::new();
    let path = base(&home).join("rpc.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    for _ in 0..2 {
        let copy = listener.try_clone().unwrap();
        let service = given(&home, copy, "LISTEN_PID=$$ LISTEN_FDS=1").starts(Stdio::piped());
        service.hears(" ready in ");
        answers(&path);
        home.task(["restart"]).ends_beside_others().answers("generation 2 serves\n");
        answers(&path);
        kill_process(service.pid(), Signal::TERM).unwrap();
        let ended = service.ends_beside_others();
        assert_eq!(ended.status.code(), Some(0), "{ended}");
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "the socket is the service manager's");
        assert_eq!(fs::read_dir(home.path("runtime/task")).unwrap().count(), 1, "and nothing else is left");
        // Whoever comes meanwhile waits for the next service.
        UnixStream::connect(&path).unwrap();
    }
}

#[test]
fn what_is_no_socket_to_serve_is_refused_with_the_reason() {
    let home = Home::new();
    let dir = base(&home);
    let refused = |what: OwnedFd, why: &str| {
        let ended = given(&home, what, "LISTEN_PID=$$ LISTEN_FDS=1").ends_beside_others();
        assert_eq!(ended.status.code(), Some(2), "{ended}");
        assert!(ended.stderr.contains("LISTEN_FDS: ") && ended.stderr.contains(why), "{ended}");
    };
    refused(fs::File::open("/dev/null").unwrap().into(), "not a socket");
    refused(UnixDatagram::bind(dir.join("datagrams")).unwrap().into(), "not a valid unix stream socket");
    refused(UnixStream::pair().unwrap().0.into(), "no listening Unix stream socket");
    let listener = UnixListener::bind(dir.join("two")).unwrap();
    let two = given(&home, listener, "LISTEN_PID=$$ LISTEN_FDS=2").ends_beside_others();
    assert!(two.status.code() == Some(2) && two.stderr.contains("one socket can be served, not 2"), "{two}");
}

#[test]
fn a_socket_that_was_meant_for_another_process_is_not_taken() {
    let home = Home::new();
    let listener = UnixListener::bind(home.path("theirs.sock")).unwrap();
    let service = given(&home, listener, "LISTEN_PID=1 LISTEN_FDS=1").starts(Stdio::piped());
    service.hears(" ready in ");
    answers(&home.path("runtime/task/rpc.sock"));
    kill_process(service.pid(), Signal::TERM).unwrap();
    assert_eq!(service.ends().status.code(), Some(0));
}

#[test]
fn systemds_own_tool_starts_the_service_at_the_first_connection() {
    let tool = "/usr/bin/systemd-socket-activate";
    if !Path::new(tool).exists() {
        return eprintln!("skipped: {tool} is not installed");
    }
    let home = Home::new();
    let path = base(&home).join("rpc.sock");
    let passed = ["XDG_RUNTIME_DIR", "XDG_STATE_HOME"].map(|name| format!("--setenv={name}"));
    let words = [passed[0].as_str(), &passed[1], "-l", path.to_str().unwrap(), TASK, "serve"];
    let service = home.run(tool, words).starts(Stdio::piped());
    service.hears("Listening on");
    answers(&path);
    service.hears(" ready in ");
    answers(&path);
    kill_process(service.pid(), Signal::TERM).unwrap();
    assert_eq!(service.ends_beside_others().status.code(), Some(0));
    assert!(path.exists());
}

/// What the service manager hears, one datagram after another.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket, heard: Vec::new() }
    }

    /// Waits for an assignment, and returns its datagram; whatever else is said before it is kept.
    fn hears(&mut self, assignment: &str) -> String {
        loop {
            let mut buffer = [0; 4096];
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("{error} while waiting for {assignment}: {:?}", self.heard);
            });
            let said = String::from_utf8(buffer[..length].to_vec()).unwrap();
            self.heard.push(said.clone());
            if said.lines().any(|line| line == assignment) {
                return said;
            }
        }
    }

    fn has_heard(&self, assignment: &str) -> bool {
        self.heard.iter().any(|said| said.lines().any(|line| line == assignment))
    }
}

#[test]
fn the_service_manager_is_told_when_it_serves_reloads_and_stops() {
    let home = Home::new();
    let path = home.path("notify");
    let mut manager = Manager::at(&path);
    let service = home.task(["serve"]).with(|c| c.env("NOTIFY_SOCKET", &path)).starts(Stdio::piped());
    let ready = manager.hears("READY=1");
    assert!(ready.contains("\nSTATUS=serving: worker pid ") && ready.contains("generation 1"), "{ready}");
    assert!(!manager.has_heard("RELOADING=1") && !manager.has_heard("STOPPING=1"));
    answers(&home.path("runtime/task/rpc.sock"));
    kill_process(service.pid(), Signal::HUP).unwrap();
    let reloading = manager.hears("RELOADING=1");
    let us = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(us.parse::<u64>().unwrap() > 0, "{reloading}");
    manager.heard.clear();
    let ready = manager.hears("READY=1");
    assert!(ready.contains("generation 2"), "{ready}");
    kill_process(service.pid(), Signal::TERM).unwrap();
    manager.hears("STOPPING=1");
    assert_eq!(service.ends().status.code(), Some(0));
}

#[test]
fn the_service_manager_is_not_told_that_it_serves_before_it_does() {
    let home = Home::new();
    let path = home.path("notify");
    let mut manager = Manager::at(&path);
    let mute = Path::new(TASK).with_file_name("examples/mute");
    let service = home
        .task(["serve", "--rpc-bin", mute.to_str().unwrap()])
        .with(|c| c.env("NOTIFY_SOCKET", &path))
        .starts(Stdio::piped());
    manager.hears("STATUS=starting a worker");
    service.hears("spawned mute");
    for _ in 0..2 {
        kill_process(service.pid(), Signal::TERM).unwrap();
    }
    manager.hears("STOPPING=1");
    assert_eq!(service.ends().status.code(), Some(0));
    assert!(!manager.has_heard("READY=1"), "{:?}", manager.heard);
}

#[test]
fn a_service_manager_that_is_not_there_or_does_not_read_holds_nothing_up() {
    let home = Home::new();
    let path = home.path("notify");
    let serves = || {
        let service = home.task(["serve"]).with(|c| c.env("NOTIFY_SOCKET", &path)).starts(Stdio::piped());
        service.hears(" ready in ");
        for _ in 0..10 {
            home.task(["restart"]).ends_beside_others();
        }
        answers(&home.path("runtime/task/rpc.sock"));
        kill_process(service.pid(), Signal::TERM).unwrap();
        service.ends()
    };
    let ended = serves();
    assert!(
        ended.status.code() == Some(0) && ended.stderr.contains("cannot reach the service manager"),
        "{ended}"
    );
    let _unread = UnixDatagram::bind(&path).unwrap();
    let ended = serves();
    assert_eq!(ended.status.code(), Some(0), "{ended}");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let tool = "/usr/bin/systemd-analyze";
    if !Path::new(tool).exists() {
        return eprintln!("skipped: {tool} is not installed");
    }
    let home = Home::new();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    let service =
        fs::read_to_string(units.join("task.service")).unwrap().replace("/usr/local/bin/task", TASK);
    let service = home.file("task.service", service);
    let socket = home.file("task.socket", fs::read(units.join("task.socket")).unwrap());
    let words = ["verify", "--user", "--man=no", service.to_str().unwrap(), socket.to_str().unwrap()];
    let ended = home.run(tool, words).ends();
    assert!(!ended.stderr.contains("task.s"), "{ended}");
    // It reads them at all.
    fs::write(&service, "[Service]\nType=nonsense\n").unwrap();
    let ended = home.run(tool, words).ends();
    assert!(ended.stderr.contains("task.service"), "{ended}");
}
