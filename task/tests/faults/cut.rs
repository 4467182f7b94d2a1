//! A connection that is cut although its worker lives on. Input that was begun cannot be read again, and there is no
//! dead worker whose scoreboard could tell: the run must fail, and never answer from the rest.

use std::fs;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use rustix::net::SocketType;
use rustix::net::sockopt::{socket_acceptconn, socket_type};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::house::{House, Run, until};

/// Shuts down every connection of this worker, from outside.
fn cut(worker: u32) {
    let pidfd = pidfd_open(Pid::from_raw(worker.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
    let descriptors = fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
    let connections: Vec<_> = descriptors
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter_map(|descriptor| pidfd_getfd(&pidfd, descriptor, PidfdGetfdFlags::empty()).ok())
        .filter(|copy| socket_type(copy) == Ok(SocketType::STREAM) && socket_acceptconn(copy) == Ok(false))
        .map(UnixStream::from)
        // The others are pairs of its own.
        .filter(|connection| !connection.local_addr().unwrap().is_unnamed())
        .collect();
    assert_eq!(connections.len(), 1, "a run has one connection");
    connections[0].shutdown(Shutdown::Both).unwrap();
}

#[test]
fn a_pipe_that_was_begun_is_lost_with_its_connection() {
    let house = House::new();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let run = Run::start(house.task(&["--json", "--only", "mean"]).stdin(reader));
    let (task, worker) = (run.pid(), run.worker(None));
    writer.write_all(b"1000\n1000\n").unwrap();
    until("the worker has read it", || (rustix::io::ioctl_fionread(&writer) == Ok(0)).then_some(()));
    cut(worker);
    // Nobody may read it any more.
    let _ = writer.write_all(b"1\n2\n3\n");
    drop(writer);
    let ended = run.end();
    let error = ended.expect(1, "").error();
    assert_eq!(error["kind"], "input_consumed", "{ended}");
    assert!(!ended.stderr.contains("SIGKILL"), "the worker was not killed: {ended}");
    assert!(house.left().is_empty() && house.processes(task).is_empty(), "{ended}");
}
