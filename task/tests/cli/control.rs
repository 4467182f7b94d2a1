//! Who may use the control socket of a service, and who is kept from what.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::geteuid;
use task_proto::limits::CONTROL_CONNECTIONS;

use crate::invocation::{Home, PATIENCE, TASK};
use crate::serve::{serves, status, stopped};

#[test]
fn whoever_sits_on_the_control_socket_keeps_nobody_from_it() {
    let home = Home::new();
    let service = serves(&home, &[]);
    let control = home.path("runtime/task/control.sock");
    let descriptors =
        || fs::read_dir(format!("/proc/{}/fd", service.pid().as_raw_nonzero())).unwrap().count();
    let before = descriptors();
    // Silent ones, ones in the middle of a frame, and one of nonsense.
    let mut idle = Vec::new();
    for n in 0..3 * CONTROL_CONNECTIONS {
        let mut client = UnixStream::connect(&control).unwrap();
        match n % 3 {
            0 => {}
            1 => drop(client.write_all(&[0, 0, 0, 100, 1])),
            _ => drop(client.write_all(&[b'x'; 4096])),
        }
        idle.push(client);
        if n % 40 == 0 {
            assert_eq!(status(&home)["state"], "serving");
        }
    }
    assert_eq!(status(&home)["state"], "serving");
    let during = descriptors();
    // Two for each: its socket, and the epoll that sees it hang up; and one that waits for its place.
    let most = before + 2 * (CONTROL_CONNECTIONS + 1);
    assert!(during <= most, "{before} descriptors before, {during} with {} clients", idle.len());
    home.task(["restart"]).ends_beside_others().answers("generation 2 serves\n");
    drop(idle);
    stopped(service);
}

/// Run by the test below as another user.
#[test]
#[ignore = "needs to be another user"]
fn ask_as_another_user() {
    let path = std::env::var("CLI_TEST_SOCKET").unwrap();
    let mut client = match UnixStream::connect(path) {
        Ok(client) => client,
        Err(error) => {
            println!("cannot connect: {:?}", error.kind());
            return;
        }
    };
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = Vec::new();
    let read = client.read_to_end(&mut said);
    println!("read {read:?} of {}", said.len());
}

#[test]
fn another_user_cannot_connect_and_is_refused_even_where_the_files_let_them_in() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let home = Home::new();
    let service = serves(&home, &[]);
    let directories = [home.path(""), home.path("runtime"), home.path("runtime/task")];
    let sockets = ["rpc.sock", "control.sock"].map(|name| home.path("runtime/task").join(name));
    let ask = |socket: &Path| {
        let output = std::process::Command::new("/proc/self/exe")
            .args(["--exact", "control::ask_as_another_user", "--ignored", "--nocapture"])
            .env("CLI_TEST_SOCKET", socket)
            .uid(65534)
            .gid(65534)
            .current_dir("/")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    // First the way to the sockets is closed to them, then the sockets are, and then nothing but the service's own check.
    for directory in &directories[..2] {
        mode(directory, 0o755);
    }
    let denied = "cannot connect: PermissionDenied";
    let is_denied = |socket: &PathBuf| ask(socket).contains(denied);
    assert!(sockets.iter().all(is_denied));
    mode(&directories[2], 0o755);
    assert!(sockets.iter().all(is_denied));
    for socket in &sockets {
        mode(socket, 0o666);
        let said = ask(socket);
        assert!(said.contains("read Ok(0) of 0"), "{said}");
    }
    service.hears("refused another user at the control socket uid=65534 pid=");
    service.hears("refused a connection of another user uid=65534 pid=");
    mode(&directories[2], 0o700);
    stopped(service);
}

#[test]
fn root_may_ask_and_stop_the_service_of_another_user_and_makes_nothing_in_their_directory() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can start a service as another user");
        return;
    }
    let home = Home::new();
    // The way to it must be open to the other user.
    fs::set_permissions(home.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let base = home.path("theirs");
    fs::create_dir(&base).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&base, Some(65534), Some(65534)).unwrap();
    // Not written by this process: a fork at that moment would keep it open for writing.
    for program in ["task", "task-rpc"] {
        let from = Path::new(TASK).with_file_name(program);
        assert!(
            std::process::Command::new("cp").arg(from).arg(home.path(program)).status().unwrap().success()
        );
    }
    let (program, place) = (home.path("task"), base.to_str().unwrap());
    let serve = home.run(program.to_str().unwrap(), ["serve", "--runtime-dir", place]);
    let service =
        serve.with(|c| c.uid(65534).gid(65534).current_dir("/")).runtime(&base).starts(Stdio::piped());
    service.hears(" ready in ");

    let ask = |words: &[&str]| home.task([words, &["--runtime-dir", place]].concat()).ends_beside_others();
    assert_eq!(ask(&["status", "--json"]).json()["pid"], service.pid().as_raw_nonzero().get());
    ask(&["call", "mean", "1", "2", "6"]).answers("3\n");
    ask(&["restart"]).answers("generation 2 serves\n");
    let theirs =
        format!("task: {place} belongs to user 65534, not to user 0: choose another with --runtime-dir");
    for words in [&["serve"][..], &["1", "2"]] {
        ask(words).fails(1, &theirs);
    }
    ask(&["stop"]).answers("");
    assert_eq!(service.ends().status.code(), Some(0));

    // One that nobody has chosen must be root's own: another user may have put it there.
    fs::rename(&base, home.path("runtime/task")).unwrap();
    for command in ["status", "stop"] {
        let ended = home.task([command]).ends_beside_others();
        assert!(ended.status.code() == Some(1) && ended.stderr.contains("belongs to user 65534"), "{ended}");
    }
}
