//! Tests of the module above.

use super::*;
use crate::query::Query;
use crate::record::Record;
use crate::unprivileged::unprivileged;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

fn store() -> (tempfile::TempDir, Store) {
    let home = tempfile::tempdir().unwrap();
    let store = Store::at(home.path().join("state/task/log"));
    (home, store)
}

fn line(second: u32, run: &str, message: &str) -> String {
    format!(
        "{{\"time\":\"2026-11-21T09:{:02}:{:02}Z\",\"run\":\"{run}\",\"message\":\"{message}\"}}\n",
        second / 60,
        second % 60
    )
}

fn messages(store: &Store, count: usize) -> Vec<String> {
    let found = Query::default().last(count, &[store.open(RUNS).unwrap()]).unwrap();
    found.lines.iter().map(|line| Record::from_line(line).unwrap().message).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_log_is_where_the_user_keeps_state() {
    let under = |state: &str, home: &str| Store::under(Some(state.into()), Some(home.into()));
    assert_eq!(under("/s", "/h").unwrap().dir(), Path::new("/s/task/log"));
    assert_eq!(under("", "/h").unwrap().dir(), Path::new("/h/.local/state/task/log"));
    assert_eq!(under("relative", "/h").unwrap().dir(), Path::new("/h/.local/state/task/log"));
    assert!(matches!(Store::under(None, None), Err(StoreError::NoHome)));
    assert!(matches!(under("", ""), Err(StoreError::NoHome)));
}

#[test]
fn only_its_owner_may_read_the_log() {
    let (_home, store) = store();
    store.append(RUNS, b"{}\n").unwrap();
    assert_eq!(mode(store.dir()), 0o700);
    assert_eq!(mode(&store.dir().join(RUNS)), 0o600);
}

#[test]
fn files_are_rotated_by_size_and_the_oldest_goes() {
    let (_home, store) = store();
    let filler = "x".repeat(LOG_FILE as usize / 2);
    for n in 0..14 {
        store.append(RUNS, line(n, "r", &format!("{n} {filler}")).as_bytes()).unwrap();
    }
    let mut names: Vec<_> = fs::read_dir(store.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["runs.jsonl", "runs.jsonl.1", "runs.jsonl.2", "runs.jsonl.3", "runs.jsonl.4"]);
    for name in names {
        assert!(fs::metadata(store.dir().join(name)).unwrap().len() <= LOG_FILE);
    }
    let first = |name: &str| fs::read_to_string(store.dir().join(name)).unwrap()[..80].to_owned();
    assert!(first("runs.jsonl").contains("\"13 "), "{}", first("runs.jsonl"));
    assert!(first("runs.jsonl.4").contains("\"9 "), "{}", first("runs.jsonl.4"));
}

#[test]
fn a_rotation_that_was_cut_short_costs_no_file() {
    let (_home, store) = store();
    fs::create_dir_all(store.dir()).unwrap();
    // Cut short after 3 → 4 and 2 → 3.
    for (name, text) in [("", "0"), (".1", "1"), (".3", "2"), (".4", "3")] {
        fs::write(store.dir().join(format!("{RUNS}{name}")), text).unwrap();
    }
    rotate(&store.dir().join(RUNS)).unwrap();
    let read = |number: u32| fs::read_to_string(numbered(&store.dir().join(RUNS), number)).unwrap();
    assert_eq!([1, 2, 3, 4].map(read), ["0", "1", "2", "3"]);
}

/// The other end of the next test: one of many runs that write at once.
#[test]
fn helper_that_writes_runs() {
    let Some(dir) = std::env::var_os("TASK_TEST_LOG") else { return };
    let store = Store::at(dir);
    let filler = "x".repeat(2000);
    for n in 0..40 {
        let run = format!("{}-{n}", std::process::id());
        let lines: String =
            (0..50).map(|k| line(k, &run, &format!("{k} {filler}"))).fold(String::new(), |a, b| a + &b);
        store.append(RUNS, lines.as_bytes()).unwrap();
    }
}

#[test]
fn runs_that_end_at_once_lose_nothing_and_stay_together_even_while_files_rotate() {
    let (_home, store) = store();
    let children: Vec<_> = (0..8)
        .map(|_| {
            Command::new("/proc/self/exe")
                .args(["store::tests::helper_that_writes_runs", "--exact"])
                .env("TASK_TEST_LOG", store.dir())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    // 8 × 40 runs of 50 lines of 2 KB: 33 MB, so files were rotated while others wrote.
    let mut runs: BTreeMap<String, u32> = BTreeMap::new();
    let mut last = String::new();
    for number in 0..LOG_FILES {
        let Ok(text) = fs::read_to_string(numbered(&store.dir().join(RUNS), number)) else { continue };
        for line in text.lines() {
            let run = Record::from_line(line.as_bytes()).unwrap().run;
            assert!(run == last || !runs.contains_key(&run), "the records of {run} do not stand together");
            *runs.entry(run.clone()).or_default() += 1;
            last = run;
        }
    }
    assert!(store.dir().join("runs.jsonl.3").exists() && !store.dir().join("runs.jsonl.4").exists());
    assert_eq!((runs.len(), runs.values().all(|&lines| lines == 50)), (320, true));
}

#[test]
fn the_last_records_come_in_order_of_time_from_all_files() {
    let (_home, store) = store();
    fs::create_dir_all(store.dir()).unwrap();
    let write = |name: &str, lines: &[String]| fs::write(store.dir().join(name), lines.concat()).unwrap();
    write("runs.jsonl.1", &[line(1, "a", "1"), line(3, "a", "3"), line(2, "b", "2"), line(4, "b", "4")]);
    // c began before all others, and ended last.
    write("runs.jsonl", &[line(5, "d", "5"), line(0, "c", "0"), line(6, "c", "6")]);
    assert_eq!(messages(&store, usize::MAX), ["0", "1", "2", "3", "4", "5", "6"]);
    assert_eq!(messages(&store, 3), ["4", "5", "6"]);
    assert_eq!(messages(&store, 0), Vec::<String>::new());
}

#[test]
fn a_long_run_hides_no_younger_record_of_a_short_one() {
    let (_home, store) = store();
    let mut lines = vec![line(100, "short", "100"), line(101, "short", "101")];
    lines.extend((0..60).map(|n| line(n, "long", &n.to_string())));
    lines.push(line(102, "long", "102"));
    store.append(RUNS, lines.concat().as_bytes()).unwrap();
    assert_eq!(messages(&store, 3), ["100", "101", "102"]);
}

#[test]
fn only_the_end_of_a_large_log_is_read() {
    let (_home, store) = store();
    let lines: String = (0..3000)
        .map(|n| line(n, &format!("r{}", n / 10), &n.to_string()))
        .fold(String::new(), |a, b| a + &b);
    store.append(RUNS, lines.as_bytes()).unwrap();
    // Were the beginning read, it would count as broken.
    let path = store.dir().join(RUNS);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, "garbage\n".to_owned() + &text).unwrap();
    let found = Query::default().last(5, &[store.open(RUNS).unwrap()]).unwrap();
    assert_eq!((found.lines.len(), found.broken), (5, 0));
    let all = Query::default().last(usize::MAX, &[store.open(RUNS).unwrap()]).unwrap();
    assert_eq!((all.lines.len(), all.broken), (3000, 1));
}

#[test]
fn a_line_that_a_killed_writer_left_unfinished_spoils_no_other() {
    let (_home, store) = store();
    store.append(RUNS, line(1, "a", "1").as_bytes()).unwrap();
    let mut file = OpenOptions::new().append(true).open(store.dir().join(RUNS)).unwrap();
    file.write_all(b"{\"time\":\"2026-").unwrap();
    store.append(RUNS, line(2, "b", "2").as_bytes()).unwrap();
    assert_eq!(messages(&store, 9), ["1", "2"]);
    assert_eq!(Query::default().last(9, &[store.open(RUNS).unwrap()]).unwrap().broken, 1);
}

#[test]
fn a_lock_that_is_never_let_go_is_not_waited_for_long() {
    let (_home, store) = store();
    store.append(RUNS, line(1, "a", "1").as_bytes()).unwrap();
    let holder = File::open(store.dir().join(RUNS)).unwrap();
    holder.lock().unwrap();
    let begin = Instant::now();
    let error = store.append(RUNS, b"{}\n").unwrap_err();
    assert!(error.to_string().contains("another process holds its lock"), "{error}");
    assert_eq!(messages(&store, 9), ["1"], "it can be read nevertheless");
    assert!(begin.elapsed() < LOG_LOCK * 20, "took {:?}", begin.elapsed());
}

#[test]
fn a_fifo_a_link_or_a_directory_in_its_place_is_an_error() {
    let (home, store) = store();
    fs::create_dir_all(store.dir()).unwrap();
    let path = store.dir().join(RUNS);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    assert!(store.append(RUNS, b"{}\n").is_err() && store.open(RUNS).is_err());
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(home.path().join("elsewhere"), &path).unwrap();
    assert!(store.append(RUNS, b"{}\n").is_err());
    assert!(!home.path().join("elsewhere").exists());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(store.append(RUNS, b"{}\n").is_err());
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_that_names_it() {
    unprivileged("store::tests::a_directory_that_cannot_be_written_is_an_error_that_names_it", || {
        let (home, store) = store();
        fs::set_permissions(home.path(), Permissions::from_mode(0o500)).unwrap();
        let error = store.append(RUNS, b"{}\n").unwrap_err().to_string();
        assert!(error.starts_with("cannot make /") && error.contains("ermission denied"), "{error}");
        assert!(store.open(RUNS).unwrap().files.is_empty(), "an absent log is empty");
    });
}

/// The other end of the next test: a disk that is full, as far as this process can tell.
#[test]
fn helper_that_writes_to_a_full_disk() {
    let Some(dir) = std::env::var_os("TASK_TEST_FULL") else { return };
    let store = Store::at(dir);
    store.append(RUNS, line(1, "a", "1").as_bytes()).unwrap();
    let limit = rustix::process::Rlimit { current: Some(4096), maximum: Some(4096) };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
    let error = store.append(RUNS, line(2, "b", &"x".repeat(8000)).as_bytes()).unwrap_err();
    println!("said: {error}");
    store.append(RUNS, line(3, "c", "3").as_bytes()).unwrap();
}

#[test]
fn a_disk_that_takes_a_part_keeps_none_of_it() {
    let (_home, store) = store();
    // The limit on a file's size comes with a signal, which a shell ignores for us.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["store::tests::helper_that_writes_to_a_full_disk", "--exact", "--nocapture"])
        .env("TASK_TEST_FULL", store.dir())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("said: cannot write /"), "{said}");
    assert_eq!(fs::read_to_string(store.dir().join(RUNS)).unwrap(), line(1, "a", "1") + &line(3, "c", "3"));
}
