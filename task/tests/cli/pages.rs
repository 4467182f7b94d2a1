//! Help, completions and the manual page: complete, and fit to be read.

use std::collections::BTreeSet;

use crate::invocation::Home;

/// The long flags that a help page lists.
fn flags(help: &str) -> BTreeSet<String> {
    let listed = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = listed.flat_map(|line| line.split([' ', ',', '=', '[', '<', '.']));
    words.filter_map(|word| word.strip_prefix("--")).map(str::to_owned).collect()
}

fn pages(home: &Home) -> Vec<(String, String)> {
    let commands: [&[&str]; 9] = [
        &["--help"],
        &["serve", "--help"],
        &["call", "--help"],
        &["status", "--help"],
        &["restart", "--help"],
        &["stop", "--help"],
        &["logs", "--help"],
        &["completions", "--help"],
        &["man", "--help"],
    ];
    let page = |words: &&[&str]| {
        let ended = home.task(*words).ends();
        assert!(ended.status.success() && ended.stderr.is_empty() && !ended.stdout.is_empty(), "{ended}");
        (words.join(" "), ended.stdout)
    };
    commands.iter().map(page).collect()
}

#[test]
fn help_fits_eighty_columns_and_names_what_there_is() {
    let home = Home::new();
    for (words, page) in pages(&home) {
        for line in page.lines() {
            assert!(line.chars().count() <= 80, "task {words}: {line:?}");
        }
    }
    let short = home.task(["-h"]).ends();
    assert!(short.stdout.lines().all(|line| line.chars().count() <= 80), "{short}");
    let help = &pages(&home)[0].1;
    for example in ["-5, -inf", "white space or commas", "to its end", "until Ctrl-D"] {
        let line = help.lines().find(|line| line.contains(example)).unwrap();
        assert!(line.contains("task"), "an example is broken over lines: {line:?}");
    }
    for word in [
        "--only",
        "--json",
        "--quiet",
        "--verbose",
        "--missing",
        "--timeout",
        "--memory",
        "--rpc-bin",
        "--runtime-dir",
        "--color",
        "logs",
        "completions",
        "man",
        "124",
        "SIGPIPE",
        "NO_COLOR",
        "TASK_JSON",
    ] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
}

#[test]
fn every_command_that_can_fail_in_several_ways_names_its_exit_codes() {
    let home = Home::new();
    for (words, codes) in [
        ("--help", &["0", "1", "2", "3", "124"][..]),
        ("call --help", &["0", "1", "2", "3", "124"]),
        ("serve --help", &["0", "1", "2"]),
        ("status --help", &["0", "1", "2", "3"]),
        ("restart --help", &["0", "1", "2", "3"]),
        ("stop --help", &["0", "1", "2", "3"]),
        ("logs --help", &["0", "1", "2"]),
    ] {
        let help = home.task(words.split(' ')).ends().stdout;
        let (_, status) = help.split_once("Exit status:\n").expect(words);
        let named =
            status.lines().map_while(|line| line.strip_prefix("  ")).filter_map(|line| line.split_once("  "));
        let named: Vec<_> = named.map(|(code, _)| code).filter(|code| code.parse::<u8>().is_ok()).collect();
        assert_eq!(named, codes, "task {words}");
    }
}

#[test]
fn the_manual_is_one_page_that_names_no_other_and_says_all_that_help_says() {
    let home = Home::new();
    let manual = home.task(["man"]).ends().stdout.replace("\\-", "-").replace("\\*(Aq", "'");
    assert!(!manual.contains("task-serve") && !manual.contains("(1)"), "{manual}");
    for (words, page) in pages(&home) {
        if let Some((_, explained)) = page.split_once("Exit status:\n") {
            for line in explained.lines().map(str::trim_end).filter(|line| !line.ends_with(':')) {
                assert!(manual.contains(line), "task {words}: {line:?} is not in the manual");
            }
        }
    }
}

#[test]
fn completions_and_the_manual_mention_every_flag() {
    let home = Home::new();
    let flags: BTreeSet<String> = pages(&home).iter().flat_map(|(_, page)| flags(page)).collect();
    assert!(flags.len() >= 16, "{flags:?}");
    for words in [&["completions", "bash"][..], &["completions", "zsh"], &["completions", "fish"], &["man"]] {
        let ended = home.task(words).ends();
        assert!(ended.status.success() && ended.stderr.is_empty(), "{ended}");
        let page = ended.stdout.replace("\\-", "-");
        for flag in &flags {
            let written = if words.ends_with(&["fish"]) { format!("-l {flag}") } else { format!("--{flag}") };
            assert!(page.contains(&written), "{written} is not in task {words:?}");
        }
        for command in ["logs", "completions", "man"] {
            assert!(page.contains(command), "{command} is not in task {words:?}");
        }
    }
}

#[test]
fn the_version_is_told() {
    let home = Home::new();
    home.task(["--version"]).ends().answers(concat!("task ", env!("CARGO_PKG_VERSION"), "\n"));
}
