//! A system that will not do: directories, programs, outputs. And one that will, though it looks odd.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::{Signal, geteuid};

use crate::invocation::{Ended, Home};

fn in_dir(home: &Home, dir: &Path) -> Ended {
    home.task([Path::new("--runtime-dir"), dir, Path::new("1")]).runtime(dir).ends()
}

#[test]
fn a_runtime_directory_that_will_not_do_is_refused_with_the_reason() {
    let home = Home::new();
    let refused = |dir: &Path, why: &str| {
        let ended = in_dir(&home, dir);
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{ended}");
        assert!(ended.stderr.starts_with("task: ") && ended.stderr.contains(why), "{ended}");
        assert!(ended.stderr.contains(dir.to_str().unwrap()), "{ended}");
        let json = home.task(["--json", "1"]).with(|c| c.env("TASK_RUNTIME_DIR", dir)).ends();
        assert_eq!(json.json_error()["kind"], "runtime_dir");
    };
    let file = home.file("file", "");
    refused(&file, "is a file of user ");
    let open = home.path("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    refused(&open, "others may write in");
    let (link, target) = (home.path("link"), home.path("target"));
    fs::create_dir(&target).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    refused(&link, "is a symbolic link of user ");
    if geteuid().is_root() {
        let foreign = home.path("foreign");
        fs::create_dir(&foreign).unwrap();
        std::os::unix::fs::chown(&foreign, Some(65534), None).unwrap();
        refused(&foreign, "belongs to user 65534, not to user 0: choose another with --runtime-dir");
    } else {
        refused(Path::new("/usr"), "belongs to user 0");
    }
}

/// With /tmp of its own, where another user was first: with a directory, with a link to one, to one of root's, to nothing.
#[test]
fn what_another_user_put_in_the_place_of_the_runtime_directory_is_refused_by_name() {
    let home = Home::new();
    let tmp = home.path("tmp");
    fs::create_dir(&tmp).unwrap();
    let place = "/tmp/task-0";
    // What is below the other one cannot be seen then, this program perhaps among it.
    let program = home.path("tmp/program");
    assert!(home.run("cp", [crate::invocation::TASK, program.to_str().unwrap()]).ends().status.success());
    let run = |put: &str, words: &str| {
        let script = format!(
            "mount --bind '{}' /tmp && rm -rf {place} /tmp/theirs /tmp/ours && mkdir -m 700 /tmp/theirs /tmp/ours && chown 65534 /tmp/theirs && \
             {put} && chown -h 65534 {place} && unset XDG_RUNTIME_DIR && XDG_STATE_HOME=/tmp/state exec /tmp/program {words}",
            tmp.display(),
        );
        home.run("unshare", ["-m", "sh", "-c", &script]).ends()
    };
    let put = ["mkdir -m 700", "ln -s theirs", "ln -s ours", "ln -s nowhere", "touch"];
    let said = [
        "belongs to",
        "is a symbolic link of",
        "is a symbolic link of",
        "is a symbolic link of",
        "is a file of",
    ];
    if !home.run("unshare", ["-m", "mount", "--bind", tmp.to_str().unwrap(), "/tmp"]).ends().status.success()
    {
        eprintln!("skipped: it takes the right to mount");
        return;
    }
    for (put, said) in put.into_iter().zip(said) {
        for words in ["1 2", "serve", "status", "stop", "restart", "call ping"] {
            let ended = run(&format!("{put} {place}"), words);
            assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{put}: {ended}");
            assert!(ended.stderr.starts_with(&format!("task: {place} {said} user 65534")), "{put}: {ended}");
            assert!(ended.stderr.ends_with(": choose another with --runtime-dir\n"), "{put}: {ended}");
        }
    }
    // Nothing went through a link.
    for directory in ["theirs", "ours"] {
        assert_eq!(fs::read_dir(tmp.join(directory)).unwrap().count(), 0, "{directory}");
    }
}

#[test]
fn a_long_runtime_directory_that_is_not_there_yet_is_made_and_used() {
    let home = Home::new();
    let mut long = home.path("deep");
    while long.as_os_str().len() < 230 {
        long.push("a-directory-of-many-letters");
    }
    let ended = in_dir(&home, &long);
    ended.answers("mean    1\nmedian  1\nmode    1 (1 of 1)\n");
    assert_eq!(fs::metadata(&long).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn an_xdg_runtime_directory_that_is_not_ours_is_passed_over() {
    let home = Home::new();
    let strange = if geteuid().is_root() {
        fs::create_dir(home.path("strange")).unwrap();
        std::os::unix::fs::chown(home.path("strange"), Some(65534), None).unwrap();
        home.path("strange")
    } else {
        "/usr".into()
    };
    let ended = home.task(["--only", "mean", "1"]).with(|c| c.env("XDG_RUNTIME_DIR", &strange));
    ended.runtime(&strange).ends().answers("1\n");
}

#[test]
fn a_worker_that_cannot_be_run_is_named() {
    let home = Home::new();
    let ended = home.task(["--rpc-bin", "/nowhere/task-rpc", "1"]).ends();
    ended.fails(
        1,
        "task: cannot start /nowhere/task-rpc: cannot be run: No such file or directory (os error 2)",
    );
    let json = home.task(["--json", "1"]).with(|c| c.env("TASK_RPC_BIN", "/nowhere/task-rpc")).ends();
    assert_eq!(json.json_error()["kind"], "cannot_start");
}

#[test]
fn a_closed_standard_output_ends_it_by_sigpipe() {
    let home = Home::new();
    for words in [&["1", "2"][..], &["--json", "1"], &["--help"], &["man"], &["completions", "bash"]] {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let ended = home.task(words).ends_with_stdout(write);
        ended.died_of(Signal::PIPE);
        assert_eq!(ended.stderr, "", "{ended}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let home = Home::new();
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    for words in [&["1", "2"][..], &["--help"], &["man"], &["completions", "zsh"]] {
        let ended = home.task(words).ends_with_stdout(full());
        ended.fails(1, "task: cannot write the answer: No space left on device (os error 28)");
    }
    let ended = home.task(["--json", "1"]).ends_with_stdout(full());
    assert_eq!(ended.json_error()["kind"], "output");
}

#[test]
fn standard_input_that_is_closed_is_none_and_one_for_writing_is_refused() {
    let home = Home::new();
    let closed = home.run("sh", ["-c", &format!("exec {} 1 2 <&-", crate::invocation::TASK)]).ends();
    assert!(closed.stdout.starts_with("mean    1.5\n"), "{closed}");
    let writing = home.task(["-"]).with(|c| c.stdin(File::create(home.path("out")).unwrap())).ends();
    writing.fails(1, "task: stdin: it is open for writing only");
}

#[test]
fn standard_error_that_nobody_reads_or_that_is_closed_costs_no_answer() {
    let home = Home::new();
    for redirection in ["2>&-", "2>/dev/full"] {
        let script = format!("{} -v 1 2 {redirection}", crate::invocation::TASK);
        home.run("sh", ["-c", &script])
            .ends()
            .answers("mean    1.5\nmedian  1.5\nmode    none (every value occurs once)\n");
    }
}

/// In blocks of 512 bytes: too small for anything, for the log, and for neither.
#[test]
fn a_limit_on_the_size_of_files_kills_nothing_and_leaves_nothing() {
    let home = Home::new();
    for blocks in [0, 1, 8, 64, 1024] {
        for flags in ["", "--json"] {
            let script =
                format!("ulimit -f {blocks}; exec {} {flags} --only mean 1 2", crate::invocation::TASK);
            let ended = home.run("sh", ["-c", &script]).ends();
            match ended.status.code() {
                Some(0) => assert!(ended.stdout.contains("1.5"), "{ended}"),
                Some(1) => {
                    assert!(ended.stdout.is_empty() && ended.stderr.contains("File too large"), "{ended}");
                }
                _ => panic!("{ended}"),
            }
            // Into a file that may not grow.
            let file = home.file("answer", "");
            let script = format!("{script} >>{}", file.display());
            let ended = home.run("sh", ["-c", &script]).ends();
            let answer = fs::read_to_string(&file).unwrap();
            match ended.status.code() {
                Some(0) => assert!(answer.contains("1.5"), "{ended}"),
                Some(1) => assert!(answer.is_empty() && ended.stderr.contains("File too large"), "{ended}"),
                _ => panic!("{ended}"),
            }
        }
    }
}
