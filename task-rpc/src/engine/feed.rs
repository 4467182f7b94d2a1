//! An input as the threads that work on it see it: chunk by chunk, each of whole tokens or values, to whoever asks for
//! the next one. So one thread reads ahead while the others work, and a pipe is read as a file is.
//!
//! No flag of the descriptor is changed and no offset moved: `O_NONBLOCK` and the offset belong to the open file,
//! which is the shell's as much as ours. So a regular file is read by `pread`, and for all else `poll` says, beside
//! the eventfd of the cancellation, when there is something to read. Another reader may take it first, so that pipes
//! and sockets are then read in ways that do not wait.
//!
//! What stands in a pipe is moved, whole pages at a time, to a pipe of ours: its writer goes on while we copy, where it
//! would wait for the lock, and is woken once for all of it. `cat FILE | task` takes 4 to 5 % less time.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use task_proto::fault::{Fault, FaultKind};
use task_proto::limits::{INPUT_BLOCK, PIPE, TICK, TOKEN};
use task_proto::wire::Attachment;

use super::npy::{self, Header};
use super::team::{Hand, Team, lock};

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

/// Reads the npy header of a regular file that begins at this offset. It may wait for the disk.
///
/// # Errors
/// `Malformed`, `Unreadable`.
pub(super) fn header(input: &Attachment, offset: u64) -> Result<Header, Fault> {
    let mut head = vec![0; npy::MOST];
    let mut length = 0;
    loop {
        match rustix::io::pread(input, &mut head[length..], offset + length as u64) {
            Ok(0) => return Err(Header::cut_off(&head[..length])),
            Ok(more) => length += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(unreadable(error)),
        }
        if let Some(header) = Header::parse(&head[..length])? {
            return Ok(header);
        }
    }
}

/// Bytes that a new pipe holds, of whoever has not too many.
const NEW_PIPE: usize = 64 * 1024;
/// Bytes of a token, or of a header, whose rest is yet to come: more than either may have.
const BEGUN: usize = TOKEN + 1024;

/// One input, from where it stands to its end.
pub(super) struct Feed<'a, B, C> {
    input: &'a Attachment,
    kind: Kind,
    idle: Option<Duration>,
    /// How many of these bytes are whole tokens or values.
    whole: B,
    /// Called before the first byte is taken of what cannot be read again; it may refuse.
    claim: C,
    /// Set when nobody wants more.
    stopped: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Of the next byte.
    offset: u64,
    /// Bytes so far of a token or value whose rest is yet to be read.
    begun: Vec<u8>,
    /// What was handed out.
    chunks: usize,
    handed: u64,
    claimed: bool,
    ended: bool,
    took: Instant,
    /// Of a pipe, once it was ready.
    bridge: Option<Bridge>,
}

impl State {
    /// Takes note of bytes that were read.
    fn take(&mut self, team: &Team, length: usize) -> usize {
        self.offset += length as u64;
        team.read(length);
        length
    }
}

/// A pipe of ours, with what was taken out of the input and is yet to be read.
#[derive(Debug)]
struct Bridge {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes that it may hold: enlarged for whoever sends as many, for a user's pipes share a quota.
    room: usize,
    held: usize,
}

/// Room for a chunk, of which each thread has its own.
#[derive(Debug)]
pub(super) struct Room(Vec<u8>);

impl Default for Room {
    fn default() -> Self {
        // What was begun, and one read.
        Room(vec![0; BEGUN + INPUT_BLOCK])
    }
}

/// Bytes of whole tokens or values, but for the last chunk: what is begun there has no end.
#[derive(Debug)]
pub(super) struct Chunk<'a> {
    /// Which one it is, from 0.
    pub(super) index: usize,
    /// How many bytes of the input come before it.
    pub(super) before: u64,
    pub(super) bytes: &'a [u8],
}

impl Chunk<'_> {
    /// How many bytes of the input come before what follows it.
    pub(super) fn end(&self) -> u64 {
        self.before + self.bytes.len() as u64
    }
}

impl<'a, B: Fn(&[u8]) -> usize + Sync, C: Fn() -> Result<(), Fault> + Sync> Feed<'a, B, C> {
    /// `whole` says how many bytes of a chunk are whole tokens or values; at most [`BEGUN`] others may follow them.
    pub(super) fn new(input: &'a Attachment, kind: Kind, idle: Option<Duration>, whole: B, claim: C) -> Self {
        let offset = match kind {
            Kind::File { offset, .. } => offset,
            Kind::Stream(_) => 0,
        };
        let (took, begun) = (Instant::now(), Vec::new());
        let state =
            State { offset, begun, chunks: 0, handed: 0, claimed: false, ended: false, took, bridge: None };
        Feed { input, kind, idle, whole, claim, stopped: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// The next chunk; `None` at the end, or once nobody wants more. It waits without a processor.
    ///
    /// # Errors
    /// `Unreadable`, `InputIdle`, `InputConsumed`, `Cancelled`.
    pub(super) fn next<'r>(&self, hand: &mut Hand, room: &'r mut Room) -> Result<Option<Chunk<'r>>, Fault> {
        let team = Arc::clone(hand.team());
        // A disk may be slow, and a file system on a network gone: neither is the call's fault.
        let read = hand.waiting(|| self.read(&team, &mut room.0)).inspect_err(|_| self.stop(&team))?;
        Ok(read.map(|(index, before, length)| Chunk { index, before, bytes: &room.0[..length] }))
    }

    /// Says that nobody wants more.
    pub(super) fn stop(&self, team: &Team) {
        self.stopped.store(true, Relaxed);
        team.wake_up();
    }

    /// How many bytes of a file are not there that were when its reading began, once all of it has been read.
    pub(super) fn lacks(&self) -> u64 {
        let state = lock(&self.state);
        match self.kind {
            Kind::File { size, .. } if state.ended => size.saturating_sub(state.offset),
            _ => 0,
        }
    }

    fn read(&self, team: &Team, room: &mut [u8]) -> Result<Option<(usize, u64, usize)>, Fault> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let mut filled = state.begun.len();
        room[..filled].copy_from_slice(&state.begun);
        while !state.ended && !self.stopped.load(Relaxed) {
            team.checkpoint()?;
            let room_left = &mut room[filled..filled + INPUT_BLOCK];
            let Some(length) = self.read_once(state, team, room_left)? else { continue };
            filled += length;
            state.ended = length == 0;
            let whole = match (self.whole)(&room[..filled]) {
                // A token longer than any may be: whoever gets it will say so.
                0 if filled > BEGUN => filled,
                whole => whole,
            };
            if whole == 0 && !state.ended {
                continue;
            }
            let end = if state.ended { filled } else { whole };
            state.begun.clear();
            state.begun.extend(&room[end..filled]);
            if end == 0 {
                return Ok(None);
            }
            let handed = (state.chunks, state.handed, end);
            state.chunks += 1;
            state.handed += end as u64;
            return Ok(Some(handed));
        }
        Ok(None)
    }

    /// One read; `None` if it is to be tried again.
    fn read_once(&self, state: &mut State, team: &Team, room: &mut [u8]) -> Result<Option<usize>, Fault> {
        let read = match (self.kind, &mut state.bridge) {
            (Kind::File { .. }, _) => rustix::io::pread(self.input, room, state.offset),
            (Kind::Stream(_), Some(bridge)) if bridge.held > 0 => {
                return bridge.read(room).map(|length| Some(state.take(team, length)));
            }
            (Kind::Stream(file_type), bridge) => {
                if !self.wait(state.took, team)? {
                    return Ok(None);
                }
                let is_pipe = file_type == FileType::Fifo;
                // Where there is no descriptor for one, nothing has been touched.
                if is_pipe && bridge.is_none() {
                    *bridge = Some(Bridge::new().map_err(unreadable)?);
                }
                if !state.claimed {
                    (self.claim)()?;
                    team.begin_consuming()?;
                    state.claimed = true;
                }
                let taken = match bridge {
                    Some(filled) => {
                        let taken = filled.fill(self.input);
                        if taken == Err(Errno::AGAIN) {
                            // Before Linux 6.15 it may be full of nothing: of what writers failed to write.
                            *bridge = None;
                        }
                        taken
                    }
                    None => read_now(self.input, file_type, room),
                };
                if let Ok(length @ 1..) = taken {
                    team.consumed(length);
                    state.took = Instant::now();
                    if is_pipe {
                        return Ok(None);
                    }
                }
                taken
            }
        };
        match read {
            Ok(length) => Ok(Some(state.take(team, length))),
            // Somebody else who has the same pipe was faster.
            Err(Errno::INTR | Errno::AGAIN) => Ok(None),
            Err(error) => Err(unreadable(error)),
        }
    }

    /// Waits until a read has something to say: bytes, the end, or an error; false if something else is to be looked at.
    /// The last byte was taken at `took`.
    fn wait(&self, took: Instant, team: &Team) -> Result<bool, Fault> {
        let left = self.idle.map_or(TICK, |idle| idle.saturating_sub(took.elapsed()).min(TICK));
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let wake = team.wake();
        let mut waiting = vec![PollFd::from_borrowed_fd(self.input.as_fd(), PollFlags::IN)];
        waiting.extend(wake.as_ref().map(|wake| PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN)));
        match poll(&mut waiting, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(unreadable(error)),
        }
        let ready = !waiting[0].revents().is_empty();
        team.checkpoint()?;
        if let Some(idle) = self.idle
            && !ready
            && took.elapsed() >= idle
        {
            let message = format!("no byte of input came for {idle:?}, which is the limit");
            return Err(Fault::new(FaultKind::InputIdle, message));
        }
        Ok(ready && !self.stopped.load(Relaxed))
    }
}

impl Bridge {
    fn new() -> Result<Self, Errno> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Bridge { read, write, room: NEW_PIPE, held: 0 })
    }

    /// Moves what a pipe holds to this one after a `poll`, and answers `AGAIN` where a plain read would wait, because
    /// another reader was faster.
    fn fill(&mut self, pipe: impl AsFd) -> Result<usize, Errno> {
        self.held = splice(pipe, None, &self.write, None, self.room, SpliceFlags::NONBLOCK)?;
        if self.held == self.room && self.room < PIPE {
            // Only for the next time. Whoever has more pipes than may be large keeps this one.
            let enlarged = fcntl_setpipe_size(&self.write, PIPE);
            self.room = if enlarged.is_ok() { PIPE } else { self.room };
        }
        Ok(self.held)
    }

    /// # Errors
    /// `Unreadable`: of a packet (`O_DIRECT`) the kernel drops what a read has no room for.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        match retry_on_intr(|| rustix::io::read(&self.read, &mut *buffer)) {
            Ok(length @ 1..) => {
                self.held -= length;
                Ok(length)
            }
            Err(error) if error != Errno::AGAIN => Err(unreadable(error)),
            _ => {
                let message =
                    format!("{} bytes of the pipe were lost: they came in packets (O_DIRECT)", self.held);
                Err(Fault::new(FaultKind::Unreadable, message))
            }
        }
    }
}

/// Reads what is no pipe after a `poll`; of a socket it answers `AGAIN` likewise.
fn read_now(input: impl AsFd + Copy, file_type: FileType, buffer: &mut [u8]) -> Result<usize, Errno> {
    if file_type == FileType::Socket {
        let slice = &mut [IoSliceMut::new(buffer)];
        match rustix::io::preadv2(input, slice, u64::MAX, ReadWriteFlags::NOWAIT) {
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::SPIPE | Errno::NOSYS) => {}
            outcome => return outcome,
        }
    }
    rustix::io::read(input, buffer)
}

pub(super) fn unreadable(error: Errno) -> Fault {
    let error = std::io::Error::from(error);
    Fault::new(FaultKind::Unreadable, format!("the input cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use rustix::fs::{CWD, Mode, OFlags, mknodat, open};

    use super::*;

    type Taken = Vec<(usize, u64, Vec<u8>)>;

    /// All chunks of an input, cut behind each newline.
    fn chunks(input: impl Into<OwnedFd>) -> Result<Taken, Fault> {
        let input = Attachment::from(input.into());
        let kind = kind(&input)?;
        let whole = |bytes: &[u8]| bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let feed = Feed::new(&input, kind, None, whole, || Ok(()));
        let team = Arc::new(Team::default());
        let call = team.join(|_| true).unwrap();
        let (mut hand, mut room, mut taken) = (Hand::new(&team), Room::default(), Vec::new());
        while let Some(chunk) = feed.next(&mut hand, &mut room)? {
            taken.push((chunk.index, chunk.before, chunk.bytes.to_vec()));
        }
        team.leave(call, || false);
        Ok(taken)
    }

    fn file(bytes: &[u8]) -> OwnedFd {
        let file = tempfile::tempfile().unwrap();
        rustix::io::pwrite(&file, bytes, 0).unwrap();
        file.into()
    }

    #[test]
    fn chunks_are_whole_and_together_the_input() {
        let line = b"0123456789abcdef\n";
        for lines in [0, 1, INPUT_BLOCK / line.len(), 3 * INPUT_BLOCK / line.len() + 5] {
            for end in [&b""[..], b"unended"] {
                let text = [line.repeat(lines), end.to_vec()].concat();
                let (read, mut write) = std::io::pipe().unwrap();
                // Full, it is more than one read.
                fcntl_setpipe_size(&write, PIPE).unwrap();
                let piped = text.clone();
                let writing = thread::spawn(move || std::io::Write::write_all(&mut write, &piped).unwrap());
                for input in [file(&text), read.into()] {
                    let taken = chunks(input).unwrap();
                    let mut before = 0;
                    for (index, chunk) in taken.iter().enumerate() {
                        assert_eq!((chunk.0, chunk.1), (index, before));
                        before += chunk.2.len() as u64;
                        assert!(chunk.2.ends_with(b"\n") || chunk.2.ends_with(b"unended"));
                    }
                    assert_eq!(taken.concat_bytes(), text);
                }
                writing.join().unwrap();
            }
        }
    }

    trait ConcatBytes {
        fn concat_bytes(&self) -> Vec<u8>;
    }

    impl ConcatBytes for Taken {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|(_, _, bytes)| bytes.clone()).collect()
        }
    }

    #[test]
    fn a_token_longer_than_any_may_be_is_handed_out_as_it_is() {
        let taken = chunks(file(&vec![b'1'; 3 * TOKEN])).unwrap();
        assert!(taken[0].2.len() > TOKEN);
    }

    #[test]
    fn many_threads_take_each_chunk_once_and_one_reads_while_others_work() {
        let text = b"12345678\n".repeat(400_000);
        let input = Attachment::from(file(&text));
        let feed = Feed::new(
            &input,
            kind(&input).unwrap(),
            None,
            |bytes: &[u8]| bytes.len() - bytes.len() % 9,
            || Ok(()),
        );
        let team = Arc::new(Team::default());
        let taken = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let (mut hand, mut room) = (Hand::new(&team), Room::default());
                    while let Some(chunk) = feed.next(&mut hand, &mut room).unwrap() {
                        lock(&taken).push((chunk.index, chunk.before, chunk.bytes.to_vec()));
                    }
                });
            }
        });
        let mut taken = taken.into_inner().unwrap();
        taken.sort_by_key(|chunk| chunk.0);
        assert_eq!(taken.concat_bytes(), text);
        assert_eq!(feed.lacks(), 0);
    }

    #[test]
    fn a_file_that_became_shorter_lacks_what_was_there() {
        let input = Attachment::from(file(b"1\n2\n3\n"));
        let kind = kind(&input).unwrap();
        rustix::fs::ftruncate(&input, 2).unwrap();
        let feed = Feed::new(&input, kind, None, <[u8]>::len, || Ok(()));
        let (mut hand, mut room) = (Hand::new(&Arc::default()), Room::default());
        assert_eq!(feed.next(&mut hand, &mut room).unwrap().unwrap().bytes, b"1\n");
        assert!(feed.next(&mut hand, &mut room).unwrap().is_none());
        assert_eq!(feed.lacks(), 4);
    }

    #[test]
    fn who_waits_for_input_is_woken_when_nobody_wants_more() {
        let (read, _write) = std::io::pipe().unwrap();
        let input = Attachment::from(OwnedFd::from(read));
        let feed = Feed::new(&input, kind(&input).unwrap(), None, <[u8]>::len, || Ok(()));
        let team = Arc::new(Team::default());
        let wake = Arc::new(rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap());
        team.wake_by(&wake);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                feed.next(&mut Hand::new(&team), &mut Room::default()).map(|chunk| chunk.is_none())
            });
            feed.stop(&team);
            assert_eq!(waiting.join().unwrap(), Ok(true));
        });
    }

    #[test]
    fn packets_are_read_whole_or_their_loss_is_an_error() {
        for pages in [1, (NEW_PIPE + INPUT_BLOCK) / 4096 - 1] {
            let (read, write) = std::io::pipe().unwrap();
            fcntl_setpipe_size(&write, PIPE).unwrap();
            let text = b"1\n".repeat(pages * 2048 + 50);
            assert_eq!(rustix::io::write(&write, &text), Ok(text.len()));
            // The second read has room for a page without its last 100 bytes.
            rustix::fs::fcntl_setfl(&write, OFlags::DIRECT).unwrap();
            assert_eq!(rustix::io::write(&write, &text[..4096]), Ok(4096));
            drop(write);
            let taken = chunks(OwnedFd::from(read));
            if pages == 1 {
                assert_eq!(taken.unwrap().concat_bytes().len(), text.len() + 4096);
            } else {
                let fault = taken.unwrap_err();
                assert_eq!(fault.kind, FaultKind::Unreadable);
                assert!(fault.message.starts_with("100 bytes of the pipe were lost"), "{}", fault.message);
            }
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
                let mut bridge = Bridge::new().unwrap();
                let mut buffer = [0; 8];
                let mut read = || match file_type {
                    FileType::Fifo => bridge.fill(&input).map(|_| bridge.read(&mut buffer).unwrap()),
                    _ => read_now(&input, file_type, &mut buffer),
                };
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
