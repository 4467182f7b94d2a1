//! The log files: `$XDG_STATE_HOME/task/log/runs.jsonl`, to which every one-shot run appends its records at its end, and
//! the older files it was rotated to, `runs.jsonl.1` (the younger) and on.
//!
//! Any number of runs may write at once. A writer holds the lock of the file it writes to; whoever finds, with the lock
//! in hand, that the name has passed on to another file, opens that one. Only the holder of the current file's lock
//! rotates.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use task_proto::limits::{LOG_FILE, LOG_FILES, LOG_LOCK, LOG_LOCK_RETRY};

use crate::backward::Backward;

/// The log of one-shot runs.
pub const RUNS: &str = "runs.jsonl";

/// The directory of the log files.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no place for it.
    #[error("no place for the log: neither XDG_STATE_HOME nor HOME is an absolute path")]
    NoHome,
    /// Reading failed midway.
    #[error("cannot read the log: {0}")]
    Read(io::Error),
    /// A call to the system failed.
    #[error("cannot {doing} {}: {cause}", path.display())]
    Io {
        /// What was to be done, as in "cannot write".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
}

impl Store {
    /// The user's log: `$XDG_STATE_HOME/task/log`, by default `~/.local/state/task/log`. Nothing is made yet.
    pub fn locate() -> Result<Self, StoreError> {
        Store::under(std::env::var_os("XDG_STATE_HOME"), std::env::var_os("HOME"))
    }

    fn under(state: Option<OsString>, home: Option<OsString>) -> Result<Self, StoreError> {
        let absolute = |path: Option<OsString>| path.map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute(state).or_else(|| absolute(home).map(|home| home.join(".local/state")));
        Ok(Store { dir: state.ok_or(StoreError::NoHome)?.join("task/log") })
    }

    /// A log in this directory.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Store { dir: dir.into() }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Appends whole lines to the file of this name in one write, so that they stay together; rotates it first if it
    /// would grow beyond [`LOG_FILE`]. All or nothing is written.
    pub fn append(&self, name: &str, lines: &[u8]) -> Result<(), StoreError> {
        if lines.is_empty() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(fault("make", &self.dir))?;
        let path = self.dir.join(name);
        loop {
            let file = open_to_write(&path).map_err(fault("open", &path))?;
            lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(fault("lock", &path))?;
            if !is_current(&file, &path).map_err(fault("look at", &path))? {
                continue; // rotated while we waited
            }
            let length = file.metadata().map_err(fault("look at", &path))?.len();
            if length > 0 && length + lines.len() as u64 > LOG_FILE {
                rotate(&path).map_err(fault("rotate", &path))?;
                continue;
            }
            return write_all_or_nothing(file, length, lines).map_err(fault("write", &path));
        }
    }

    /// Opens the file of this name and those it was rotated to, youngest first, to be read from their ends.
    pub fn backward(&self, name: &str) -> Result<Vec<Backward>, StoreError> {
        let current = self.dir.join(name);
        let mut files: Vec<Backward> = Vec::new();
        let mut seen = Vec::new();
        // Rotation gives files higher numbers: going up, one may come twice but none is missed.
        for path in (0..LOG_FILES).map(|number| numbered(&current, number)) {
            let file = match open_to_read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.map_err(fault("open", &path))?,
            };
            // A moment without a writer, so that no line is half there. A writer that is stuck is not waited out.
            let _ = lock(&file, FlockOperation::NonBlockingLockShared);
            let stat = file.metadata().map_err(fault("look at", &path))?;
            let _ = flock(&file, FlockOperation::Unlock);
            if !seen.contains(&(stat.dev(), stat.ino())) {
                seen.push((stat.dev(), stat.ino()));
                files.push(Backward::new(file, stat.len()));
            }
        }
        Ok(files)
    }
}

/// Neither follows a link nor waits for the reader of a FIFO that somebody put in its place.
fn open_to_write(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    regular(
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(flags).open(path)?,
    )
}

fn open_to_read(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    regular(OpenOptions::new().read(true).custom_flags(flags).open(path)?)
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// Takes the lock, or fails after [`LOG_LOCK`].
fn lock(file: &File, operation: FlockOperation) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if begin.elapsed() < LOG_LOCK => std::thread::sleep(LOG_LOCK_RETRY),
            Err(Errno::AGAIN) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another process holds its lock"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_current(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Passes each file on to the next number, from the first free number down, so that a rotation that was cut short
/// costs no file; the oldest goes. The current file's name goes last: until then nobody else can rotate.
fn rotate(current: &Path) -> io::Result<()> {
    let last = LOG_FILES - 1;
    let free =
        (1..last).find(|&number| fs::symlink_metadata(numbered(current, number)).is_err()).unwrap_or(last);
    (0..free)
        .rev()
        .try_for_each(|number| fs::rename(numbered(current, number), numbered(current, number + 1)))
}

fn numbered(current: &Path, number: u32) -> PathBuf {
    let mut path = current.as_os_str().to_owned();
    if number > 0 {
        path.push(format!(".{number}"));
    }
    path.into()
}

fn write_all_or_nothing(mut file: File, length: u64, lines: &[u8]) -> io::Result<()> {
    // A writer that was killed within its write may have left a line without an end.
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    let mended = if last == [b'\n'] { None } else { Some([b"\n", lines].concat()) };
    file.write_all(mended.as_deref().unwrap_or(lines)).inspect_err(|_| {
        let _ = file.set_len(length); // a full disk took a part
    })
}

fn fault(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |cause| StoreError::Io { doing, path: path.to_owned(), cause }
}

#[cfg(test)]
mod tests {
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
        let found = Query::default().last(count, store.backward(RUNS).unwrap()).unwrap();
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
                assert!(
                    run == last || !runs.contains_key(&run),
                    "the records of {run} do not stand together"
                );
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
        let found = Query::default().last(5, store.backward(RUNS).unwrap()).unwrap();
        assert_eq!((found.lines.len(), found.broken), (5, 0));
        let all = Query::default().last(usize::MAX, store.backward(RUNS).unwrap()).unwrap();
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
        assert_eq!(Query::default().last(9, store.backward(RUNS).unwrap()).unwrap().broken, 1);
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
        assert!(store.append(RUNS, b"{}\n").is_err() && store.backward(RUNS).is_err());
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
            assert!(store.backward(RUNS).unwrap().is_empty(), "an absent log is empty");
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
        assert_eq!(
            fs::read_to_string(store.dir().join(RUNS)).unwrap(),
            line(1, "a", "1") + &line(3, "c", "3")
        );
    }
}
