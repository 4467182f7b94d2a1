//! Reading a descriptor that others share: block by block, on a thread of its own, until its end, its idle limit
//! or the cancellation of those who wait.
//!
//! No flag of the descriptor is changed and no offset moved: `O_NONBLOCK` and the offset belong to the open file,
//! which is the shell's as much as ours. So a regular file is read by `pread`, and for all else `poll` says, beside
//! the eventfd of the cancellation, when there is something to read. Another reader may take it first, so that pipes
//! and sockets are then read in ways that do not wait.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::FileType;
use rustix::io::{Errno, ReadWriteFlags};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use task_proto::fault::{Fault, FaultKind};
use task_proto::limits::{COMPUTING, INPUT_BLOCK, TICK};
use task_proto::wire::Attachment;

use super::pool::Pool;
use super::shared::{Work, lock};

/// Runs the work on a thread of its own, as soon as there is one for this process.
pub(super) fn run<T: Send + Sync + 'static>(
    readers: &Pool,
    process: i32,
    mut job: Work<T>,
    read: impl FnOnce(&Work<T>) -> Result<T, Fault> + Send + 'static,
) {
    // A suspect has no turn while it waits in line.
    job.pause();
    readers.run(process, job.cancelled(), move || {
        // Not before: each that waits in line would have a descriptor.
        let wake = eventfd(0, EventfdFlags::CLOEXEC)
            .map_err(|error| Fault::new(FaultKind::Internal, format!("cannot make an eventfd: {error}")));
        let outcome = wake.and_then(|wake| {
            job.work_for(process, wake);
            job.checkpoint()?;
            job.compute();
            read(&job)
        });
        job.finish(outcome);
    });
}

/// How many processors there are, counted once: the files that tell of a cgroup's share are closed later.
static CORES: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));

pub(super) fn cores() -> usize {
    *CORES
}

/// Processors that readers take turns for. Hundreds of readers that computed at once would keep the I/O loop and the
/// computing calls waiting for so long that they seemed to hang.
#[derive(Debug)]
struct Cores {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Cores {
    fn new(free: usize) -> Self {
        Cores { free: Mutex::new(free), freed: Condvar::new() }
    }

    /// Waits for one. In no order: handed on from one to the next, each would wait for a sleeper to wake.
    fn take(self: Arc<Self>) -> Taken {
        let free = self.freed.wait_while(lock(&self.free), |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        Taken(self)
    }
}

/// One of them, in use.
#[derive(Debug)]
struct Taken(Arc<Cores>);

impl Drop for Taken {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.freed.notify_one();
    }
}

/// Those that all readers share: as many as all calls compute on.
static ALL: LazyLock<Arc<Cores>> = LazyLock::new(|| Arc::new(Cores::new(COMPUTING * cores())));

/// Those of each process that has readers which compute or wait to: so many that some of all are left to others.
static SHARES: Mutex<BTreeMap<i32, Arc<Cores>>> = Mutex::new(BTreeMap::new());

/// The right of a reader to compute.
#[derive(Debug)]
pub(super) struct Core {
    _of_all: Taken,
    _of_process: Taken,
}

impl Core {
    /// Waits until this process has one, and then for one of all: as everybody does so in this order, and waits for
    /// nothing else with one of them, somebody can always go on.
    pub(super) fn take(process: i32) -> Self {
        let share = {
            let mut shares = lock(&SHARES);
            if !shares.contains_key(&process) {
                shares.retain(|_, share| Arc::strong_count(share) > 1);
            }
            Arc::clone(shares.entry(process).or_insert_with(|| Arc::new(Cores::new(cores()))))
        };
        let of_process = share.take();
        Core { _of_all: Arc::clone(&ALL).take(), _of_process: of_process }
    }
}

/// How an input is read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A regular file, from this offset, of this size in bytes: it can be read again.
    File { offset: u64, size: u64 },
    /// Anything else, of this type: what is read is gone.
    Stream(FileType),
}

/// What the descriptor is.
///
/// # Errors
/// `Unreadable`.
pub(super) fn kind(input: &Attachment) -> Result<Kind, Fault> {
    let stat = rustix::fs::fstat(input).map_err(unreadable)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let offset = rustix::fs::tell(input).map_err(unreadable)?;
            Ok(Kind::File { offset, size: stat.st_size as u64 })
        }
        FileType::Directory => Err(Fault::new(FaultKind::Unreadable, "the input is a directory")),
        other => Ok(Kind::Stream(other)),
    }
}

/// Reads a regular file from the offset to its end, and hands over its blocks.
///
/// # Errors
/// `Unreadable`, `Cancelled`, or what `take` answers.
pub(super) fn read_file<T>(
    input: &Attachment,
    mut offset: u64,
    job: &Work<T>,
    mut take: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut buffer = vec![0; INPUT_BLOCK];
    loop {
        job.checkpoint()?;
        // A disk may be slow, and a file system on a network gone: neither is the call's fault.
        match job.waiting(|| rustix::io::pread(input, &mut buffer, offset)) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                offset += length as u64;
                job.read(length);
                take(&buffer[..length])?;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
}

/// Reads anything else to its end, and hands over its blocks. `claim` is called before the first byte is taken,
/// and may refuse.
///
/// # Errors
/// `Unreadable`, `InputIdle`, `Cancelled`, or what `claim` or `take` answers.
pub(super) fn read_stream<T>(
    input: &Attachment,
    file_type: FileType,
    idle: Option<Duration>,
    job: &Work<T>,
    claim: impl FnOnce() -> Result<(), Fault>,
    mut take: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut buffer = vec![0; INPUT_BLOCK];
    let mut claim = Some(claim);
    let mut took = Instant::now();
    let mut bridge = None;
    loop {
        let read = job.waiting(|| {
            wait(input.as_fd(), idle, took, job)?;
            if let Some(claim) = claim.take() {
                claim()?;
                job.begin_consuming()?;
            }
            Ok(read_now(input, file_type, &mut buffer, &mut bridge))
        })?;
        match read {
            Ok(0) => return Ok(()),
            Ok(length) => {
                job.consumed(length);
                job.read(length);
                take(&buffer[..length])?;
                took = Instant::now();
            }
            // Somebody else who has the same pipe was faster.
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
}

/// A pipe of ours.
type Bridge = (OwnedFd, OwnedFd);

/// Reads after a `poll`, and answers `AGAIN` where a plain read would wait, because another reader was faster.
/// Linux has no such read for a FIFO with a name, but moves its bytes into a pipe of ours without waiting.
fn read_now(
    input: impl AsFd + Copy,
    file_type: FileType,
    buffer: &mut [u8],
    bridge: &mut Option<Bridge>,
) -> Result<usize, Errno> {
    if matches!(file_type, FileType::Fifo | FileType::Socket) {
        let slice = &mut [IoSliceMut::new(buffer)];
        match rustix::io::preadv2(input, slice, u64::MAX, ReadWriteFlags::NOWAIT) {
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::SPIPE | Errno::NOSYS) => {}
            outcome => return outcome,
        }
    }
    if file_type != FileType::Fifo {
        return rustix::io::read(input, buffer);
    }
    let bridge = match bridge {
        Some(bridge) => bridge,
        None => bridge.insert(pipe_with(PipeFlags::CLOEXEC)?),
    };
    match splice(input, None, &bridge.1, None, buffer.len(), SpliceFlags::NONBLOCK)? {
        0 => Ok(0),
        // A pipe gives all it has in one read.
        _ => rustix::io::read(&bridge.0, buffer),
    }
}

/// Waits until a read has something to say: bytes, the end, or an error. The last byte was taken at `took`.
fn wait<T>(input: BorrowedFd<'_>, idle: Option<Duration>, took: Instant, job: &Work<T>) -> Result<(), Fault> {
    loop {
        job.checkpoint()?;
        let left = idle.map_or(TICK, |idle| idle.saturating_sub(took.elapsed()).min(TICK));
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut waiting = vec![PollFd::from_borrowed_fd(input, PollFlags::IN)];
        waiting.extend(job.wake().map(|wake| PollFd::from_borrowed_fd(wake, PollFlags::IN)));
        match poll(&mut waiting, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(unreadable(error)),
        }
        job.checkpoint()?;
        if !waiting[0].revents().is_empty() {
            return Ok(());
        }
        if let Some(idle) = idle
            && took.elapsed() >= idle
        {
            let message = format!("no byte of input came for {idle:?}, which is the limit");
            return Err(Fault::new(FaultKind::InputIdle, message));
        }
    }
}

pub(super) fn unreadable(error: Errno) -> Fault {
    let error = std::io::Error::from(error);
    Fault::new(FaultKind::Unreadable, format!("the input cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rustix::fs::{CWD, Mode, OFlags, mknodat, open};

    use super::*;

    /// Who waits for a core with others at hand keeps out who needs all.
    static SEVERAL: Mutex<()> = Mutex::new(());

    #[test]
    fn readers_that_compute_leave_other_processes_their_processors() {
        let _alone = lock(&SEVERAL);
        let all: Vec<_> = (0..cores()).map(|_| Core::take(-1)).collect();
        drop(Core::take(-2));
        let waiting = thread::spawn(|| drop(Core::take(-1)));
        drop(all);
        waiting.join().unwrap();
        drop(Core::take(-3));
        assert!(!lock(&SHARES).contains_key(&-1), "what nobody uses is not kept");
    }

    #[test]
    fn the_readers_of_many_processes_compute_no_more_at_once_than_those_of_some() {
        let _alone = lock(&SEVERAL);
        // None of these is that of another test.
        let processes = i32::MIN..i32::MIN + 10 * COMPUTING as i32;
        let (all, begun, go) =
            (COMPUTING * cores(), mpsc::channel(), Arc::new((Mutex::new(false), Condvar::new())));
        let readers: Vec<_> = processes
            .clone()
            .flat_map(|process| (0..cores()).map(move |_| process))
            .map(|process| {
                let (begun, go) = (begun.0.clone(), Arc::clone(&go));
                thread::spawn(move || {
                    let core = Core::take(process);
                    begun.send(()).unwrap();
                    drop(go.1.wait_while(lock(&go.0), |go| !*go).unwrap());
                    drop(core);
                })
            })
            .collect();
        for _ in 0..all {
            begun.1.recv_timeout(Duration::from_secs(20)).expect("fewer than there may be");
        }
        assert!(begun.1.recv_timeout(Duration::from_millis(50)).is_err(), "more than there may be");
        *lock(&go.0) = true;
        go.1.notify_all();
        for reader in readers {
            reader.join().unwrap();
        }
    }

    #[test]
    fn bytes_that_another_reader_took_are_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let fifo = open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let (pipe, pipe_writer) = std::io::pipe().unwrap();
        let (socket, socket_writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let inputs = [
            (FileType::Fifo, fifo.try_clone().unwrap(), fifo),
            (FileType::Fifo, pipe.into(), pipe_writer.into()),
            (FileType::Socket, socket.into(), socket_writer.into()),
        ];
        for (file_type, input, writer) in inputs {
            let (send, receive) = mpsc::channel();
            // A thread, because a read that waits would do so for ever.
            let reading = thread::spawn(move || {
                let mut bridge = None;
                let mut buffer = [0; 8];
                let mut read = || read_now(&input, file_type, &mut buffer, &mut bridge);
                send.send(read()).unwrap();
                rustix::io::write(&writer, b"12").unwrap();
                send.send(read()).unwrap();
                assert_eq!(&buffer[..2], b"12");
            });
            let next = || receive.recv_timeout(Duration::from_secs(20)).expect("it waits in a read");
            assert_eq!((next(), next()), (Err(Errno::AGAIN), Ok(2)), "{file_type:?}");
            reading.join().unwrap();
        }
    }
}
