//! `task-rpc` under a service manager: it is handed a socket, and tells how it stands.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;
use support::{PATIENCE, Process, client, context, task_rpc};

/// The worker with this as descriptor 3, and these variables and arguments.
fn given(what: impl Into<OwnedFd>, script: &str) -> Command {
    let script = format!(r"exec 3<&0 0</dev/null; {script}");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_task-rpc")]).env_remove("TASK_LOG");
    shell.stdin(Stdio::from(what.into())).stdout(Stdio::null()).stderr(Stdio::piped());
    shell
}

const ACTIVATED: &str = r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0""#;

/// The next thing that a service manager hears.
fn hears(manager: &UnixDatagram) -> String {
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 4096];
    let length = manager.recv(&mut buffer).expect("news");
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

#[tokio::test]
async fn a_socket_that_is_handed_over_is_served_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let (path, name) = (directory.path().join("s"), directory.path().join("notify"));
    let manager = UnixDatagram::bind(&name).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    for _ in 0..2 {
        let mut command = given(listener.try_clone().unwrap(), ACTIVATED);
        let mut process = Process::spawn(command.env("NOTIFY_SOCKET", &name));
        assert!(hears(&manager).starts_with("READY=1\n"));
        let line = process.wait_for("serving Stats");
        assert!(line.contains(path.to_str().unwrap()), "{line}");
        let (client, _) = client(&path).await;
        assert_eq!(client.ping(context()).await.unwrap().pid, process.pid());
        process.signal(Signal::TERM);
        assert!(hears(&manager).starts_with("STOPPING=1\n"));
        process.end_well();
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "the socket is the service manager's");
        // Whoever comes meanwhile waits for the next worker.
        UnixStream::connect(&path).unwrap();
    }
}

#[test]
fn what_is_no_socket_to_serve_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |what: OwnedFd, script: &str, status: i32, why: &str| {
        let (ended, said) = Process::spawn(&mut given(what, script)).end();
        assert!(ended.code() == Some(status) && said.contains(why), "{ended}: {said}");
    };
    let listener = || UnixListener::bind(directory.path().join("s")).unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    refused(null.into(), ACTIVATED, 1, "task-rpc: LISTEN_FDS: fd 3 is not a socket");
    let one_end = UnixStream::pair().unwrap().0;
    refused(one_end.into(), ACTIVATED, 1, "LISTEN_FDS: no listening Unix stream socket");
    let two = r#"LISTEN_PID=$$ LISTEN_FDS=2 exec "$0""#;
    refused(listener().into(), two, 1, "LISTEN_FDS: one socket can be served, not 2");
    fs::remove_file(directory.path().join("s")).unwrap();
    let own = format!(r#"{ACTIVATED} --socket "{}/own""#, directory.path().display());
    refused(listener().into(), &own, 2, "leave --socket out");
    fs::remove_file(directory.path().join("s")).unwrap();
    let meant_for_another = r#"LISTEN_PID=1 LISTEN_FDS=1 exec "$0""#;
    refused(listener().into(), meant_for_another, 2, "give --socket PATH");
}

#[test]
fn a_service_manager_hears_of_a_socket_of_its_own_when_it_can_be_reached() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    // As systemd names it where there is no file for it.
    let name = format!("task-rpc-test-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let mut command = task_rpc();
    command.arg("--socket").arg(&path).env("NOTIFY_SOCKET", format!("@{name}"));
    let mut process = Process::spawn(&mut command);
    assert!(hears(&manager).starts_with("READY=1\n"));
    UnixStream::connect(&path).unwrap();
    process.signal(Signal::TERM);
    assert!(hears(&manager).starts_with("STOPPING=1\n"));
    process.end_well();
}

#[test]
fn a_service_manager_that_is_not_there_or_does_not_read_holds_nothing_up() {
    let directory = tempfile::tempdir().unwrap();
    let (path, name) = (directory.path().join("s"), directory.path().join("notify"));
    let serves = || {
        let mut process = Process::spawn(task_rpc().arg("--socket").arg(&path).env("NOTIFY_SOCKET", &name));
        process.wait_for("serving Stats");
        process.signal(Signal::TERM);
        process.end_well()
    };
    assert!(serves().contains("cannot tell the service manager at"));
    let manager = UnixDatagram::bind(&name).unwrap();
    let flood = UnixDatagram::unbound().unwrap();
    flood.set_nonblocking(true).unwrap();
    let full = loop {
        if let Err(error) = flood.send_to(b"STATUS=full\n", &name) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    let began = Instant::now();
    serves();
    assert!(began.elapsed() < PATIENCE / 2);
    drop(manager);
}
