//! What `task logs` tells of earlier runs.

use std::fs;
use std::io::{BufRead, BufReader, Lines, PipeReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::invocation::{Ended, Home, Running};
use crate::terminal::Terminal;

/// The records that these words ask for.
fn records(home: &Home, words: &[&str]) -> Vec<Value> {
    let ended = home.task([&["logs", "-o", "json"], words].concat()).ends();
    assert!(ended.status.success(), "{ended}");
    ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{ended}")))
        .collect()
}

fn messages(home: &Home, words: &[&str]) -> Vec<String> {
    records(home, words).iter().map(|record| record["message"].as_str().unwrap().to_owned()).collect()
}

fn values<'a>(records: &'a [Value], field: &str) -> Vec<&'a str> {
    let mut values: Vec<_> =
        records.iter().map(|record| record[field].as_str().unwrap_or_default()).collect();
    values.dedup();
    values
}

#[test]
fn a_silent_run_can_be_told_afterwards_in_full() {
    let home = Home::new();
    home.task(["--only", "mean", "1", "2", "6"]).ends().answers("3\n");
    let mut said = messages(&home, &["--level", "info"]);
    // The worker may answer before its host has heard that it is ready.
    let ready = said.iter().position(|message| message.starts_with("ready in ")).unwrap();
    assert!(ready > 0 && ready < 4, "{said:?}");
    said.remove(ready);
    assert_eq!(
        said,
        [
            "spawned task-rpc",
            "serving Stats",
            "answered",
            "stopping",
            "drained",
            "task-rpc exited 0; pipes closed; socket removed"
        ]
    );
    let records = records(&home, &["--level", "debug"]);
    let answered = records
        .iter()
        .find(|record| record["message"] == "answered" && record["source"] == "task-rpc")
        .unwrap();
    assert_eq!((&answered["source"], &answered["stream"]), (&"task-rpc".into(), &"stderr".into()));
    assert_eq!((&answered["fields"]["method"], &answered["fields"]["count"]), (&"mean".into(), &3.into()));
    assert!(answered["fields"]["us"].is_u64() && answered["trace_id"].is_string(), "{answered}");
    for (number, record) in (1_u64..).zip(&records) {
        assert_eq!(record["seq"], number, "{record}");
        assert_eq!(record["run"], records[0]["run"], "{record}");
        let time = record["time"].as_str().unwrap();
        assert!(time.len() == "2026-11-21T09:14:02.102314Z".len() && time.ends_with('Z'), "{record}");
    }
    // The worker's pid is in its own records, the host's in the others.
    assert_eq!(records[0]["fields"]["pid"], answered["pid"]);
    assert_ne!(records[0]["pid"], answered["pid"]);
}

#[test]
fn records_are_chosen_by_number_level_source_run_and_call() {
    let home = Home::new();
    home.task(["1"]).ends();
    home.task(["1", "2x"]).ends();
    home.task::<&str>([]).stdin("1 2x").ends();
    let all = records(&home, &["-n", "all"]);
    let mut runs = values(&all, "run");
    runs.dedup();
    // A word that is no number starts no worker, and so no run.
    assert_eq!(runs.len(), 2, "{all:#?}");
    let last = records(&home, &["-n", "2"]);
    assert_eq!(last, all[all.len() - 2..]);
    assert_eq!(values(&records(&home, &["--source", "task-rpc"]), "source"), ["task-rpc"]);
    let first = records(&home, &["--run", &runs[0][..4]]);
    assert_eq!(values(&first, "run"), [runs[0]]);
    let call = first.iter().find_map(|record| record["trace_id"].as_str()).unwrap();
    let traced = records(&home, &["--trace", call]);
    assert_eq!(values(&traced, "trace_id"), [call]);
    let warnings = records(&home, &["--level", "warn"]);
    assert!(warnings.is_empty(), "what is asked is nothing to be warned of: {warnings:#?}");
    let bad: Vec<_> = all.iter().filter(|record| record["fields"]["reason"].is_string()).cloned().collect();
    assert_eq!(values(&bad, "run"), [runs[1]], "what was wrong with the input is in the log: {all:#?}");
    let none = home.task(["logs", "--run", "zz"]).ends();
    assert!(none.status.success() && none.stdout.is_empty(), "{none}");
    assert!(none.stderr.contains("no matching records in"), "{none}");
}

#[test]
fn text_is_for_people_and_raw_is_what_was_said() {
    let home = Home::new();
    home.task(["1"]).ends();
    let text = home.task(["logs"]).ends();
    let first = text.stdout.lines().next().unwrap();
    assert!(first.contains(" INFO task      spawned task-rpc pid="), "{text}");
    assert_eq!(first.as_bytes()[4], b'-', "the date comes first: {text}");
    let raw = home.task(["logs", "-o", "raw", "-n", "1"]).ends();
    raw.answers("task-rpc exited 0; pipes closed; socket removed\n");
}

#[test]
fn a_log_that_nobody_has_written_says_so() {
    let home = Home::new();
    let ended = home.task(["logs"]).ends();
    assert!(ended.status.success() && ended.stdout.is_empty(), "{ended}");
    assert_eq!(ended.stderr, format!("no matching records in {}\n", home.path("state/task/log").display()));
}

#[test]
fn runs_at_once_keep_all_their_records() {
    let home = Home::new();
    let running: Vec<_> = (0..6).map(|_| home.task(["1"]).starts(Stdio::piped())).collect();
    for running in running {
        assert!(running.ends_beside_others().status.success());
    }
    let all = records(&home, &["-n", "all"]);
    let stopped =
        all.iter().filter(|record| record["message"].as_str().unwrap().contains("exited 0")).count();
    assert_eq!(stopped, 6, "{all:#?}");
}

#[test]
fn without_a_place_for_the_log_one_warning_is_given_and_the_answer() {
    let answered_with_one_warning = |ended: &Ended, why: &str| {
        assert!(ended.status.success() && ended.stdout == "1\n", "{ended}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended}");
        assert!(ended.stderr.contains("WARN task") && ended.stderr.contains(why), "{ended}");
    };
    let home = Home::new();
    let words = ["--only", "mean", "1"];
    let homeless = home.task(words).with(|c| c.env_remove("XDG_STATE_HOME")).ends();
    answered_with_one_warning(&homeless, "neither XDG_STATE_HOME nor HOME");
    // A file in the way stops root too, as a read-only directory would stop others.
    fs::write(home.path("state/task"), "").unwrap();
    let blocked = home.task(words).ends();
    answered_with_one_warning(&blocked, "state/task");
    let quiet = home.task(["-q", "--only", "mean", "1"]).ends();
    quiet.answers("1\n");
    let logs = home.task(["logs"]).ends();
    assert_eq!(logs.status.code(), Some(1), "{logs}");
}

#[test]
fn the_log_is_for_its_owner_alone() {
    let home = Home::new();
    home.task(["1"]).ends();
    let mode = |name: &str| fs::metadata(home.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("state/task/log"), mode("state/task/log/runs.jsonl")), (0o700, 0o600));
}

/// A record of a log file that this test writes itself.
fn line(time: &str, run: &str, message: &str) -> String {
    format!("{{\"time\":\"{time}\",\"run\":\"{run}\",\"source\":\"task\",\"message\":\"{message}\"}}\n")
}

/// Two files as a service and two runs beside it leave them.
fn two_logs(home: &Home) {
    fs::create_dir_all(home.path("state/task/log")).unwrap();
    let serve: Vec<_> = ["09:00:00Z", "09:10:00Z", "09:20:00.5Z", "09:30:00Z"]
        .iter()
        .map(|time| line(&format!("2026-11-20T{time}"), "5e12e000", &time[..5]))
        .collect();
    fs::write(home.path("state/task/log/serve.jsonl"), serve.concat()).unwrap();
    // Each stands where it ended.
    let runs = [("09:15:00Z", "short"), ("09:16:00Z", "short"), ("09:05:00Z", "long"), ("09:25:00Z", "long")]
        .map(|(time, run)| line(&format!("2026-11-20T{time}"), run, &time[..5]));
    fs::write(home.path("state/task/log/runs.jsonl"), runs.concat()).unwrap();
}

#[test]
fn a_service_and_the_runs_beside_it_are_one_story_in_order_of_time() {
    let home = Home::new();
    two_logs(&home);
    let all = ["09:00", "09:05", "09:10", "09:15", "09:16", "09:20", "09:25", "09:30"];
    assert_eq!(messages(&home, &[]), all);
    for count in 0..all.len() {
        assert_eq!(messages(&home, &["-n", &count.to_string()]), all[all.len() - count..]);
    }
    assert_eq!(messages(&home, &["--run", "short"]), ["09:15", "09:16"]);
    let text = home.task(["logs", "-n", "2"]).ends();
    text.answers(
        "2026-11-20 09:25:00.000 long INFO task      09:25\n2026-11-20 09:30:00.000 5e12e000 INFO task      09:30\n",
    );
}

#[test]
fn a_span_of_time_has_its_borders_and_all_between_them() {
    let home = Home::new();
    two_logs(&home);
    let since = |word| messages(&home, &["--since", word]);
    assert_eq!(since("2026-11-20 09:25"), ["09:25", "09:30"]);
    assert_eq!(since("2026-11-20 09:25:00.000001"), ["09:30"]);
    assert_eq!(since("2026-11-20T10:20:00.5+01:00"), ["09:20", "09:25", "09:30"]);
    assert_eq!(since("2026-11-21"), Vec::<String>::new());
    let until = |word| messages(&home, &["--until", word]);
    assert_eq!(until("2026-11-20 09:05"), ["09:00", "09:05"]);
    assert_eq!(until("2026-11-20 09:04:59.9"), ["09:00"]);
    assert_eq!(messages(&home, &["--until", "2026-11-20 09:20:00.5", "-n", "1"]), ["09:20"]);
    let both = ["--since", "2026-11-20 09:06", "--until", "2026-11-20 09:15"];
    assert_eq!(messages(&home, &both), ["09:10", "09:15"]);
    // A run of now, by how long ago.
    home.task(["--only", "mean", "1"]).ends().answers("1\n");
    for ago in [["--since", "10m"], ["--since", "-10m"], ["--since", "1h ago"], ["--since", "1d"]] {
        let messages = messages(&home, &[&ago[..], &["--level", "info"]].concat());
        assert_eq!(messages.len(), 7, "{ago:?}");
    }
    assert_eq!(messages(&home, &["--until", "10m"]).len(), 8);
    // Who names a time sees all of it, not the last hundred.
    let many: String = (0..300).map(|n| line("2026-11-20T08:00:00Z", "many", &n.to_string())).collect();
    fs::write(home.path("state/task/log/runs.jsonl"), many).unwrap();
    assert_eq!(messages(&home, &["--since", "2026-11-20 08:00"]).len(), 304);
    assert_eq!(messages(&home, &[]).len(), 100);
}

#[test]
fn the_beginning_of_time_is_a_time() {
    let home = Home::new();
    two_logs(&home);
    let first = line("-009999-01-02T01:59:59Z", "old", "first");
    fs::write(home.path("state/task/log/serve.jsonl.1"), first).unwrap();
    assert_eq!(messages(&home, &["-n", "9"])[0], "first");
    assert_eq!(messages(&home, &["--since", "-009999-01-02T01:59:59Z"]).len(), 9);
}

#[test]
fn a_word_that_is_no_time_is_explained() {
    let home = Home::new();
    let ended = home.task(["logs", "--since", "soon"]).ends();
    assert_eq!(ended.status.code(), Some(2), "{ended}");
    assert!(ended.stderr.contains("'soon'") && ended.stderr.contains("use 10m, 2h or 1d (ago)"), "{ended}");
    let ended = home.task(["logs", "-f", "--until", "today"]).ends();
    assert_eq!(ended.status.code(), Some(2), "{ended}");
}

/// `task logs -f` that runs, and the lines that it writes.
fn follow(home: &Home, words: &[&str]) -> (Running, Lines<BufReader<PipeReader>>) {
    let (reader, writer) = std::io::pipe().unwrap();
    let following = home.task([&["logs", "-f"], words].concat()).starts(writer.into());
    (following, BufReader::new(reader).lines())
}

#[test]
fn following_shows_what_comes_and_ends_by_ctrl_c() {
    let home = Home::new();
    let (following, mut lines) = follow(&home, &["-o", "raw", "--level", "info"]);
    following.hears("no matching records yet in ");
    for _ in 0..2 {
        home.task(["--only", "mean", "1"]).ends().answers("1\n");
        let run: Vec<_> = lines.by_ref().take(7).map(Result::unwrap).collect();
        assert_eq!(run[0], "spawned task-rpc");
        assert!(run.iter().any(|message| message == "answered"), "{run:?}");
        assert!(run[6].starts_with("task-rpc exited 0"), "{run:?}");
    }
    rustix::process::kill_process(following.pid(), Signal::INT).unwrap();
    following.ends_beside_others().died_of(Signal::INT);
    assert!(lines.next().is_none(), "nothing came twice");
}

#[test]
fn following_ends_when_nobody_reads_any_more_though_nothing_comes() {
    let home = Home::new();
    home.task(["--only", "mean", "1"]).ends().answers("1\n");
    let (following, mut lines) = follow(&home, &["-n", "1"]);
    assert!(lines.next().unwrap().unwrap().contains("task-rpc exited 0"));
    drop(lines);
    let ended = following.ends_beside_others();
    ended.died_of(Signal::PIPE);
    assert_eq!(ended.stderr, "", "{ended}");
}

#[test]
fn a_service_is_followed_while_it_runs_and_across_its_restart() {
    let home = Home::new();
    let (following, mut lines) = follow(&home, &["-o", "json", "--source", "task"]);
    following.hears("no matching records yet in ");
    let mut runs = Vec::new();
    for _ in 0..2 {
        let service = home.task(["serve"]).starts(Stdio::null());
        let run = loop {
            let record: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            assert_eq!(record["source"], "task");
            if record["message"].as_str().unwrap().starts_with("ready in ") {
                break record["run"].as_str().unwrap().to_owned();
            }
        };
        rustix::process::kill_process(service.pid(), Signal::TERM).unwrap();
        assert!(service.ends_beside_others().status.success());
        // Its last words are in the log once it has ended.
        let last = messages(&home, &["--run", &run]);
        assert!(last.iter().any(|message| message.contains("exited 0")), "{last:?}");
        while !lines.next().unwrap().unwrap().contains("exited 0") {}
        runs.push(run);
    }
    assert_ne!(runs[0], runs[1]);
    drop(lines);
    following.ends_beside_others().died_of(Signal::PIPE);
}

#[test]
fn nothing_that_a_log_holds_steers_the_terminal() {
    let home = Home::new();
    fs::create_dir_all(home.path("state/task/log")).unwrap();
    // Escape sequences, a bell, C1, a way back over the line, and text turned around: escaped in JSON, and as they are.
    let evil = [r"\u001b[2J\u0007\u009b31m\r\b\u202e", "\u{9b}31m\u{7f}\u{202e}\u{2028}"].concat();
    let record = format!(
        r#"{{"time":"2026-11-20T09:14:02Z","run":"r{evil}","source":"s{evil}","level":"WARN","message":"m\n{evil}","fields":{{"k{evil}":"{evil}"}},"trace_id":"{evil}"}}"#
    );
    fs::write(home.path("state/task/log/serve.jsonl"), record + "\n\u{1b}[2J no record\n").unwrap();
    for output in ["text", "json", "raw"] {
        let (seen, status) = Terminal::start(&home, &["logs", "-o", output, "--color", "never"]).ends();
        assert!(status.success(), "{seen}");
        assert!(seen.contains("skipped 1 lines"), "{seen}");
        let steering = |c: char| (c.is_control() && c != '\n') || ('\u{2028}'..='\u{202e}').contains(&c);
        assert!(!seen.contains(steering), "{output}: {seen:?}");
        assert_eq!(seen.lines().count(), 2, "one record is one line: {seen:?}");
    }
}
