//! What the README shows is what happens.

use std::fs;

use serde_json::Value;

use crate::invocation::{Home, TASK};
use crate::screens::{FIRST, SAMPLE, normalised};

const README: &str = include_str!("../../../README.md");
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rust/call.rs");

/// The code blocks of the README in this language, without their fences.
fn blocks(language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = README.lines();
    while let Some(fence) = lines.by_ref().find_map(|line| line.strip_prefix("```")) {
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if fence == language {
            blocks.push(block.join("\n") + "\n");
        }
    }
    blocks
}

/// What the README shows of this command, without its prompt.
fn shown(command: &str) -> String {
    let prompt = format!("$ {command}\n");
    let found = blocks("").into_iter().find_map(|block| block.strip_prefix(&prompt).map(str::to_owned));
    found.unwrap_or_else(|| panic!("README.md does not show `{command}`"))
}

#[test]
fn the_screens_are_those_of_a_real_run() {
    assert_eq!(normalised(&shown("./bin/task")), FIRST.replace("> \n", "> ^D\n"));
    assert_eq!(normalised(&shown("./bin/task </dev/null")), SAMPLE);
}

#[test]
fn the_commands_that_it_shows_answer_so() {
    let home = Home::new();
    let path = format!("{}:/usr/bin:/bin", TASK.strip_suffix("/task").unwrap());
    home.file("a.txt", "1 2\n3\n4 5 abc\n");
    for command in ["seq 1 1000000 | task", "task a.txt"] {
        let ended = home.run("sh", ["-c", &format!("{command} 2>&1")]).with(|c| c.env("PATH", &path)).ends();
        assert_eq!(ended.stdout, shown(command), "{ended}");
    }
}

#[test]
fn the_inputs_that_it_lists_are_all_understood() {
    let home = Home::new();
    let path = format!("{}:/usr/bin:/bin", TASK.strip_suffix("/task").unwrap());
    for name in ["sales.txt", "b.txt", "FILE", "5"] {
        home.file(name, "1 5 3 1 13 5 2 4");
    }
    home.file("a.npy", crate::formats::npy("<f8", "(1,)", &[0; 8]));
    let listed = blocks("sh").into_iter().find(|block| block.contains("task 1 2 2 3")).unwrap();
    assert!(listed.lines().count() >= 7, "{listed}");
    for line in listed.lines() {
        let command = line.split('#').next().unwrap().trim();
        let ended = home.run("sh", ["-c", command]).stdin("8").with(|c| c.env("PATH", &path)).ends();
        assert!(ended.status.success() && ended.stderr.is_empty(), "{ended}");
        if let Some((_, json)) = line.split_once("# {") {
            let (begin, end) = json.split_once("{…}").unwrap();
            assert!(ended.stdout.contains(begin) && end.starts_with(",\"mode\""), "{ended}");
        }
    }
}

#[test]
fn the_record_of_the_log_has_the_members_of_a_real_one() {
    fn shape(value: &Value) -> Vec<(String, bool, bool)> {
        let members = value.as_object().unwrap().iter();
        members.map(|(name, value)| (name.clone(), value.is_string(), value.is_u64())).collect()
    }
    let home = Home::new();
    home.task(["1", "2"]).ends();
    let log = fs::read_to_string(home.path("state/task/log/runs.jsonl")).unwrap();
    let blocks = blocks("json");
    let [shown] = &blocks[..] else { panic!("{blocks:?}") };
    let shown: Value = serde_json::from_str(shown).unwrap();
    let of_method = |record: &Value| record["fields"]["method"] == shown["fields"]["method"];
    let real = log.lines().map(|line| serde_json::from_str(line).unwrap()).find(of_method).unwrap();
    assert_eq!(shape(&shown), shape(&real), "{real}");
    assert_eq!(shape(&shown["fields"]), shape(&real["fields"]), "{real}");
    assert_eq!((&shown["message"], &shown["level"]), (&real["message"], &real["level"]));
}

#[test]
fn the_client_that_it_shows_is_the_example_that_is_tested() {
    assert!(
        blocks("rust").contains(&fs::read_to_string(EXAMPLE).unwrap()),
        "README.md does not have examples/rust/call.rs"
    );
}

#[test]
fn no_placeholder_is_left() {
    for word in README.split(|letter: char| !(letter.is_ascii_uppercase() || letter == '_')) {
        let known =
            ["TASK_", "XDG_", "NO_", "LISTEN_FDS", "SCM_RIGHTS"].iter().any(|start| word.starts_with(start))
                || !word.trim_matches('_').contains('_');
        assert!(known, "{word}");
    }
}
