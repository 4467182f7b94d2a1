//! Tests of the module above.

use super::*;
use crate::record::Record;
use crate::screen::Screen;
use crate::store::SERVE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::fs;
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::path::Path;
use std::time::Instant;
use task_proto::limits::{JOURNAL_HOST, JOURNAL_WORKERS};

const PATIENCE: Duration = Duration::from_mins(1);

/// A service's journal, what its screen shows from warnings up, and its log.
fn service() -> (Journal, BufReader<PipeReader>, Store, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    let (screen, shown) = std::io::pipe().unwrap();
    let journal = Journal::new("9f3c0000", Screen::on(Some(shown.into()), Level::Warn, false));
    let store = Store::at(home.path().join("log"));
    (journal, BufReader::new(screen), store, home)
}

fn say(journal: &Journal, message: &str) {
    journal.say(Level::Info, message.to_owned(), None);
}

fn records(store: &Store) -> Vec<Record> {
    let text = fs::read(store.dir().join(SERVE)).unwrap_or_default();
    text.split_inclusive(|&byte| byte == b'\n').map(|line| Record::from_line(line).unwrap()).collect()
}

/// All that the screen showed. The journal and its writer must be gone.
fn all(mut screen: BufReader<PipeReader>) -> Vec<String> {
    let mut text = String::new();
    screen.read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Waits for so many events of this kind in or of the directory or file.
struct Watch(std::os::fd::OwnedFd);

impl Watch {
    fn on(path: &Path, events: WatchFlags) -> Self {
        let watch = inotify::init(CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, path, events).unwrap();
        Watch(watch)
    }

    fn waits(&self, what: &str) {
        let limit = Timespec::try_from(PATIENCE).unwrap();
        assert_eq!(poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit)), Ok(1), "{what}");
        // One event of a file has no name: sixteen bytes.
        rustix::io::read(&self.0, &mut [0; 16]).unwrap();
    }
}

#[test]
fn what_a_service_says_is_in_its_log_while_it_goes_on() {
    let (journal, _screen, store, _home) = service();
    store.append(SERVE, b"").unwrap();
    store.make_dir().unwrap();
    fs::write(store.dir().join(SERVE), "").unwrap();
    let watch = Watch::on(&store.dir().join(SERVE), WatchFlags::CLOSE_WRITE);
    let writer = journal.write_to(Ok(store.clone()), SERVE);
    for message in ["one", "two"] {
        say(&journal, message);
        watch.waits("it was never written");
        assert_eq!(records(&store).last().unwrap().message, message);
    }
    assert!(writer.finish());
    assert_eq!(records(&store).iter().map(|record| record.seq).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_flood_up_to_the_last_moment_is_written_in_order() {
    let (journal, _screen, store, _home) = service();
    let writer = journal.write_to(Ok(store.clone()), SERVE);
    (0..1000).for_each(|n| say(&journal, &n.to_string()));
    drop(writer); // as finishing does
    let records = records(&store);
    assert_eq!(records.len(), 1000);
    let order: Vec<_> = records.iter().map(|record| record.message.parse::<u64>().unwrap()).collect();
    assert!(order.is_sorted(), "in order");
}

#[test]
fn a_log_that_cannot_be_written_is_one_warning_and_then_one_record_of_what_was_lost() {
    let (journal, screen, store, home) = service();
    fs::write(home.path().join("log"), "in the way").unwrap();
    let mut screen = screen;
    let writer = journal.write_to(Ok(store.clone()), SERVE);
    say(&journal, "first");
    let mut warning = String::new();
    screen.read_line(&mut warning).unwrap();
    assert!(warning.contains("WARN task") && warning.contains("the log cannot be written"), "{warning}");
    // Four times what a journal keeps of its host.
    let filler = "x".repeat(1000);
    let count = 4 * JOURNAL_HOST / filler.len();
    (0..count).for_each(|n| say(&journal, &format!("{n} {filler}")));
    {
        let pages = journal.pages();
        assert!(pages.host.bytes <= JOURNAL_HOST && pages.workers.bytes <= JOURNAL_WORKERS);
    }
    fs::remove_file(home.path().join("log")).unwrap();
    assert!(writer.finish());
    drop(journal);
    let records = records(&store);
    assert_eq!(records[0].message, "first", "what was to be written when the trouble began");
    let lost: Vec<_> = records.iter().filter_map(|record| record.fields.get("lost")).collect();
    assert_eq!(lost.len(), 1, "{lost:?}");
    let lost = lost[0].as_u64().unwrap();
    let kept = records.iter().filter(|record| record.message.ends_with(&filler)).count() as u64;
    // The warning itself was among the records that had no room.
    assert_eq!(kept + lost, count as u64 + 1);
    assert!(records.iter().all(|record| !record.fields.contains_key("dropped")), "told once");
    let rest = all(screen);
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert!(rest[0].contains(&format!("the log is written again; {lost} records in between were lost")));
}

#[test]
fn trying_again_warns_no_more_and_a_lock_held_for_ever_is_not_waited_for_at_the_end() {
    let (journal, screen, store, _home) = service();
    store.append(SERVE, b"{\"time\":\"2026-11-21T09:14:02Z\"}\n").unwrap();
    let path = store.dir().join(SERVE);
    let holder = fs::File::open(&path).unwrap();
    holder.lock().unwrap();
    let tries = Watch::on(&path, WatchFlags::OPEN);
    let writer = journal.write_to(Ok(store.clone()), SERVE);
    say(&journal, "first");
    for _ in 0..3 {
        tries.waits("it was never tried again");
    }
    let begin = Instant::now();
    assert!(!writer.finish());
    assert!(begin.elapsed() < LOG_FINISH + PATIENCE / 2, "{:?}", begin.elapsed());
    // The thread gives up too, once its last try has failed: then nobody holds the screen any more.
    drop(journal);
    let shown = all(screen);
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(shown[0].contains("another process holds its lock"), "{shown:?}");
}

#[test]
fn without_a_home_there_is_one_warning_and_no_log() {
    let (journal, screen, _store, _home) = service();
    let writer = journal.write_to(Err(StoreError::NoHome), SERVE);
    (0..10).for_each(|n| say(&journal, &n.to_string()));
    assert!(!writer.finish());
    drop(journal);
    let shown = all(screen);
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(shown[0].contains("there is no log") && shown[0].contains("HOME"), "{shown:?}");
}

/// What the next test runs on a disk of 256 KiB.
#[test]
fn helper_on_a_small_disk() {
    let Some(dir) = std::env::var_os("TASK_TEST_DISK") else { return };
    let (dir, (journal, mut screen, _store, _home)) = (std::path::PathBuf::from(dir), service());
    let store = Store::at(dir.join("log"));
    let writer = journal.write_to(Ok(store.clone()), SERVE);
    let ballast = dir.join("ballast");
    let filling = fs::write(&ballast, vec![b'x'; 1 << 20]);
    assert_eq!(filling.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    say(&journal, &"x".repeat(10_000));
    let mut warning = String::new();
    screen.read_line(&mut warning).unwrap();
    assert!(warning.contains("No space left on device"), "{warning}");
    (0..100).for_each(|_| say(&journal, "said while the disk was full"));
    fs::remove_file(&ballast).unwrap();
    assert!(writer.finish());
    drop(journal);
    let records = records(&store);
    assert_eq!(records.iter().filter(|r| r.message == "said while the disk was full").count(), 100);
    assert_eq!(records.last().unwrap().fields["lost"], 0);
    assert_eq!(all(screen), Vec::<String>::new(), "one warning was all");
    println!("seen on a full disk");
}

#[test]
fn a_disk_that_is_full_and_then_is_not_costs_a_warning_and_no_record_that_could_be_kept() {
    let mount = "mount -t tmpfs -o size=256k none \"$TASK_TEST_DISK\"";
    let home = tempfile::tempdir().unwrap();
    let unshared = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["-rm", "sh", "-c", script, "sh"]).env("TASK_TEST_DISK", home.path());
        command
    };
    if !unshared(mount).output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no small disk can be made here (unshare -rm, mount -t tmpfs)");
        return;
    }
    let helper = "journal::writer::tests::helper_on_a_small_disk";
    let ended = unshared(&format!("{mount} && exec \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args([helper, "--exact", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success() && said.contains("seen on a full disk"), "{said}{ended:?}");
}
