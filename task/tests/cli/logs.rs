//! What `task logs` tells of earlier runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::Value;

use crate::invocation::{Ended, Home};

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
    assert_eq!(
        messages(&home, &[]),
        [
            "spawned task-rpc",
            "serving Stats",
            "ready",
            "answered",
            "stopping",
            "drained",
            "task-rpc exited 0; pipes closed; socket removed"
        ]
        .map(str::to_owned)
        .map(|message| if message == "ready" { messages(&home, &[])[2].clone() } else { message })
    );
    let records = records(&home, &[]);
    assert!(records[2]["message"].as_str().unwrap().starts_with("ready in "), "{}", records[2]);
    let answered = &records[3];
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
    let bad = records(&home, &["--level", "warn"]);
    assert_eq!(values(&bad, "level"), ["WARN"], "{all:#?}");
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
