//! Numbers that are none, and inputs that cannot be read: a clear error, nothing half-answered.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use rand::RngExt;
use rustix::process::{Signal, geteuid, kill_process};
use serde_json::json;

use crate::invocation::{Home, TASK};

#[test]
fn a_token_that_is_no_number_is_shown_with_its_file_line_and_column() {
    let home = Home::new();
    home.file("a.txt", "1 2\n3\n4 5 abc 6\n");
    home.file("b.txt", "1 2\n3\n4 5\n");
    home.task(["b.txt", "a.txt"]).ends().fails(1, "task: a.txt:3:5: \"abc\" is not a number");
    assert_eq!(
        home.task(["--json", "b.txt", "a.txt"]).ends().json_error(),
        json!({"kind": "not_a_number", "message": "\"abc\" is not a number", "input": "a.txt", "line": 3, "column": 5})
    );
    home.task(["9", "-"]).stdin("1\nx").ends().fails(1, "task: stdin:2:1: \"x\" is not a number");
    // The words of the protocol are translated, but not those of an input.
    let quoted = "task: stdin:1:1: \"format=npy\" is not a number";
    home.task(["-"]).stdin("format=npy").ends().fails(1, quoted);
    for only in ["mean", "median", "mode"] {
        home.task(["--only", only, "a.txt"]).ends().fails(1, "task: a.txt:3:5: \"abc\" is not a number");
    }
}

#[test]
fn words_that_are_no_numbers_are_shown_with_their_place() {
    let home = Home::new();
    home.task(["1", "2x"]).ends().fails(1, "task: argument 2: \"2x\" is not a number");
    home.task(["1", "2,3,x"]).ends().fails(1, "task: argument 2, column 5: \"x\" is not a number");
    home.task(["1e400"]).ends().fails(1, "task: argument 1: \"1e400\" is beyond the range of a 64-bit float");
    let json = home.task(["--json", "1e400"]).ends();
    assert_eq!(json.status.code(), Some(1), "{json}");
    assert_eq!(json.json_error()["kind"], "out_of_range");
    home.file("big.txt", "1\n-1e309");
    home.task(["big.txt"])
        .ends()
        .fails(1, "task: big.txt:2:1: \"-1e309\" is beyond the range of a 64-bit float");
}

#[test]
fn a_missing_value_is_an_error_that_names_its_place_and_the_way_round() {
    let home = Home::new();
    for (text, place) in [("1 2\n3 NA", "2:3"), ("1,,2", "1:3"), ("nan", "1:1"), ("null", "1:1")] {
        home.file("gaps.txt", text);
        let ended = home.task(["gaps.txt"]).ends();
        ended.fails(
            1,
            &format!(
                "task: gaps.txt:{place}: a value is missing here; --missing skip leaves such values out"
            ),
        );
    }
    home.task(["1", "NA"])
        .ends()
        .fails(1, "task: argument 2: a value is missing here; --missing skip leaves such values out");
    let json = home.task(["--json", "gaps.txt"]).ends().json_error();
    assert_eq!((&json["kind"], &json["input"]), (&json!("missing_value"), &json!("gaps.txt")));
}

#[test]
fn no_numbers_at_all_are_an_error() {
    let home = Home::new();
    home.file("empty.txt", "");
    home.file("blank.txt", " \n\t\n");
    home.task(["empty.txt"]).ends().fails(1, "task: there are no numbers in the input");
    home.task(["blank.txt"]).ends().fails(1, "task: there are no numbers in the input");
    home.task::<&str>([]).stdin("").ends().fails(1, "task: there are no numbers in the input");
    home.task([""]).ends().fails(1, "task: there are no numbers in the input");
    home.task(["empty.txt", "blank.txt"]).ends().fails(1, "task: there are no numbers in the input");
    assert_eq!(home.task(["--json", "empty.txt"]).ends().json_error()["kind"], "empty_input");
    // An empty file beside one with numbers adds nothing, and hurts nobody.
    home.task(["--only", "mean", "empty.txt", "3"]).ends().answers("3\n");
}

#[test]
fn files_that_are_not_there_or_not_readable_are_named() {
    let home = Home::new();
    std::fs::create_dir(home.path("files/dir")).unwrap();
    home.task(["dir"]).ends().fails(1, "task: dir: is a directory; name the files in it");
    home.task(["missing.txt"]).ends().fails(1, "task: missing.txt: no such file");
    home.task(["no/such"]).ends().fails(1, "task: no/such: no such file");
    std::os::unix::fs::symlink("nowhere", home.path("files/link")).unwrap();
    home.task(["link"]).ends().fails(1, "task: link: no such file");
    let json = |word: &str| home.task(["--json", word]).ends().json_error();
    assert_eq!(json("dir")["kind"], "is_a_directory");
    assert_eq!(
        json("missing.txt"),
        json!({"kind": "not_found", "message": "no such file", "input": "missing.txt"})
    );
    let from_dir = home.run("sh", ["-c", &format!("exec {TASK} <dir")]).ends();
    from_dir.fails(1, "task: stdin: is a directory; name the files in it");
}

#[test]
fn more_numbers_than_the_memory_holds_are_refused_in_the_words_of_a_run() {
    let home = Home::new();
    home.file("a.txt", "1.5\n".repeat(100_000));
    let ended = home.task(["--memory", "64K", "a.txt"]).ends();
    let (place, said) = ended.stderr.split_once(": the numbers").unwrap_or_else(|| panic!("{ended}"));
    assert!(place.starts_with("task: a.txt:"), "{ended}");
    assert_eq!(said, " need more than the 65536 bytes of memory; give fewer numbers, or raise --memory\n");
}

#[test]
fn a_file_that_its_reader_may_not_read_is_named() {
    const NOBODY: u32 = 65534;
    let home = Home::new();
    let secret = home.file("secret.txt", "1 2 3");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o000)).unwrap();
    if !geteuid().is_root() {
        return home.task(["secret.txt"]).ends().fails(1, "task: secret.txt: permission denied");
    }
    // Root may read everything, so somebody else does it, with programs and directories that they can reach.
    std::fs::create_dir(home.path("bin")).unwrap();
    for program in ["task", "task-rpc"] {
        let built = std::path::Path::new(TASK).with_file_name(program);
        std::fs::copy(built, home.path("bin").join(program)).unwrap();
    }
    for directory in ["", "bin", "files", "state", "runtime"] {
        std::fs::set_permissions(home.path(directory), PermissionsExt::from_mode(0o755)).unwrap();
    }
    for directory in ["state", "runtime"] {
        std::os::unix::fs::chown(home.path(directory), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let program = home.path("bin/task");
    let as_nobody =
        |word: &str| home.run(program.to_str().unwrap(), [word]).with(|c| c.uid(NOBODY).gid(NOBODY)).ends();
    as_nobody("secret.txt").fails(1, "task: secret.txt: permission denied");
    home.file("open.txt", "3");
    assert!(as_nobody("open.txt").stdout.starts_with("mean    3\n"), "whoever may read gets the answer");
}

#[test]
fn bytes_that_are_no_text_are_an_error_that_steers_no_terminal() {
    let home = Home::new();
    let seed: u64 = rand::random();
    let mut random: rand::rngs::StdRng = rand::SeedableRng::seed_from_u64(seed);
    for _ in 0..10 {
        let mut bytes = vec![0_u8; 4096];
        random.fill(&mut bytes[..]);
        let ended = home.task::<&str>([]).stdin(bytes).ends();
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "seed {seed}: {ended}");
        assert_eq!(ended.stderr.lines().count(), 1, "seed {seed}: {ended}");
        let says = ["is not a number\n", "a value is missing here; --missing skip leaves such values out\n"];
        assert!(says.iter().any(|says| ended.stderr.ends_with(says)), "seed {seed}: {ended}");
        let steers = ended.stderr.trim_end().chars().any(char::is_control);
        assert!(!steers, "seed {seed}: {:?}", ended.stderr);
    }
    home.task::<&str>([]).stdin("1 \0 2").ends().fails(1, "task: stdin:1:3: \"\\x00\" is not a number");
    home.task::<&str>([]).stdin("1 2\0").ends().fails(1, "task: stdin:1:3: \"2\\x00\" is not a number");
}

#[test]
fn a_token_of_five_megabytes_is_an_error_of_one_line() {
    let home = Home::new();
    let said =
        format!("task: stdin:2:1: \"{}…\" is not a number: it is longer than 65536 bytes", "1".repeat(64));
    let token = [&b"7\n"[..], &vec![b'1'; 5_000_000]].concat();
    home.task::<&str>([]).stdin(token.clone()).ends().fails(1, &said);
    home.file("long.txt", token);
    home.task(["long.txt"]).ends().fails(1, &said.replace("stdin", "long.txt"));
}

#[test]
fn a_fifo_that_nobody_writes_waits_and_can_be_interrupted() {
    let home = Home::new();
    assert!(home.run("mkfifo", ["fifo"]).ends().status.success());
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let running = home.task(["-v", "fifo"]).starts(Stdio::piped());
        running.hears("ready in");
        kill_process(running.pid(), signal).unwrap();
        let ended = running.ends();
        ended.died_of(signal);
        assert_eq!(ended.stdout, "", "{ended}");
    }
    home.task(["--timeout", "200ms", "fifo"]).ends().fails(124, "task: no answer within 200ms (--timeout)");
    let json = home.task(["--json", "--timeout", "0.2", "fifo"]).ends();
    assert_eq!(json.status.code(), Some(124), "{json}");
    assert_eq!(json.json_error()["kind"], "deadline");
}

#[test]
fn a_word_that_is_nothing_names_the_nearest_command() {
    let home = Home::new();
    home.task(["lgos"]).ends().fails(
        2,
        "task: \"lgos\" is no number, file or command; the nearest command is \"logs\"; see task --help",
    );
    home.task(["zzz"]).ends().fails(2, "task: \"zzz\" is no number, file or command; see task --help");
    home.task(["median", "1", "2"]).ends().fails(
        2,
        "task: \"median\" is no number, file or command; for the median alone: --only median; see task --help",
    );
    assert_eq!(home.task(["--json", "lgos"]).ends().json_error()["kind"], "usage");
}

#[test]
fn flags_that_say_nothing_or_contradict_each_other_are_usage_errors() {
    let home = Home::new();
    for words in [
        &["-q", "-v", "1"][..],
        &["--only", "sum", "1"],
        &["--frobnicate"],
        &["--missing", "maybe", "1"],
        &["--timeout", "0", "1"],
        &["--timeout", "soon", "1"],
        &["--memory", "lots", "1"],
        &["--json", "--json", "logs", "--nope"],
        &["-", "-"],
        &["completions", "tcsh"],
    ] {
        let ended = home.task(words).ends();
        assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(2), ""), "{ended}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
        let said = if words[0] == "--json" { "{\"error\":{\"kind\":\"usage\"" } else { "task: " };
        assert!(ended.stderr.starts_with(said), "{ended}");
    }
    home.task(["-q", "-v", "1"])
        .ends()
        .fails(2, "task: --quiet and --verbose contradict each other; see task --help");
    home.task(["completions"]).ends().fails(
        2,
        "task: the following required arguments were not provided: <SHELL>; see task completions --help",
    );
    home.task(["logs", "-n", "-3"]).ends().fails(
        2,
        "task: invalid value '-3' for '--lines <N>': not a number of records: use 0, 1, 2… or all; see task logs --help",
    );
}
