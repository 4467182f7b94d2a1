//! Reads the logs on from where they were read to, as they grow, whatever is rotated, restarted or made meanwhile.
//!
//! The directory is watched before the first read, and every read goes by the files themselves: an event says only
//! that it is time to look. So nothing that happens between the two is missed, and nothing comes twice.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use task_proto::limits::LOG_RECORD;

use crate::record::Record;
use crate::store::{Log, LogFile, Store, StoreError};

/// Follows logs as they grow.
#[derive(Debug)]
pub struct Follower {
    store: Store,
    watch: OwnedFd,
    logs: Vec<Place>,
}

/// How far a log is read.
#[derive(Debug)]
struct Place {
    name: &'static str,
    /// The file that is being read; none as long as there was none.
    file: Option<LogFile>,
    /// Its bytes that are read.
    read: u64,
    /// They end within a line that is too long for a record.
    too_long: bool,
}

/// What has come.
#[derive(Debug, Default)]
pub struct News {
    /// The records and their lines, without newlines, by time.
    pub records: Vec<(Record, Vec<u8>)>,
    /// Lines that are no records.
    pub broken: u64,
    /// Files were rotated away before they were read.
    pub lost: bool,
    /// There was nothing.
    pub none: bool,
}

impl Follower {
    /// Watches the directory of the store, which is made if need be.
    pub fn watch(store: &Store) -> Result<Self, StoreError> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        let follower = Follower {
            store: store.clone(),
            watch: watch.map_err(|error| cannot_watch(store, error))?,
            logs: Vec::new(),
        };
        follower.look_on()?;
        Ok(follower)
    }

    /// Goes on where these logs, opened after the watch began, were read to: at the ends they had then.
    pub fn go_on_from(&mut self, logs: Vec<Log>) {
        let place = |Log { name, files }| {
            let file: Option<LogFile> = files.into_iter().next();
            let read = file.as_ref().map_or(0, |file| file.length);
            Place { name, file, read, too_long: false }
        };
        self.logs = logs.into_iter().map(place).collect();
    }

    /// What has come since: at most a megabyte of each log, so ask again until there is nothing.
    pub fn news(&mut self) -> Result<News, StoreError> {
        let mut news = News { none: true, ..News::default() };
        for place in &mut self.logs {
            place.read(&self.store, &mut news)?;
        }
        news.records.sort_by_key(|(record, _)| record.time);
        Ok(news)
    }

    /// Waits until there may be news. False when nobody reads this output any more.
    pub fn wait(&self, output: impl AsFd) -> Result<bool, StoreError> {
        let mut ready = [PollFd::new(&self.watch, PollFlags::IN), PollFd::new(&output, PollFlags::empty())];
        match poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(cannot_watch(&self.store, error)),
        }
        if ready[1].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return Ok(false);
        }
        let mut events = [0_u8; 4096];
        while rustix::io::read(&self.watch, &mut events).is_ok_and(|length| length > 0) {}
        self.look_on()?;
        Ok(true)
    }

    /// A directory that was removed or renamed is another one when it comes back; one that is watched stays so.
    fn look_on(&self) -> Result<(), StoreError> {
        self.store.make_dir()?;
        // Writers open and close the file for each write. The end of a directory is told once its files are closed, so
        // theirs must be told before.
        let events = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::MOVE_SELF
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        let watched = inotify::add_watch(&self.watch, self.store.dir(), events);
        watched.map(drop).map_err(|error| cannot_watch(&self.store, error))
    }
}

impl Place {
    fn read(&mut self, store: &Store, news: &mut News) -> Result<(), StoreError> {
        loop {
            let Some(file) = &self.file else {
                match store.open(self.name)?.files.pop() {
                    Some(oldest) => self.begin(oldest),
                    None => return Ok(()),
                }
                continue;
            };
            let length = file.length_now().map_err(StoreError::Read)?;
            if length < self.read {
                self.read = 0; // somebody emptied it
            }
            let taken = self.take(length, news).map_err(StoreError::Read)?;
            if taken {
                news.none = false;
                return Ok(());
            }
            if !self.pass_on(store, news)? {
                return Ok(());
            }
        }
    }

    /// Takes the whole lines of the next block; whether it came any further.
    fn take(&mut self, length: u64, news: &mut News) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let mut block = vec![0; length.saturating_sub(self.read).min(LOG_RECORD as u64) as usize];
        file.file.read_exact_at(&mut block, self.read)?;
        let whole = match block.iter().rposition(|&byte| byte == b'\n') {
            Some(newline) => &block[..=newline],
            None if block.len() == LOG_RECORD => {
                self.read += block.len() as u64;
                self.too_long = true;
                return Ok(true);
            }
            None => return Ok(false),
        };
        self.read += whole.len() as u64;
        for line in whole.split_inclusive(|&byte| byte == b'\n').map(|line| &line[..line.len() - 1]) {
            match Record::from_line(line) {
                _ if std::mem::take(&mut self.too_long) => news.broken += 1,
                Ok(record) => news.records.push((record, line.to_vec())),
                Err(_) => news.broken += u64::from(!line.is_empty()),
            }
        }
        Ok(true)
    }

    /// Once the file is read to its end and will not grow: goes on to the next younger one. False when there is none.
    fn pass_on(&mut self, store: &Store, news: &mut News) -> Result<bool, StoreError> {
        let Some(file) = &self.file else { return Ok(false) };
        if store.is_current(file, self.name)? {
            return Ok(false);
        }
        let mut files = store.open(self.name)?.files;
        let next = match files.iter().position(|other| other.is(file)) {
            Some(0) => return Ok(false),
            Some(ours) => {
                // What came between the last read and the rotation. A last line without an end stays so.
                let length = files[ours].length;
                if self.take(length, news).map_err(StoreError::Read)? {
                    news.none = false;
                    return Ok(true);
                }
                news.broken += u64::from(self.read < length);
                files.swap_remove(ours - 1)
            }
            None => {
                // Removed by somebody, or rotated away, and then others with it.
                let Some(oldest) = files.pop() else {
                    self.file = None;
                    return Ok(false);
                };
                news.lost = true;
                oldest
            }
        };
        self.begin(next);
        Ok(true)
    }

    fn begin(&mut self, file: LogFile) {
        (self.file, self.read, self.too_long) = (Some(file), 0, false);
    }
}

fn cannot_watch(store: &Store, error: Errno) -> StoreError {
    StoreError::Io { doing: "watch", path: store.dir().to_owned(), cause: error.into() }
}

#[cfg(test)]
mod tests;
