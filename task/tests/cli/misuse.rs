//! A service that is treated badly: thousands of clients at once that only sit there, and a disk that fills up under
//! its log. Whoever asks is answered all the same.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::Instant;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use task_proto::limits::LOG_RETRY;

use crate::invocation::{Ended, Home, PATIENCE, Running};
use crate::serve::{serves, status};

/// Clients that sit there, on so many threads: more than wait in a backlog, so that the others wait before it.
const CLIENTS: usize = 5_000;
const THREADS: usize = 250;
/// What a worker takes: each connection has its socket, and the epoll that sees it hang up.
const SEATS: usize = 64;
/// The size of the disk that is full, in bytes.
const DISK: usize = 64 * 1024;
/// Restarts that make more to be logged than a page of memory has room for: each is told in half a dozen lines.
const RESTARTS: usize = 8;

fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap().count()
}

/// A connection, waited for if need be.
fn connected(path: &Path) -> rustix::io::Result<OwnedFd> {
    let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Where the backlog is full connect(2) waits for so long, and gives EAGAIN.
    set_socket_timeout(&client, Timeout::Send, Some(PATIENCE))?;
    connect(&client, &SocketAddrUnix::new(path)?)?;
    Ok(client)
}

/// Lets this process have so many descriptors; whether it may.
fn may_hold(descriptors: u64) -> bool {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    current.is_none_or(|current| current >= descriptors)
        || setrlimit(Resource::Nofile, Rlimit { current: Some(descriptors), maximum }).is_ok()
}

fn asks(home: &Home) -> Ended {
    home.task(["call", "mean", "1", "2", "3"]).ends_beside_others()
}

fn stopped(service: Running) -> Ended {
    kill_process(service.pid(), Signal::TERM).unwrap();
    let ended = service.ends_beside_others();
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(0), ""), "{ended}");
    ended
}

#[test]
fn among_five_thousand_clients_that_sit_there_a_call_is_answered_and_nothing_of_them_stays() {
    if !may_hold(CLIENTS as u64 + 1_000) {
        return eprintln!("skipped: this process may not have {CLIENTS} connections");
    }
    let home = Home::new();
    let service = serves(&home, &[]);
    asks(&home).answers("2\n");
    let worker = status(&home)["child"]["pid"].as_i64().unwrap();
    let worker = Pid::from_raw(i32::try_from(worker).unwrap()).unwrap();
    let held = || [descriptors(service.pid()), descriptors(worker)];
    let before = held();

    let (together, coming) = (Barrier::new(THREADS + 1), AtomicBool::new(true));
    let (together, path) = (&together, &home.path("runtime/task/rpc.sock"));
    let clients = thread::scope(|scope| {
        let (held, holds) = mpsc::channel();
        for _ in 0..THREADS {
            let held = held.clone();
            let come = move || {
                together.wait();
                for _ in 0..CLIENTS / THREADS {
                    held.send(connected(path)).unwrap();
                }
            };
            thread::Builder::new().stack_size(64 * 1024).spawn_scoped(scope, come).unwrap();
        }
        drop(held);
        let asking = scope.spawn(|| {
            together.wait();
            while coming.load(Ordering::Relaxed) {
                asks(&home).answers("2\n");
            }
        });
        let clients = holds.iter().collect::<Result<Vec<_>, _>>();
        coming.store(false, Ordering::Relaxed);
        asking.join().unwrap();
        clients
    });
    let clients = clients.expect("each of them has a connection");
    assert_eq!(clients.len(), CLIENTS);
    // They are all there still, of whom some have had to make room.
    asks(&home).answers("2\n");
    let open = status(&home)["connections"]["open"].as_u64().unwrap();
    assert!(open <= SEATS as u64, "{open} are open");
    let during = descriptors(worker);
    assert!(during <= before[1] + 2 * SEATS, "{} descriptors before, {during} with them", before[1]);

    drop(clients);
    let until = Instant::now() + PATIENCE;
    // The first look may have seen the connection of the status asked for before it.
    while held().iter().zip(&before).any(|(held, before)| held > before) {
        assert!(Instant::now() < until, "{before:?} descriptors before, {:?} after them", held());
        thread::yield_now();
    }
    asks(&home).answers("2\n");
    assert_eq!(status(&home)["restarts"], 0);
    stopped(service);
}

/// A service whose log is on a small disk of its own; `None`: it cannot be mounted here.
fn serves_on_a_small_disk(home: &Home) -> Option<(Running, PathBuf)> {
    let state = home.path("state");
    let mount = format!("mount -t tmpfs -o size={DISK} tmpfs '{}'", state.display());
    let may = home.run("unshare", ["-m", "sh", "-c", &mount]).ends();
    if !may.status.success() {
        eprintln!("skipped: it takes the right to mount: {may}");
        return None;
    }
    // Each of them becomes the next, so the pid stays.
    let serve = format!("{mount} && exec {} serve", crate::invocation::TASK);
    let service = home.run("unshare", ["-m", "sh", "-c", &serve]).starts(Stdio::piped());
    service.hears(" ready in ");
    let root = PathBuf::from(format!("/proc/{}/root", service.pid().as_raw_nonzero()));
    let disk = root.join(state.strip_prefix("/").unwrap());
    Some((service, disk))
}

#[test]
fn a_disk_that_fills_up_under_the_log_is_one_warning_and_the_log_goes_on_where_it_can() {
    let home = Home::new();
    let Some((service, disk)) = serves_on_a_small_disk(&home) else { return };
    let log = disk.join("task/log/serve.jsonl");
    let written = || fs::read_to_string(&log).unwrap_or_default();
    let restarts = || {
        asks(&home).answers("2\n");
        let restart = home.task(["restart"]).ends_beside_others();
        assert!(restart.status.success() && restart.stderr.is_empty(), "{restart}");
    };
    let until = Instant::now() + PATIENCE;
    while !written().contains("ready in") {
        assert!(Instant::now() < until, "it is not in the log");
        thread::yield_now();
    }
    let mut filler = fs::File::create(disk.join("filler")).unwrap();
    let full = (0..=DISK / 1024).find_map(|_| filler.write_all(&[1; 1024]).err()).unwrap();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // What its last page has room for is still written.
    (0..RESTARTS).for_each(|_| restarts());
    service.hears("the log cannot be written, and work goes on without: ");
    (0..RESTARTS).for_each(|_| restarts());
    // For as long as several tries to write take; calls are not told of, so that there is room for all that waits.
    let full_until = Instant::now() + 3 * LOG_RETRY;
    while Instant::now() < full_until {
        asks(&home).answers("2\n");
    }
    // It takes its room as long as it is open.
    drop(filler);
    fs::remove_file(disk.join("filler")).unwrap();
    service.hears("the log is written again; 0 records in between were lost");
    let until = Instant::now() + PATIENCE;
    while !written().contains("the log is written again") {
        assert!(Instant::now() < until, "{}", written());
        thread::yield_now();
    }
    let is_whole = |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok();
    assert!(written().lines().all(is_whole), "{}", written());
    let ended = stopped(service);
    let warnings = ended.stderr.lines().filter(|line| line.contains(" WARN ") && line.contains("log"));
    assert_eq!(warnings.count(), 1, "{ended}");
}
