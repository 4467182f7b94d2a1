//! Tests of the module above.

use super::*;
use crate::socket::Socket;
use crate::unprivileged::{NOBODY, unprivileged};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn base() -> (tempfile::TempDir, Base) {
    let home = tempfile::tempdir().unwrap();
    let base = Base::open(Some(&home.path().join("task"))).unwrap();
    (home, base)
}

fn again(base: &Base) -> Base {
    Base::open(Some(base.path())).unwrap()
}

fn names(base: &Base) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(base.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn in_two_hours() -> SystemTime {
    SystemTime::now() + Duration::from_hours(2)
}

#[test]
fn a_run_has_a_directory_of_its_own_and_leaves_nothing() {
    let (_home, base) = base();
    let run = RunDir::create(again(&base)).unwrap();
    assert_eq!(mode(base.path()), 0o700);
    assert_eq!(mode(&run.path()), 0o700);
    assert_eq!(names(&base), [format!("run-{}-{}", std::process::id(), run.run())]);
    let _socket = Socket::bind(run.fd(), &run.path(), SOCKET).unwrap();
    run.remove().unwrap();
    assert!(names(&base).is_empty());
    drop(RunDir::create(again(&base)).unwrap());
    assert!(names(&base).is_empty(), "dropping removes it as well");
}

/// Every state that a SIGKILL can leave, in the order in which a run goes through them.
fn leave(base: &Base, state: usize, nonce: u32) {
    let dir = base.path().join(format!("unswept-{nonce}"));
    fs::create_dir(&dir).unwrap();
    if matches!(state, 1..=4) {
        fs::write(dir.join(LOCK), "").unwrap();
    }
    if state == 3 {
        std::os::unix::net::UnixListener::bind(dir.join(SOCKET)).unwrap();
    }
    let name = if state < 2 { format!("tmp-{nonce:08x}") } else { format!("run-77-{nonce:08x}") };
    fs::rename(dir, base.path().join(name)).unwrap();
}

const STATES: [&str; 6] = ["made", "lock made", "renamed", "socket bound", "socket removed", "lock removed"];

#[test]
fn whatever_a_killed_run_left_is_swept() {
    for (state, name) in STATES.iter().enumerate() {
        let (_home, base) = base();
        leave(&base, state, 1);
        if state < 2 {
            assert_eq!(base.sweep(), 0, "{name}: might be a start under way");
            assert_eq!(base.sweep_at(in_two_hours()), 1, "{name}");
        } else {
            assert_eq!(base.sweep(), 1, "{name}");
        }
        assert!(names(&base).is_empty(), "{name}");
    }
}

#[test]
fn a_live_run_and_a_live_start_are_never_swept() {
    let (_home, base) = base();
    let run = RunDir::create(again(&base)).unwrap();
    let _socket = Socket::bind(run.fd(), &run.path(), SOCKET).unwrap();
    leave(&base, 1, 7);
    let lock = fs::File::open(base.path().join("tmp-00000007/lock")).unwrap();
    lock.lock().unwrap();
    let before = names(&base);
    assert_eq!(base.sweep_at(in_two_hours()), 0);
    assert_eq!(names(&base), before);
    assert!(run.path().join(SOCKET).exists());
}

#[test]
fn nothing_unknown_is_swept_and_no_link_is_followed() {
    let (home, base) = base();
    let dir = base.path();
    let outside = home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join(LOCK), "").unwrap();
    symlink(&outside, dir.join("run-1-00000001")).unwrap();
    for state in 2..=5 {
        leave(&base, state, state as u32);
        fs::write(dir.join(format!("run-77-{state:08x}/notes")), "mine").unwrap();
    }
    leave(&base, 2, 6);
    fs::write(dir.join("run-77-00000006").join(SOCKET), "a file by the socket's name").unwrap();
    leave(&base, 5, 7);
    symlink(outside.join(LOCK), dir.join("run-77-00000007/lock")).unwrap();
    leave(&base, 5, 8);
    fs::create_dir(dir.join("run-77-00000008/lock")).unwrap();
    for name in ["run-", "run-77", "run-77-1", "run-x-00000001", "run-77-0000000g", "tmp-", "tmp-1", "other"]
    {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::write(dir.join("tmp-00000009"), "a file").unwrap();
    let all = |dir: &Path| {
        let output = Command::new("find").arg(dir).output().unwrap();
        let mut lines: Vec<_> =
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = all(home.path());
    assert!(before.len() > 20);
    assert_eq!(base.sweep_at(in_two_hours()), 0);
    assert_eq!(all(home.path()), before);
}

#[test]
fn a_lock_that_was_replaced_while_it_was_taken_is_of_nothing() {
    let (_home, base) = base();
    let run = RunDir::create(again(&base)).unwrap();
    let lock = fs::File::open(run.path().join(LOCK)).unwrap().into();
    assert_eq!(is_there(&lock, &run.fd), Ok(true));
    fs::rename(run.path().join(LOCK), run.path().join("old")).unwrap();
    assert_eq!(is_there(&lock, &run.fd), Err(Errno::NOENT));
    fs::write(run.path().join(LOCK), "").unwrap();
    assert_eq!(is_there(&lock, &run.fd), Ok(false));
    fs::remove_file(run.path().join("old")).unwrap();
}

#[test]
fn starts_and_sweeps_at_once_do_each_other_no_harm() {
    let (_home, base) = base();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let starters: Vec<_> = (0..4)
            .map(|_| {
                threads.spawn(|| {
                    for _ in 0..100 {
                        let run = RunDir::create(again(&base)).unwrap();
                        let socket = Socket::bind(run.fd(), &run.path(), SOCKET).unwrap();
                        assert!(run.path().join(SOCKET).exists(), "a live run was swept");
                        drop(socket);
                        run.remove().unwrap();
                    }
                })
            })
            .collect();
        for nonce in 0..3 {
            let (base, done) = (&base, &done);
            threads.spawn(move || {
                let mut left = nonce;
                while !done.load(Ordering::Relaxed) {
                    leave(base, 3, left);
                    left += 3;
                    base.sweep();
                }
            });
        }
        let joined: Vec<_> = starters.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(joined.iter().all(Result::is_ok));
    });
    base.sweep();
    assert!(names(&base).is_empty());
}

#[test]
fn a_start_whose_unfinished_directory_is_swept_away_makes_another() {
    let (_home, base) = base();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                base.sweep_at(in_two_hours()); // as after a long sleep of the machine
            }
        });
        let made = (0..200).try_for_each(|_| RunDir::create(again(&base))?.remove());
        done.store(true, Ordering::Relaxed);
        made.unwrap();
    });
    assert!(names(&base).is_empty());
}

/// The other end of the next test: makes and removes run directories until it is killed.
#[test]
fn helper_that_runs_until_it_is_killed() {
    let Some(dir) = std::env::var_os("TASK_TEST_RUN_FOREVER") else { return };
    println!("begun");
    loop {
        let run = RunDir::create(Base::open(Some(Path::new(&dir))).unwrap()).unwrap();
        let socket = Socket::bind(run.fd(), &run.path(), SOCKET).unwrap();
        drop(socket);
        run.remove().unwrap();
    }
}

#[test]
fn nothing_stays_of_a_run_killed_at_any_moment() {
    let (_home, base) = base();
    let mut found = std::collections::BTreeSet::new();
    for round in 0..60_u64 {
        let mut child = Command::new("/proc/self/exe")
            .args(["run_dir::tests::helper_that_runs_until_it_is_killed", "--exact", "--nocapture"])
            .env("TASK_TEST_RUN_FOREVER", base.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"begun\n") {
            let mut byte = [0];
            child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        std::thread::sleep(Duration::from_micros(round * 37)); // not an event: the moment is what varies
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        for name in names(&base) {
            let inside = fs::read_dir(base.path().join(&name)).unwrap().count();
            found.insert((name[..3].to_owned(), inside));
        }
        base.sweep_at(in_two_hours());
        assert!(names(&base).is_empty(), "{:?}", names(&base));
    }
    println!("states found: {found:?}");
    assert!(!found.is_empty(), "no kill fell within a run");
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    // As root there is nobody's, else there is root's.
    let home = tempfile::tempdir().unwrap();
    let path = if rustix::process::geteuid().is_root() {
        chown(home.path(), Some(NOBODY), None).unwrap();
        home.path()
    } else {
        Path::new("/usr")
    };
    let error = Base::open(Some(path)).unwrap_err();
    assert!(matches!(error, RunDirError::Foreign { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.contains("--runtime-dir"), "{text}");
    let xdg =
        Base::at(&place(None, Some(path.as_os_str()), &std::env::temp_dir().join("task-test"))).unwrap();
    assert!(!xdg.path().starts_with(path), "an XDG directory that is not ours is passed over");
    fs::remove_dir_all(std::env::temp_dir().join("task-test")).unwrap();
}

#[test]
fn a_directory_in_which_others_may_write_is_refused() {
    let home = tempfile::tempdir().unwrap();
    for (mode, accepted) in [(0o700, true), (0o755, true), (0o720, false), (0o702, false), (0o1777, false)] {
        fs::set_permissions(home.path(), fs::Permissions::from_mode(mode)).unwrap();
        let opened = Base::open(Some(home.path()));
        assert_eq!(opened.is_ok(), accepted, "{mode:o}");
        if let Err(error) = opened {
            let text = error.to_string();
            assert!(text.contains(&format!("{mode:03o}")) && text.contains("--runtime-dir"), "{text}");
        }
    }
}

#[test]
fn a_link_or_a_file_is_no_runtime_directory() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("real")).unwrap();
    fs::set_permissions(home.path().join("real"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("real", home.path().join("link")).unwrap();
    symlink("nowhere", home.path().join("dangling")).unwrap();
    fs::write(home.path().join("file"), "").unwrap();
    for name in ["link", "link/", "link/.", "dangling", "file"] {
        let error = Base::open(Some(&home.path().join(name))).unwrap_err();
        assert!(error.to_string().contains(name.trim_end_matches(['/', '.'])), "{error}");
    }
    assert!(!home.path().join("nowhere").exists());
}

#[test]
fn the_runtime_directory_is_found_in_the_documented_order() {
    let home = tempfile::tempdir().unwrap();
    let (chosen, xdg) = (home.path().join("chosen/deep"), home.path().join("xdg"));
    fs::create_dir(&xdg).unwrap();
    fs::set_permissions(&xdg, fs::Permissions::from_mode(0o700)).unwrap();
    let find = |chosen: Option<&Path>, xdg: Option<&OsStr>| {
        Base::at(&place(chosen, xdg, home.path())).unwrap().path().to_owned()
    };
    let ours = home.path().join(format!("task-{}", rustix::process::geteuid().as_raw()));
    assert_eq!(find(Some(&chosen), Some(xdg.as_os_str())), chosen);
    assert_eq!(find(None, Some(xdg.as_os_str())), xdg.join("task"));
    assert_eq!(find(None, None), ours);
    assert_eq!(find(None, Some(OsStr::new("relative"))), ours);
    assert_eq!(find(None, Some(OsStr::new(""))), ours);
    assert_eq!(find(None, Some(home.path().join("absent").as_os_str())), ours);
}

#[test]
fn an_xdg_directory_that_cannot_be_written_is_passed_over_but_a_chosen_one_is_an_error() {
    unprivileged(
        "run_dir::tests::an_xdg_directory_that_cannot_be_written_is_passed_over_but_a_chosen_one_is_an_error",
        || {
            let home = tempfile::tempdir().unwrap();
            let xdg = home.path().join("xdg");
            fs::create_dir(&xdg).unwrap();
            fs::set_permissions(&xdg, fs::Permissions::from_mode(0o500)).unwrap();
            assert!(
                Base::at(&place(None, Some(xdg.as_os_str()), home.path()))
                    .unwrap()
                    .path()
                    .ends_with(format!("task-{}", rustix::process::geteuid().as_raw()))
            );
            let error = Base::open(Some(&xdg.join("task"))).unwrap_err();
            assert!(error.to_string().starts_with("cannot make /"), "{error}");
        },
    );
}
