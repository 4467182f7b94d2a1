//! Right answers, wherever the numbers come from.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;

use crate::invocation::Home;

fn answer(mean: &str, median: &str, mode: &str) -> String {
    format!("mean    {mean}\nmedian  {median}\nmode    {mode}\n")
}

fn lines(numbers: impl IntoIterator<Item = u32>) -> String {
    numbers.into_iter().fold(String::new(), |mut text, number| {
        let _ = writeln!(text, "{number}");
        text
    })
}

const ONCE: &str = "none (every value occurs once)";

#[test]
fn words_are_numbers_in_every_form() {
    let home = Home::new();
    let expected = answer("2", "2", "2 (2 of 4)");
    for words in [&["1", "2", "2", "3"][..], &["1,2,2,3"], &["1 2 2 3"], &["1, 2", "2,3,"], &["1", "2,2\n3"]]
    {
        home.task(words).ends().answers(&expected);
    }
    home.task(["-5"]).ends().answers(&answer("-5", "-5", "-5 (1 of 1)"));
    home.task(["-1,-2", "-3"]).ends().answers(&answer("-2", "-2", ONCE));
    home.task(["--", "-1", ".5", "2.5"]).ends().answers(&answer("0.6666666666666666", "0.5", ONCE));
    home.task(["1e-3", "+3e-3"]).ends().answers(&answer("0.002", "0.002", ONCE));
    home.task(["-0", "0", "-0.0"]).ends().answers(&answer("0", "0", "0 (3 of 3)"));
}

#[test]
fn infinities_are_numbers() {
    let home = Home::new();
    home.task(["-inf", "1", "2"]).ends().answers(&answer("-inf", "1", ONCE));
    home.task(["-INF", "Infinity"]).ends().answers(&answer("nan", "nan", ONCE));
    let json = home.task(["--json", "-inf", "inf"]).ends().json();
    assert_eq!(json["mean"], "nan");
    assert_eq!(json["median"], json!({"value": "nan", "low": "-inf", "high": "inf"}));
}

#[test]
fn a_million_numbers_come_through_a_pipe() {
    Home::new()
        .task::<&str>([])
        .stdin(lines(1..=1_000_000))
        .ends()
        .answers(&answer("500000.5", "500000.5", ONCE));
}

#[test]
fn files_words_and_standard_input_are_one_sequence() {
    let home = Home::new();
    home.file("a.txt", "1\n2\r\n");
    home.file("b.txt", "\u{feff}2, 3");
    home.file("5", "7");
    home.file("with space.txt", "9");
    home.task(["a.txt", "b.txt"]).ends().answers(&answer("2", "2", "2 (2 of 4)"));
    home.task(["1", "a.txt", "-", "4", "b.txt"]).stdin("2 2").ends().answers(&answer(
        "2.125",
        "2",
        "2 (4 of 8)",
    ));
    home.task(["./5"]).ends().answers(&answer("7", "7", "7 (1 of 1)"));
    home.task(["5"]).ends().answers(&answer("5", "5", "5 (1 of 1)"));
    home.task(["with space.txt"]).ends().answers(&answer("9", "9", "9 (1 of 1)"));
    home.task(["a.txt", "a.txt"]).ends().answers(&answer("1.5", "1.5", "none (every value occurs twice)"));
}

#[test]
fn standard_input_may_be_a_file_and_is_read_from_where_it_stands() {
    let home = Home::new();
    home.file("a.txt", "100\n2\n4\n");
    let shell = |script: String| home.run("sh", ["-c", &script]).ends();
    let task = crate::invocation::TASK;
    shell(format!("{task} <a.txt --only median")).answers("4\n");
    // read(1) takes the first line and leaves the rest.
    shell(format!("{{ read first; {task}; }} <a.txt")).answers(&answer("3", "3", ONCE));
}

#[test]
fn json_is_one_document_with_every_field() {
    let home = Home::new();
    let ended = home.task(["--json", "1", "5", "3", "1", "13", "5", "2", "4"]).ends();
    assert_eq!(
        ended.json(),
        json!({
            "count": 8, "missing": 0, "mean": 4.25,
            "median": {"value": 3.5, "low": 3, "high": 4},
            "mode": {"values": [1, 5], "frequency": 2, "total": 2}
        })
    );
    assert!(ended.stderr.is_empty() && ended.stdout.ends_with('\n'), "{ended}");
    let floats = home.task(["--json", "2.0", "2"]).ends();
    assert!(floats.stdout.contains(r#""mean":2.0"#) && floats.stdout.contains("[2.0]"), "{floats}");
    // Another program's reading of it.
    if let Ok(mut python) = std::process::Command::new("python3")
        .args(["-m", "json.tool", "--compact"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    {
        python.stdin.take().unwrap().write_all(ended.stdout.as_bytes()).unwrap();
        let read = python.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&read.stdout), ended.stdout);
    }
}

#[test]
fn only_prints_the_bare_value() {
    let home = Home::new();
    for (only, stdout, json) in [
        ("mean", "4.25\n", json!({"count": 8, "missing": 0, "mean": 4.25})),
        ("median", "3.5\n", json!({"count": 8, "missing": 0, "median": {"value": 3.5, "low": 3, "high": 4}})),
        (
            "mode",
            "1\n5\n",
            json!({"count": 8, "missing": 0, "mode": {"values": [1, 5], "frequency": 2, "total": 2}}),
        ),
    ] {
        let words = ["--only", only, "1,5,3,1,13,5,2,4"];
        home.task(words).ends().answers(stdout);
        assert_eq!(home.task(words).with(|c| c.env("TASK_JSON", "1")).ends().json(), json);
    }
    home.task(["--only", "mode", "1", "2"]).ends().answers("");
}

#[test]
fn text_lists_ten_modes_and_json_all_of_a_thousand() {
    let home = Home::new();
    let twice = lines((1..=1000).flat_map(|number| [number, number])) + "0";
    let text = home.task::<&str>([]).stdin(twice.clone()).ends();
    assert!(
        text.stdout.contains("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, … 990 more (--json) (2 of 2001 each)"),
        "{text}"
    );
    let json = home.task(["--json"]).stdin(twice).ends().json();
    assert_eq!(json["mode"]["values"].as_array().unwrap().len(), 1000);
    assert_eq!(json["mode"]["total"], 1000);
}

#[test]
fn integers_stay_exact_to_64_bits_and_beyond_are_floats_with_one_warning() {
    let home = Home::new();
    let median = home.task(["--json", "9223372036854775807", "9223372036854775806"]).ends().json();
    assert_eq!(median["median"]["low"], 9_223_372_036_854_775_806_i64);
    let huge = home.task(["--only", "median", "9223372036854775808", "9223372036854775809"]).ends();
    assert_eq!(huge.stdout, "9.223372036854776e18\n", "{huge}");
    assert_eq!(huge.stderr.lines().count(), 1, "{huge}");
    assert!(huge.stderr.starts_with("task: ") && huge.stderr.contains("64"), "{huge}");
    let file = home.file("huge.txt", "1\n99999999999999999999\n");
    let huge = home.task([file]).ends();
    assert_eq!(huge.stdout, answer("5e19", "5e19", ONCE), "{huge}");
    assert_eq!(huge.stderr.lines().count(), 1, "{huge}");
}

#[test]
fn missing_values_are_left_out_and_counted_when_asked() {
    let home = Home::new();
    home.file("gaps.txt", "1,,3\nNA nan\nnull 5\n");
    let ended = home.task(["--missing", "skip", "gaps.txt", "nan", "7,,"]).ends();
    assert_eq!(ended.stdout, answer("4", "4", ONCE), "{ended}");
    assert_eq!(ended.stderr, "task: 6 missing values skipped\n", "{ended}");
    assert_eq!(home.task(["--json", "--missing", "skip", "gaps.txt"]).ends().json()["missing"], 4);
    let quiet = home.task(["-q", "--missing", "skip", "gaps.txt"]).ends();
    quiet.answers(&answer("3", "3", ONCE));
    let none = home.task(["--missing", "skip", "nan", "NA"]).ends();
    none.fails(1, "task: there are no numbers in the input: all 2 values are missing and skipped");
}

#[test]
fn a_slow_writer_is_waited_for_and_somebody_who_waits_is_told() {
    let home = Home::new();
    let mut running = home.task::<&str>([]).with(|c| c.stdin(Stdio::piped())).starts(Stdio::piped());
    running.hears("reading standard input");
    let mut writer = running.stdin().take().unwrap();
    writer.write_all(b"1 2 ").unwrap();
    writer.write_all(b"3\n").unwrap();
    drop(writer);
    let ended = running.ends();
    assert_eq!(ended.stdout, answer("2", "2", ONCE), "{ended}");
    assert_eq!(
        ended.stderr, "task: reading standard input; Ctrl-C ends, task --help tells more\n",
        "{ended}"
    );
}

#[test]
fn a_hundred_thousand_arguments_and_three_hundred_files_are_taken() {
    let home = Home::new();
    let numbers: Vec<String> = (1..=100_000).map(|number: u32| number.to_string()).collect();
    home.task(&numbers).ends().answers(&answer("50000.5", "50000.5", ONCE));
    let names: Vec<String> = (1..=300).map(|number| format!("{number}.txt")).collect();
    for name in &names {
        home.file(name, name.strip_suffix(".txt").unwrap());
    }
    let few = |limit: &str| {
        let script = format!("ulimit {limit} -n 256; exec \"$0\" \"$@\"");
        home.run(
            "sh",
            ["-c", &script, crate::invocation::TASK].into_iter().chain(names.iter().map(String::as_str)),
        )
    };
    few("-S").ends().answers(&answer("150.5", "150.5", ONCE));
    let hard = few("").ends();
    assert_eq!(hard.status.code(), Some(1), "{hard}");
    assert!(hard.stdout.is_empty() && hard.stderr.contains("(256); join them: cat FILE… | task"), "{hard}");
}

#[test]
fn many_runs_side_by_side_do_not_disturb_each_other() {
    let home = Home::new();
    let running: Vec<_> =
        (1..=8).map(|n| home.task([n.to_string(), (n + 2).to_string()]).starts(Stdio::piped())).collect();
    let runtime = home.path("runtime/task");
    for (n, running) in (1..=8).zip(running) {
        let ended = running.ends_beside_others();
        ended.answers(&answer(&(n + 1).to_string(), &(n + 1).to_string(), ONCE));
    }
    assert_eq!(std::fs::read_dir(runtime).unwrap().count(), 0);
}
