//! What `make` does, as far as it needs no build.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::invocation::{Ended, Home, TASK};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn make(home: &Home, dir: &Path, words: &[&str]) -> Ended {
    home.run("make", words).with(|command| command.current_dir(dir)).ends()
}

/// A tree with the Makefile and built programs, and nothing to build them from.
fn built(home: &Home) -> PathBuf {
    let tree = home.path("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy(Path::new(ROOT).join("Makefile"), tree.join("Makefile")).unwrap();
    symlink(Path::new(ROOT).join("systemd"), tree.join("systemd")).unwrap();
    for program in ["task", "task-rpc"] {
        symlink(Path::new(TASK).with_file_name(program), tree.join("bin").join(program)).unwrap();
    }
    tree
}

const TARGETS: [&str; 14] = [
    "task",
    "rpc",
    "test",
    "test-long",
    "faults",
    "fuzz",
    "lint",
    "fmt",
    "doc",
    "bench",
    "bench-peers",
    "clean",
    "install",
    "help",
];

#[test]
fn make_alone_explains_every_target() {
    let home = Home::new();
    let help = make(&home, Path::new(ROOT), &[]);
    assert!(help.status.success() && help.stderr.is_empty(), "{help}");
    assert!(help.stdout.contains("make task rpc && ./bin/task"), "{help}");
    for target in TARGETS {
        let line = help.stdout.lines().find(|line| line.split_whitespace().take(2).eq(["make", target]));
        assert!(line.is_some_and(|line| line.split_whitespace().count() > 3), "{target}: {help}");
    }
}

#[test]
fn targets_are_made_although_files_have_their_names() {
    let home = Home::new();
    let tree = built(&home);
    for target in TARGETS {
        fs::create_dir_all(tree.join(target)).unwrap();
        let dry = make(&home, &tree, &["-n", target]);
        assert!(dry.status.success() && !dry.stdout.is_empty(), "{dry}");
        assert!(!dry.stdout.contains("up to date") && !dry.stdout.contains("Nothing to be done"), "{dry}");
    }
    assert!(Path::new(ROOT).join("task").is_dir());
    let dry = make(&home, Path::new(ROOT), &["-n", "task"]);
    assert!(dry.stdout.contains("build --release --locked --package task --bin task"), "{dry}");
}

#[test]
fn install_puts_both_programs_and_the_manual_under_the_prefix_and_again() {
    let home = Home::new();
    let tree = built(&home);
    let prefix = home.path("prefix");
    for _ in 0..2 {
        let installed = make(&home, &tree, &["install", &format!("PREFIX={}", prefix.display())]);
        assert!(installed.status.success() && installed.stderr.is_empty(), "{installed}");
        assert!(
            installed.stdout.contains(&format!("installed {}/bin/task", prefix.display())),
            "{installed}"
        );
    }
    let task = prefix.join("bin/task");
    assert_eq!(fs::metadata(&task).unwrap().permissions().mode() & 0o777, 0o755);
    home.run(task.to_str().unwrap(), ["--only", "mean", "1", "2", "6"]).ends().answers("3\n");
    let page = fs::read_to_string(prefix.join("share/man/man1/task.1")).unwrap();
    assert!(page.contains(".TH task 1"), "{page}");
    let unit = fs::read_to_string(prefix.join("share/systemd/user/task.service")).unwrap();
    assert!(unit.contains(&format!("ExecStart={} serve\n", task.display())), "{unit}");
    assert!(unit.contains(&format!("ExecReload={} restart\n", task.display())), "{unit}");
    assert!(prefix.join("share/systemd/user/task.socket").exists());
}

#[test]
fn a_tilde_that_the_shell_left_alone_is_the_home_directory_in_the_unit_too() {
    let home = Home::new();
    let tree = built(&home);
    let words = ["install", "PREFIX=~/.local"];
    let installed =
        home.run("make", words).with(|c| c.current_dir(&tree).env("HOME", home.path("me"))).ends();
    assert!(installed.status.success() && installed.stderr.is_empty(), "{installed}");
    let prefix = home.path("me/.local");
    assert!(prefix.join("bin/task").exists());
    let unit = fs::read_to_string(prefix.join("share/systemd/user/task.service")).unwrap();
    assert!(unit.contains(&format!("ExecStart={}/bin/task serve\n", prefix.display())), "{unit}");
    assert!(!tree.join("~").exists());
}

#[test]
fn install_that_cannot_write_fails() {
    let home = Home::new();
    let tree = built(&home);
    // Nobody can make a directory there, root neither.
    let refused = make(&home, &tree, &["install", "PREFIX=/proc/self/nowhere"]);
    assert!(!refused.status.success() && !refused.stdout.contains("installed"), "{refused}");
}

#[test]
fn install_leaves_another_program_of_that_name_alone() {
    let home = Home::new();
    let tree = built(&home);
    let prefix = home.path("prefix");
    fs::create_dir_all(prefix.join("bin")).unwrap();
    fs::write(prefix.join("bin/task"), "#!/bin/sh\necho taskwarrior\n").unwrap();
    let refused = make(&home, &tree, &["install", &format!("PREFIX={}", prefix.display())]);
    assert!(!refused.status.success(), "{refused}");
    assert!(refused.stderr.contains("bin/task is another program (Taskwarrior and go-task"), "{refused}");
    assert!(refused.stderr.contains("make install PREFIX=DIR"), "{refused}");
    assert!(fs::read_to_string(prefix.join("bin/task")).unwrap().contains("taskwarrior"));
    assert!(!prefix.join("bin/task-rpc").exists() && !prefix.join("share").exists(), "half installed");
    // A link that leads nowhere is somebody's too.
    fs::remove_file(prefix.join("bin/task")).unwrap();
    symlink("/nowhere/task", prefix.join("bin/task")).unwrap();
    let refused = make(&home, &tree, &["install", &format!("PREFIX={}", prefix.display())]);
    assert!(!refused.status.success(), "{refused}");
}

#[test]
fn install_before_building_says_what_to_do() {
    let home = Home::new();
    let tree = built(&home);
    fs::remove_file(tree.join("bin/task-rpc")).unwrap();
    let refused = make(&home, &tree, &["install", &format!("PREFIX={}", home.path("prefix").display())]);
    assert!(!refused.status.success() && refused.stderr.contains("build first: make task rpc"), "{refused}");
}

#[test]
fn install_refuses_a_prefix_with_spaces_and_touches_nothing() {
    let home = Home::new();
    let tree = built(&home);
    let parts = [home.path("my"), home.path("my programs"), tree.join("programs")];
    for variable in ["PREFIX", "DESTDIR"] {
        let refused = make(&home, &tree, &["install", &format!("{variable}={}", parts[1].display())]);
        assert!(!refused.status.success() && refused.stderr.contains("may not contain spaces"), "{refused}");
        assert!(!parts.iter().any(|part| part.exists()), "{refused}");
    }
}
