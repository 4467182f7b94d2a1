//! Tests of the module above. A file of the log is full with ten megabytes, so a record of six rotates it each time.

use super::*;
use crate::store::{RUNS, SERVE};
use std::fs;
use std::time::{Duration, Instant};

const LARGE: usize = 6_000_000;
const PATIENCE: Duration = Duration::from_mins(1);

fn store() -> (tempfile::TempDir, Store) {
    let home = tempfile::tempdir().unwrap();
    let store = Store::at(home.path().join("log"));
    (home, store)
}

/// Records of so many bytes together, as short ones: nobody reads a line of six megabytes.
fn records(from: u32, bytes: usize) -> (Vec<u8>, u32) {
    let (mut lines, mut n) = (Vec::new(), from);
    while lines.len() < bytes || n == from {
        lines.extend(line(n, &"x".repeat(bytes.min(100_000))));
        n += 1;
    }
    (lines, n)
}

fn line(n: u32, filler: &str) -> Vec<u8> {
    let (minute, second) = (n / 60, n % 60);
    format!("{{\"time\":\"2026-11-21T09:{minute:02}:{second:02}Z\",\"seq\":{n},\"message\":\"{filler}\"}}\n")
        .into()
}

fn following(store: &Store) -> Follower {
    let mut follower = Follower::watch(store).unwrap();
    follower.go_on_from([SERVE, RUNS].map(|name| store.open(name).unwrap()).into());
    follower
}

/// The numbers of all records that there are.
fn read(follower: &mut Follower) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        let news = follower.news().unwrap();
        assert_eq!((news.broken, news.lost), (0, false));
        numbers.extend(news.records.iter().map(|(record, _)| record.seq));
        if news.none {
            return numbers;
        }
    }
}

fn numbers(range: std::ops::Range<u32>) -> Vec<u64> {
    range.map(u64::from).collect()
}

#[test]
fn nothing_is_lost_or_shown_twice_when_files_are_rotated_between_the_first_read_and_the_next() {
    let (_home, store) = store();
    for rotations in 0..4 {
        let (lines, mut end) = records(0, 1000);
        store.append(SERVE, &lines).unwrap();
        let mut follower = following(&store);
        let begin = end;
        for _ in 0..rotations {
            let (lines, next) = records(end, LARGE);
            store.append(SERVE, &lines).unwrap();
            // Into the file that will be rotated next, too.
            let (more, next) = records(next, 1000);
            store.append(SERVE, &more).unwrap();
            end = next;
        }
        assert_eq!(read(&mut follower), numbers(begin..end), "{rotations} rotations");
        let (lines, next) = records(end, 1000);
        store.append(SERVE, &lines).unwrap();
        assert_eq!(read(&mut follower), numbers(end..next));
        assert_eq!(read(&mut follower), numbers(0..0));
    }
}

#[test]
fn records_that_came_just_before_the_rotation_are_not_lost() {
    let (_home, store) = store();
    let (lines, first) = records(0, LARGE);
    store.append(SERVE, &lines).unwrap();
    let mut follower = following(&store);
    let place = &mut follower.logs[0];
    // A look at the length, then a write and a rotation, then a look at the name.
    let (lines, second) = records(first, 1000);
    store.append(SERVE, &lines).unwrap();
    let (lines, third) = records(second, LARGE);
    store.append(SERVE, &lines).unwrap();
    let mut news = News::default();
    assert!(place.pass_on(&store, &mut news).unwrap());
    assert_eq!(news.records.iter().map(|(r, _)| r.seq).collect::<Vec<_>>(), numbers(first..second));
    assert_eq!(read(&mut follower), numbers(second..third));
}

#[test]
fn what_was_rotated_away_unread_is_told_and_the_rest_is_read() {
    let (_home, store) = store();
    store.append(SERVE, &records(0, 1000).0).unwrap();
    let mut follower = following(&store);
    for _ in 0..7 {
        store.append(SERVE, &records(1, LARGE).0).unwrap();
    }
    let (mut lost, mut read) = (0, 0);
    loop {
        let news = follower.news().unwrap();
        lost += u32::from(news.lost);
        read += news.records.len();
        if news.none {
            break;
        }
    }
    assert_eq!((lost, read), (1, 6 * 60), "sixty of the file that was open, and five files of as many");
}

#[test]
fn a_log_that_is_not_there_yet_is_read_from_its_beginning() {
    let (_home, store) = store();
    let mut follower = following(&store);
    assert_eq!(read(&mut follower), numbers(0..0));
    store.append(RUNS, &[line(0, ""), line(2, "")].concat()).unwrap();
    store.append(SERVE, &line(1, "")).unwrap();
    assert_eq!(read(&mut follower), [0, 1, 2], "both, by time");
}

#[test]
fn a_directory_that_was_removed_is_followed_when_it_comes_back() {
    let (_home, store) = store();
    store.append(SERVE, &line(0, "")).unwrap();
    let mut follower = following(&store);
    fs::remove_dir_all(store.dir()).unwrap();
    waits(&follower);
    assert_eq!(read(&mut follower), numbers(0..0));
    store.append(SERVE, &line(1, "")).unwrap();
    waits(&follower);
    assert_eq!(read(&mut follower), [1]);
}

#[test]
fn a_file_that_somebody_emptied_is_read_from_its_beginning() {
    let (_home, store) = store();
    store.append(SERVE, &records(0, 1000).0).unwrap();
    let mut follower = following(&store);
    fs::write(store.dir().join(SERVE), "").unwrap();
    store.append(SERVE, &line(7, "")).unwrap();
    assert_eq!(read(&mut follower), [7]);
}

#[test]
fn a_line_longer_than_any_record_and_one_without_an_end_hide_no_other() {
    let (_home, store) = store();
    store.append(SERVE, &line(0, "")).unwrap();
    let mut follower = following(&store);
    let long = [line(1, &"x".repeat(3 * LOG_RECORD)), line(2, ""), b"{\"time".to_vec()].concat();
    fs::write(store.dir().join(SERVE), [line(0, ""), long].concat()).unwrap();
    store.append(SERVE, &line(3, "")).unwrap();
    let (mut broken, mut seen) = (0, Vec::new());
    loop {
        let news = follower.news().unwrap();
        broken += news.broken;
        seen.extend(news.records.iter().map(|(record, _)| record.seq));
        if news.none {
            break;
        }
    }
    assert_eq!((broken, seen), (2, vec![2, 3]));
}

/// The other end of the next test: a service that writes at speed, each record in a write of its own.
#[test]
fn helper_that_writes_a_service() {
    let Some(dir) = std::env::var_os("TASK_TEST_LOG") else { return };
    let store = Store::at(dir);
    let filler = "x".repeat(20_000);
    for n in 0..1800 {
        store.append(SERVE, &line(n, &filler)).unwrap();
    }
}

#[test]
fn a_service_that_writes_at_speed_is_followed_across_its_rotations_record_by_record() {
    let (_home, store) = store();
    let mut follower = following(&store);
    let mut child = std::process::Command::new("/proc/self/exe")
        .args(["follow::tests::helper_that_writes_a_service", "--exact"])
        .env("TASK_TEST_LOG", store.dir())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // 36 MB: three rotations, of which none takes a record away.
    let (mut seen, until) = (Vec::new(), Instant::now() + PATIENCE);
    while seen.len() < 1800 && Instant::now() < until {
        seen.extend(read(&mut follower));
        if seen.len() < 1800 {
            waits(&follower);
        }
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(seen, numbers(0..1800));
    assert!(store.dir().join("serve.jsonl.3").exists(), "it was rotated");
}

/// Waits for an event, which must come.
fn waits(follower: &Follower) {
    let limit = rustix::event::Timespec::try_from(PATIENCE).unwrap();
    let mut ready = [PollFd::new(&follower.watch, PollFlags::IN)];
    assert_eq!(poll(&mut ready, Some(&limit)), Ok(1), "nothing happened");
    let (_open, output) = io::pipe().unwrap();
    assert!(follower.wait(&output).unwrap());
}

#[test]
fn an_output_that_nobody_reads_any_more_ends_the_waiting() {
    let (_home, store) = store();
    let follower = following(&store);
    let (reader, output) = io::pipe().unwrap();
    drop(reader);
    assert!(!follower.wait(&output).unwrap());
}
