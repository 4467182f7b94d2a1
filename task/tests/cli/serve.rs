//! A service that is started, asked how it stands, told what to do, and stopped.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

use crate::invocation::{Ended, Home, PATIENCE, Running, TASK, leaves_nothing};
use crate::terminal::Terminal;

/// What a worker says to whoever does not speak its language: proof that one answers.
const SPOKEN: &str = "task-rpc: this socket speaks tarpc";
const NONE: &str = "no service is running at";

pub fn serves(home: &Home, words: &[&str]) -> Running {
    let service = home.task([&["serve"], words].concat()).starts(Stdio::piped());
    service.hears(" ready in ");
    service
}

fn example(name: &str) -> String {
    Path::new(TASK).with_file_name("examples").join(name).to_str().unwrap().to_owned()
}

fn signal(service: &Running, signal: Signal) {
    kill_process(service.pid(), signal).unwrap();
}

pub fn stopped(service: Running) -> Ended {
    signal(&service, Signal::TERM);
    let ended = service.ends();
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(0), ""), "{ended}");
    ended
}

fn answers(home: &Home) {
    let mut client = UnixStream::connect(home.path("runtime/task/rpc.sock")).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"hello?\n").unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert!(said.starts_with(SPOKEN), "{said:?}");
}

pub fn status(home: &Home) -> Value {
    home.task(["status", "--json"]).ends_beside_others().json()
}

fn pid_of(value: &Value) -> Pid {
    Pid::from_raw(i32::try_from(value.as_i64().unwrap()).unwrap()).unwrap()
}

fn is_gone(pid: Pid) -> bool {
    let until = Instant::now() + PATIENCE;
    while rustix::process::test_kill_process(pid).is_ok() {
        if Instant::now() > until {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn a_service_answers_until_it_is_told_to_end_and_leaves_nothing() {
    let home = Home::new();
    for by in [Signal::TERM, Signal::INT] {
        let service = serves(&home, &[]);
        answers(&home);
        let socket = home.path("runtime/task/rpc.sock");
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        signal(&service, by);
        let ended = service.ends();
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(0), ""), "{ended}");
        for said in ["spawned task-rpc", "serving Stats", "stopping", "drained", "socket removed"] {
            assert!(ended.stderr.contains(said), "{said}: {ended}");
        }
    }
}

#[test]
fn a_quiet_service_says_nothing() {
    let home = Home::new();
    let service = home.task(["serve", "-q"]).starts(Stdio::piped());
    let log = home.path("state/task/log/serve.jsonl");
    let until = Instant::now() + PATIENCE;
    while !fs::read_to_string(&log).is_ok_and(|log| log.contains("ready in")) {
        assert!(Instant::now() < until, "it is not in the log");
        std::thread::yield_now();
    }
    assert_eq!(stopped(service).stderr, "");
}

#[test]
fn a_second_service_names_the_one_that_runs_and_harms_nothing() {
    let home = Home::new();
    let first = serves(&home, &[]);
    let second = |who: &str| {
        let ended = home.task(["serve"]).ends_beside_others();
        let place = home.path("runtime/task");
        ended.fails(
            1,
            &format!(
                "task: {who} already serves in {}: see task status, or choose another place with --runtime-dir",
                place.display()
            ),
        );
    };
    let pid = first.pid().as_raw_nonzero();
    second(&format!("process {pid}"));
    answers(&home);
    // Whatever has become of the text in the lock, it is the lock that counts.
    let lock = home.path("runtime/task/lock");
    for text in ["", "-1", "4194304"] {
        fs::write(&lock, text).unwrap();
        second("another process (its pid is not in the lock)");
    }
    answers(&home);
    stopped(first);
}

#[test]
fn after_a_service_was_killed_the_next_one_starts_and_its_worker_is_gone() {
    let home = Home::new();
    for _ in 0..5 {
        let first = serves(&home, &[]);
        let child = pid_of(&status(&home)["child"]["pid"]);
        signal(&first, Signal::KILL);
        first.ends_beside_others().died_of(Signal::KILL);
        assert!(
            home.path("runtime/task/rpc.sock").exists() && home.path("runtime/task/control.sock").exists()
        );
        let next = serves(&home, &[]);
        answers(&home);
        assert!(is_gone(child));
        stopped(next);
    }
}

#[test]
fn what_is_no_socket_is_not_replaced_by_one() {
    let home = Home::new();
    let base = home.path("runtime/task");
    fs::create_dir(&base).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o700)).unwrap();
    for name in ["rpc.sock", "control.sock"] {
        let path = base.join(name);
        let make: [&dyn Fn(); 3] =
            [&|| fs::write(&path, "precious").unwrap(), &|| fs::create_dir(&path).unwrap(), &|| {
                symlink("/nowhere", &path).unwrap();
            }];
        for make in make {
            make();
            let inode = fs::symlink_metadata(&path).unwrap().ino();
            let ended = home.task(["serve"]).ends_beside_others();
            let why = "is there and is no socket: remove it, or choose another place with --runtime-dir";
            ended.fails(1, &format!("task: {} {why}", path.display()));
            assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), inode);
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
            assert_eq!(fs::read_dir(&base).unwrap().count(), 0, "nothing else is left");
        }
    }
    let lock = base.join("lock");
    fs::create_dir(&lock).unwrap();
    let ended = home.task(["serve"]).ends_beside_others();
    assert!(ended.status.code() == Some(1) && ended.stderr.contains("lock is no regular file"), "{ended}");
}

#[test]
fn a_socket_that_somebody_else_serves_is_left_to_them_and_not_even_touched() {
    let home = Home::new();
    let base = home.path("runtime/task");
    fs::create_dir(&base).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o700)).unwrap();
    let theirs = UnixListener::bind(base.join("rpc.sock")).unwrap();
    let ended = home.task(["serve"]).ends_beside_others();
    assert!(ended.status.code() == Some(1), "{ended}");
    assert!(ended.stderr.contains("rpc.sock is in use by a process that does not hold the lock"), "{ended}");
    theirs.set_nonblocking(true).unwrap();
    assert_eq!(theirs.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody connected");
    UnixStream::connect(base.join("rpc.sock")).unwrap();
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    if !geteuid().is_root() {
        return;
    }
    let home = Home::new();
    // The way to it must be open to the other user.
    fs::set_permissions(home.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let base = home.path("theirs");
    fs::create_dir(&base).unwrap();
    std::os::unix::fs::chown(&base, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o500)).unwrap();
    let program = home.path("task");
    // Not written by this process: whatever another test starts meanwhile would hold it open, and it could not be run.
    assert!(std::process::Command::new("cp").arg(TASK).arg(&program).status().unwrap().success());
    let serve = home.run(program.to_str().unwrap(), ["serve", "--runtime-dir", base.to_str().unwrap()]);
    let ended = serve.with(|c| c.uid(65534).gid(65534).current_dir("/")).ends();
    ended.fails(1, &format!("task: cannot lock {}/lock: Permission denied (os error 13)", base.display()));
}

#[test]
fn a_log_that_cannot_be_written_is_one_warning_and_the_service_goes_on() {
    let home = Home::new();
    let file = home.file("file", "");
    let service = home.task(["serve"]).with(|c| c.env("XDG_STATE_HOME", &file)).starts(Stdio::piped());
    service.hears(" ready in ");
    for _ in 0..3 {
        answers(&home);
        home.task(["restart"]).ends_beside_others().answers_anything();
    }
    let ended = stopped(service);
    assert_eq!(
        ended.stderr.lines().filter(|line| line.contains(" WARN ") && line.contains("log")).count(),
        1,
        "{ended}"
    );
}

#[test]
fn with_nothing_running_status_restart_and_stop_say_so() {
    let home = Home::new();
    let none = || {
        let place = home.path("runtime/task");
        let said = format!("{NONE} {}: start one with task serve", place.display());
        for command in ["status", "restart", "stop"] {
            home.task([command]).ends_beside_others().fails(3, &format!("task: {said}"));
            let json = home.task([command, "--json"]).ends_beside_others();
            assert_eq!(json.status.code(), Some(3));
            assert_eq!(
                json.json_error(),
                serde_json::json!({"kind": "no_service", "message": said, "outcome": "never_sent"})
            );
        }
    };
    none();
    assert!(!home.path("runtime/task").exists(), "asking makes nothing");
    let killed = serves(&home, &[]);
    signal(&killed, Signal::KILL);
    killed.ends_beside_others().died_of(Signal::KILL);
    none();
    stopped(serves(&home, &[]));
    none();
}

#[test]
fn a_service_that_is_stopped_or_behind_something_else_than_a_socket_is_not_waited_for() {
    let home = Home::new();
    let service = serves(&home, &[]);
    signal(&service, Signal::STOP);
    let ended = ["status", "stop"].map(|command| home.task([command, "--json"]).ends_beside_others());
    signal(&service, Signal::CONT);
    for ended in ended {
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{ended}");
        assert_eq!(ended.json_error()["kind"], "no_answer", "{ended}");
    }
    stopped(service);

    fs::write(home.path("runtime/task/control.sock"), "").unwrap();
    let ended = home.task(["status", "--json"]).ends_beside_others();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(ended.json_error()["kind"], "no_socket", "{ended}");
}

#[test]
fn status_tells_people_and_programs_how_the_service_stands() {
    let home = Home::new();
    let service = serves(&home, &[]);
    let report = status(&home);
    assert_eq!(report["state"], "serving");
    assert_eq!(report["pid"], service.pid().as_raw_nonzero().get());
    assert_eq!(report["socket"], home.path("runtime/task/rpc.sock").to_str().unwrap());
    assert_eq!(report["restarts"], 0);
    assert!(["full", "partial", "none"].contains(&report["sandbox"].as_str().unwrap()), "{report}");
    assert_eq!(report["child"]["generation"], 1);
    assert!(report["child"]["uptime_s"].as_f64().unwrap() >= 0.0, "{report}");
    assert!(report["memory_bytes"].as_u64().unwrap() > 1 << 20, "{report}");
    assert_eq!(report["connections"], serde_json::json!({"open": 0, "total": 0, "limit": 64}));
    let calls = &report["calls"];
    assert_eq!((&calls["total"], &calls["failed"], &calls["p50_us"]), (&0.into(), &0.into(), &Value::Null));
    assert!(calls.get("p99_us").is_some() && report["last_restart"].is_null(), "{report}");
    let child = pid_of(&report["child"]["pid"]);
    kill_process(child, Signal::KILL).unwrap();
    let until = Instant::now() + PATIENCE;
    while status(&home)["last_restart"].is_null() {
        assert!(Instant::now() < until, "its worker was killed, and no other took its place");
    }
    let text = home.task(["status"]).ends_beside_others();
    assert!(text.status.success() && text.stderr.is_empty(), "{text}");
    for line in ["state ", "socket ", "worker ", "sandbox ", "calls ", "latency ", "connections ", "memory "]
    {
        assert!(text.stdout.lines().any(|said| said.starts_with(line)), "{line}: {text}");
    }
    assert!(
        text.stdout.contains("restarts     1, the last at ") && text.stdout.contains(": killed by SIGKILL\n"),
        "{text}"
    );
    assert_eq!(status(&home)["last_restart"]["reason"], "killed by SIGKILL");
    stopped(service);
}

#[test]
fn restart_and_hang_up_bring_a_new_worker_and_the_old_one_goes() {
    let home = Home::new();
    let service = serves(&home, &[]);
    let first = pid_of(&status(&home)["child"]["pid"]);
    home.task(["restart"]).ends_beside_others().answers("generation 2 serves\n");
    let report = status(&home);
    assert_eq!((&report["child"]["generation"], &report["restarts"]), (&2.into(), &1.into()));
    assert_eq!(report["last_restart"]["reason"], "hand-over");
    assert!(is_gone(first));
    signal(&service, Signal::HUP);
    service.hears("generation=3");
    home.task(["restart", "--json"]).ends_beside_others().answers("{\"generation\":4}\n");
    answers(&home);
    stopped(service);
}

/// A worker that waits, where there is a gate, until somebody opens it.
fn gated(home: &Home) -> (String, PathBuf) {
    let (program, gate) = (home.path("gated-rpc"), home.path("gate"));
    let rpc = Path::new(TASK).with_file_name("task-rpc");
    let script = format!(
        "#!/bin/sh\n[ ! -e {gate} ] || cat {gate}\nexec {rpc} \"$@\"\n",
        gate = gate.display(),
        rpc = rpc.display()
    );
    // Not written by this process, see above.
    let write = home.run("sh", ["-c", "cat >\"$0\" && chmod +x \"$0\"", program.to_str().unwrap()]);
    write.stdin(script).ends().answers("");
    (program.to_str().unwrap().to_owned(), gate)
}

#[test]
fn a_hang_up_that_comes_when_a_new_worker_has_started_brings_another_one_and_many_bring_no_more() {
    let home = Home::new();
    let (program, gate) = gated(&home);
    let service = serves(&home, &["--rpc-bin", &program]);
    let hang_up = |times| {
        signal(&service, Signal::HUP);
        service.hears_times("SIGHUP: handing over", times);
    };
    // The first worker answers this call for as long as the test likes, and so the third cannot start.
    let mut call = home.task(["call", "mean"]).with(|c| c.stdin(Stdio::piped())).starts(Stdio::piped());
    let until = Instant::now() + PATIENCE;
    while status(&home)["calls"]["in_flight"] == 0 {
        assert!(Instant::now() < until, "the call is not in flight");
    }
    hang_up(1);
    service.hears_times(" ready in ", 2);
    hang_up(2);
    hang_up(3);
    home.run("mkfifo", [&gate]).ends_beside_others().answers("");
    call.stdin().take().unwrap().write_all(b"1 2 3").unwrap();
    call.ends_beside_others().answers("2\n");
    service.hears("generation=3");
    for times in 4..8 {
        hang_up(times);
    }
    let opened = fs::OpenOptions::new().write(true).open(&gate).unwrap();
    fs::remove_file(&gate).unwrap();
    drop(opened);
    service.hears_times(" ready in ", 4);
    home.task(["restart"]).ends_beside_others().answers("generation 5 serves\n");
    stopped(service);
}

#[test]
fn a_worker_that_is_stopped_while_it_starts_is_no_failure() {
    let home = Home::new();
    let (program, gate) = gated(&home);
    home.run("mkfifo", [&gate]).ends().answers("");
    let service = home.task(["serve", "--rpc-bin", &program]).starts(Stdio::piped());
    service.hears("spawned");
    signal(&service, Signal::TERM);
    let ended = service.ends();
    assert_eq!(ended.status.code(), Some(0), "{ended}");
    assert!(ended.stderr.contains("killed by SIGTERM") && !ended.stderr.contains("WARN"), "{ended}");
}

#[test]
fn a_new_worker_that_does_not_start_leaves_the_old_one_serving() {
    let home = Home::new();
    let program = home.path("task-rpc");
    symlink(Path::new(TASK).with_file_name("task-rpc"), &program).unwrap();
    let service = serves(&home, &["--rpc-bin", program.to_str().unwrap()]);
    fs::remove_file(&program).unwrap();
    symlink(example("dies_at_once"), &program).unwrap();
    let ended = home.task(["restart"]).ends_beside_others();
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{ended}");
    let last_words = "\n  | no such table: ";
    for said in ["not restarted", "exited 3 before it was ready", "the old worker goes on", last_words] {
        assert!(ended.stderr.contains(said), "{said}: {ended}");
    }
    assert_eq!(ended.stderr.matches("the old worker goes on").count(), 1, "{ended}");
    signal(&service, Signal::HUP);
    service.hears("the old worker goes on generation=3");
    answers(&home);
    let report = status(&home);
    assert_eq!((&report["state"], &report["child"]["generation"]), (&"serving".into(), &1.into()));
    stopped(service);
}

#[test]
fn stop_returns_when_the_service_is_gone_and_the_next_can_start() {
    let home = Home::new();
    for _ in 0..5 {
        let service = serves(&home, &[]);
        home.task(["stop"]).ends_beside_others().answers("");
        leaves_nothing(service.pid(), &home.path("runtime/task"));
        assert!(!is_running(service.pid()), "its process is still there");
        let ended = service.ends();
        assert_eq!(ended.status.code(), Some(0), "{ended}");
    }
}

/// A zombie, which only its parent here can reap, runs no more.
fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    !stat.rsplit(") ").next().unwrap().starts_with('Z')
}

#[test]
fn a_second_signal_ends_a_service_whose_worker_does_not() {
    let home = Home::new();
    let deaf = example("ignores_sigterm");
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let service = serves(&home, &["--rpc-bin", &deaf]);
        signal(&service, first);
        service.hears("stopping");
        assert_eq!(status(&home)["state"], "stopping");
        signal(&service, second);
        let ended = service.ends();
        assert_eq!(ended.status.code(), Some(0), "{ended}");
        assert!(ended.stderr.contains("killed by SIGKILL"), "{ended}");
        assert!(ended.stderr.contains("ending at once"), "not by the limit of the drain: {ended}");
    }
}

#[test]
fn quit_ends_a_service_at_once_and_shows_in_its_status() {
    let home = Home::new();
    let service = home
        .run(
            "sh",
            ["-c", &format!("ulimit -c 0; exec {TASK} serve --rpc-bin {}", example("ignores_sigterm"))],
        )
        .starts(Stdio::piped());
    service.hears(" ready in ");
    signal(&service, Signal::QUIT);
    service.ends().died_of(Signal::QUIT);
}

#[test]
fn under_nohup_a_hang_up_changes_nothing() {
    let home = Home::new();
    let service = home.run("sh", ["-c", &format!("trap '' HUP; exec {TASK} serve")]).starts(Stdio::piped());
    service.hears(" ready in ");
    signal(&service, Signal::HUP);
    // Were it heard, it would be so before this.
    home.task(["restart"]).ends_beside_others().answers("generation 2 serves\n");
    assert!(!stopped(service).stderr.contains("SIGHUP"));
}

#[test]
fn a_service_ends_with_the_terminal_that_it_was_started_on() {
    let home = Home::new();
    let mut terminal = Terminal::start(&home, &["serve"]);
    terminal.shows(" ready in ");
    let pid = pid_of(&status(&home)["pid"]);
    // A hang-up from elsewhere is a reload: its terminal is there.
    kill_process(pid, Signal::HUP).unwrap();
    terminal.shows("generation=2");
    terminal.shows(" ready in ");
    let status = terminal.hangs_up();
    assert_eq!(status.code(), Some(0), "{status}");
    let log = fs::read_to_string(home.path("state/task/log/serve.jsonl")).unwrap();
    assert!(log.contains("the terminal has gone"), "{log}");
}

#[test]
fn a_worker_that_never_starts_is_given_up_with_its_last_words() {
    let home = Home::new();
    for (flag, starts) in [("3", 3), ("1", 1)] {
        let words = ["serve", "--max-failed-starts", flag, "--rpc-bin", &example("dies_at_once")];
        let ended = home.task(words).ends();
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{ended}");
        assert_eq!(ended.stderr.matches("INFO task      spawned").count(), starts, "{ended}");
        let last = ended.stderr.split("task: ").last().unwrap();
        assert!(last.contains("dies_at_once") && last.contains("exited 3"), "{ended}");
        assert!(last.contains("no such table"), "its last words: {ended}");
        let log = fs::read_to_string(home.path("state/task/log/serve.jsonl")).unwrap();
        let why = log.lines().last().unwrap();
        assert!(why.contains("\"level\":\"ERROR\"") && why.contains("cannot start"), "{why}");
        assert!(!ended.stderr.contains("ERROR task      failed"), "said once on the screen: {ended}");
    }
    let missing = home.task(["serve", "--rpc-bin", "/nowhere/task-rpc"]).ends();
    assert_eq!(missing.status.code(), Some(1), "{missing}");
    assert!(
        missing.stderr.contains("cannot start /nowhere/task-rpc") && !missing.stderr.contains("next start"),
        "{missing}"
    );
    for wrong in ["0", "-1", "some", ""] {
        let usage = home.task(["serve", &format!("--max-failed-starts={wrong}")]).ends();
        assert_eq!(usage.status.code(), Some(2), "{usage}");
    }
}

#[test]
fn at_a_stop_only_the_services_own_socket_files_are_removed() {
    let home = Home::new();
    let service = serves(&home, &[]);
    let base = home.path("runtime/task");
    for name in ["rpc.sock", "control.sock", "lock"] {
        // Kept under another name, so that its inode is not given out again.
        fs::rename(base.join(name), home.path(name)).unwrap();
        fs::write(base.join(name), "somebody else's").unwrap();
    }
    signal(&service, Signal::TERM);
    let ended = service.ends_beside_others();
    assert_eq!(ended.status.code(), Some(0), "{ended}");
    for name in ["rpc.sock", "control.sock", "lock"] {
        assert_eq!(fs::read_to_string(base.join(name)).unwrap(), "somebody else's");
    }
}

#[test]
fn help_names_the_commands_and_what_signals_do() {
    let home = Home::new();
    let help = home.task(["--help"]).ends();
    for command in ["serve", "status", "restart", "stop"] {
        assert!(help.stdout.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {help}");
    }
    let help = home.task(["serve", "--help"]).ends();
    for said in ["SIGHUP", "SIGTERM", "--max-failed-starts", "control.sock"] {
        assert!(help.stdout.contains(said), "{said}: {help}");
    }
}

impl Ended {
    fn answers_anything(&self) {
        assert!(self.status.success() && self.stderr.is_empty(), "{self}");
    }
}

#[test]
fn limits_are_set_by_flag_or_variable_kept_and_shown() {
    let home = Home::new();
    let settings = "attachments=1,input_idle=none,drain=1500ms";
    let service = home
        .task(["serve", "--limit", "connections=3,drain=2s", "--limit", "in_flight=4"])
        .with(|command| command.env("TASK_LIMIT", settings))
        .starts(Stdio::piped());
    service.hears(" ready in ");
    // The words of the command line beat the variable's, as everywhere: name by name.
    let limits = &status(&home)["limits"];
    assert_eq!(
        (&limits["attachments"], &limits["drain"], &limits["in_flight"]),
        (&1.into(), &2.0.into(), &4.into())
    );
    stopped(service);

    let service =
        home.task(["serve"]).with(|command| command.env("TASK_LIMIT", settings)).starts(Stdio::piped());
    service.hears(" ready in ");
    let report = status(&home);
    let limits = &report["limits"];
    assert!(limits["memory"].as_u64().unwrap() > 1 << 20, "{limits}");
    let expected = serde_json::json!({
        "connections": 64, "in_flight": 128, "attachments": 1, "frame": 1 << 20, "held": 16 << 20,
        "memory": limits["memory"], "input_idle": null, "frame_time": 5.0, "unread": 30.0,
        "start": 10.0, "drain": 1.5, "health": 3.0,
    });
    assert_eq!(limits, &expected);
    let text = home.task(["status"]).ends_beside_others();
    assert!(text.stdout.contains("limits       connections 64, in_flight 128, attachments 1,"), "{text}");
    assert!(text.stdout.contains("unread 30 s, start 10 s, drain 1.5 s, health 3 s\n"), "{text}");

    for name in ["one", "two"] {
        home.file(name, "1 2 6");
    }
    let two = home.task(["call", "mean", "./one", "./two"]).ends_beside_others();
    let told = "task: never sent: the server closed the connection: more than 1 attachments would be alive on this connection";
    assert!(two.stderr.starts_with(told), "{two}");
    // It waits for the input as long as that takes, but no longer for the call when it is to stop.
    let mut call = home.task(["call", "mean"]).with(|c| c.stdin(Stdio::piped())).starts(Stdio::piped());
    let until = Instant::now() + PATIENCE;
    while status(&home)["calls"]["in_flight"] == 0 {
        assert!(Instant::now() < until, "the call is not in flight");
    }
    let held = call.stdin().take();
    signal(&service, Signal::TERM);
    service.hears("for at most 1.5 s");
    let ended = service.ends_beside_others();
    assert!(ended.stderr.contains("1 call was not answered, as a stop waits no longer"), "{ended}");
    drop(held);
    call.ends_beside_others();
}

#[test]
fn a_limit_that_cannot_be_kept_is_a_usage_error_that_says_which() {
    let home = Home::new();
    for (words, said) in [
        (vec!["--limit", "attachments=0"], "--limit attachments=0: it must be a number from 1 up"),
        (vec!["--limit", "attachment=5"], "--limit \"attachment\": there is none of that name, but conn"),
        (vec!["--limit", "in_flight=129"], "--limit connections=64 and in_flight=129: no more than 8192"),
        (vec!["--memory", "1G", "--limit", "memory=2G"], "--memory and --limit memory contradict each other"),
    ] {
        let ended = home.task([vec!["serve"], words].concat()).ends();
        assert_eq!(ended.status.code(), Some(2), "{ended}");
        assert!(ended.stderr.starts_with(&format!("task: {said}")), "{ended}");
    }
    let worker = Path::new(TASK).with_file_name("task-rpc");
    let ended = home.run(worker.to_str().unwrap(), ["--socket", "x.sock", "--limit", "frame=5"]).ends();
    assert_eq!(ended.status.code(), Some(2), "{ended}");
    assert!(ended.stderr.contains("--limit frame=5: it must be at least 128K"), "{ended}");
}
