//! The command line from outside: what does not need a worker.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};

fn task() -> Command {
    let mut task = Command::new(env!("CARGO_BIN_EXE_task"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TASK_")) {
        task.env_remove(name);
    }
    task.stdin(Stdio::null());
    task
}

/// Exit code, standard output, standard error.
fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("it writes UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn each_flag_has_a_variable_that_an_empty_value_unsets() {
    let (code, out, err) = run(task().env("TASK_TIMEOUT", "soon").arg("nowhere.txt"));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("'soon' for '--timeout"), "{err}");
    for (name, flag) in [("TASK_ONLY", "--only"), ("TASK_MISSING", "--missing"), ("TASK_MEMORY", "--memory")]
    {
        let (code, _, err) = run(task().env(name, "nonsense").arg("nowhere.txt"));
        assert!(code == Some(2) && err.contains(flag), "{name}: {err}");
        let (code, _, err) = run(task().env(name, "").arg("nowhere.txt"));
        assert_eq!((code, err.as_str()), (Some(1), "task: nowhere.txt: no such file\n"), "{name}");
    }
}

#[test]
fn a_failure_in_json_is_one_line_and_standard_output_stays_empty() {
    let line = "{\"error\":{\"kind\":\"not_a_number\",\"message\":\"\\\"abc\\\" is not a number\",\"input\":\"argument 1\",\"column\":3}}\n";
    assert_eq!(run(task().args(["--json", "1,abc"])), (Some(1), String::new(), line.to_owned()));
    assert_eq!(run(task().env("TASK_JSON", "1").arg("1,abc")).2, line);
    assert!(!run(task().env("TASK_JSON", "0").arg("1,abc")).2.starts_with('{'));
    let (code, out, err) = run(task().args(["--json", "--bogus"]));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.starts_with("{\"error\":{\"kind\":\"usage\",") && err.lines().count() == 1, "{err}");
}

#[test]
fn closed_standard_output_ends_it_by_sigpipe_and_a_full_disk_by_an_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = task().arg("man").stdout(writer).output().unwrap();
    assert_eq!(output.status.signal(), Some(13), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");

    let full = File::options().write(true).open("/dev/full").unwrap();
    let (code, _, err) = run(task().arg("man").stdout(full));
    assert_eq!(code, Some(1));
    assert!(err.starts_with("task: cannot write the answer: No space left on device"), "{err}");
}

#[test]
fn closed_standard_error_changes_no_exit_code() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(task().arg("--bogus").stderr(writer).output().unwrap().status.code(), Some(2));
}

#[test]
fn more_files_than_the_limit_of_open_files_name_the_limit_and_the_way_round() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.txt");
    std::fs::write(&path, "1").unwrap();
    let (code, _, err) = run(Command::new("sh")
        .args(["-c", "ulimit -n 80; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_task")])
        .args(std::iter::repeat_n(path.as_os_str(), 100))
        .stdin(Stdio::null()));
    assert_eq!(code, Some(1));
    assert!(err.contains("limit of open files (80); join them: cat FILE… | task"), "{err}");
}

#[test]
fn the_soft_limit_of_open_files_is_raised_for_many_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.txt");
    std::fs::write(&path, "1").unwrap();
    // The last one is not there: all others have been opened before it says so.
    let (_, _, err) = run(Command::new("sh")
        .args(["-c", "ulimit -S -n 80; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_task")])
        .args(std::iter::repeat_n(path.as_os_str(), 100))
        .arg("nowhere.txt")
        .stdin(Stdio::null()));
    assert_eq!(err, "task: nowhere.txt: no such file\n");
}

#[test]
fn help_completions_and_the_manual_page_go_to_standard_output() {
    for (arguments, content) in [
        (&["--help"][..], "Exit status:"),
        (&["-h"], "Usage: task [OPTIONS] [INPUT]..."),
        (&["completions", "bash"], "_task()"),
        (&["completions", "fish"], "complete -c task"),
        (&["man"], ".TH task 1"),
        (&["--version"], "task 0.1.0"),
    ] {
        let (code, out, err) = run(task().args(arguments));
        assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(out.contains(content), "{arguments:?}: {out}");
    }
}
