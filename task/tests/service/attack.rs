//! What other programs may do to a service, by malice or by mistake: each kind for as long as its process lives, which is
//! not that of anybody who is to be answered meanwhile.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, open};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::pipe::pipe;
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use task_proto::limits::LONG_MESSAGE;

use crate::victim::send_with;

/// Connections that a greedy process has, or tries to have: more than its half.
const GREEDY: usize = 40;
/// Between two bytes of one who sends them one by one.
const DRIP: Duration = Duration::from_millis(20);
/// The most descriptors that Linux takes with one message (`SCM_MAX_FD`).
const MOST_DESCRIPTORS: usize = 253;
/// What a process says once it is at it.
const AT_IT: &[u8] = b"at it\n";

/// How much later than without an attack 99 of 100 answers may come.
const LATER: Duration = Duration::from_millis(10);

/// A kind of attack.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// Processes that do it at once.
    pub(crate) processes: usize,
    /// How much later than without it 99 of 100 answers may come.
    pub(crate) later: Duration,
    run: fn(&Path),
}

pub(crate) const ATTACKS: [Attack; 12] = [
    Attack { name: "length bombs", processes: 1, later: LATER, run: length_bombs },
    Attack { name: "half frames", processes: 2, later: LATER, run: half_frames },
    Attack { name: "one byte at a time", processes: 1, later: LATER, run: |socket| drip(socket, GREEDY) },
    Attack { name: "1,000 slow senders", processes: 4, later: LATER, run: |socket| drip(socket, 250) },
    Attack { name: "readers that never read", processes: 1, later: LATER, run: never_read },
    Attack { name: "253 descriptors a message", processes: 1, later: LATER, run: descriptor_flood },
    Attack { name: "a sparse memfd of 1 TB", processes: 1, later: LATER, run: sparse_memfd },
    Attack { name: "descriptors of every kind", processes: 1, later: LATER, run: strange_descriptors },
    Attack { name: "connecting without end", processes: 1, later: LATER, run: connect_storm },
    Attack { name: "garbage as first byte", processes: 1, later: LATER, run: no_protocol },
    Attack {
        name: "requests of a megabyte",
        processes: 2,
        later: LATER,
        run: |socket| requests(socket, 1_000_000),
    },
    Attack {
        name: "the longest that are decoded in turn",
        processes: 2,
        // Each costs decoding, a computation and a reply; as many come in a round as there are connections.
        later: LATER.saturating_mul(2),
        run: |socket| requests(socket, LONG_MESSAGE - 100),
    },
];

/// The processes of an attack; they end when this is dropped.
pub(crate) struct Attackers(Vec<Child>);

impl Attackers {
    /// Starts them, and returns once all are at it.
    pub(crate) fn start(attack: &Attack, socket: &Path) -> Self {
        let start = |_| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.arg("--attack").arg(attack.name).arg(socket).stdout(Stdio::piped());
            command.spawn().unwrap()
        };
        let mut attackers = Attackers((0..attack.processes).map(start).collect());
        for attacker in &mut attackers.0 {
            let mut said = [0; AT_IT.len()];
            attacker.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        }
        attackers
    }

    /// Ends them: false if one has ended by itself, which it does where it was served as it must not be.
    pub(crate) fn end(mut self) -> bool {
        self.0.iter_mut().all(|attacker| attacker.try_wait().unwrap().is_none())
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        for attacker in &mut self.0 {
            let _ = attacker.kill();
            let _ = attacker.wait();
        }
    }
}

/// Attacks until the process is killed.
pub(crate) fn run(name: &str, socket: &str) {
    let attack = ATTACKS.iter().find(|attack| attack.name == name).expect("an attack of that name");
    (attack.run)(Path::new(socket));
}

fn at_it() {
    std::io::stdout().write_all(AT_IT).unwrap();
}

fn connected(socket: &Path) -> UnixStream {
    loop {
        // A worker may be under way.
        if let Ok(stream) = UnixStream::connect(socket) {
            return stream;
        }
        std::thread::sleep(DRIP);
    }
}

/// Reads until the server closes. Nobody may be kept waiting for that: half a minute is long. Those who ask for it say that
/// they are at it after a first round, in which all of it was refused as it must be.
fn is_closed(mut stream: UnixStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Messages that are, or say that they are, longer than any may be.
fn length_bombs(socket: &Path) {
    let bombs: [Vec<u8>; 5] = [
        [vec![0, 0xff, 0xff, 0xff], vec![0; 1 << 16]].concat(),
        [vec![0, 0x10, 0, 1], vec![0; 1 << 20]].concat(),
        vec![b'['; 3 << 19],
        [b"{\"id\":".to_vec(), vec![b'1'; 3 << 19]].concat(),
        vec![b' '; 3 << 19],
    ];
    for (number, bomb) in bombs.iter().cycle().enumerate() {
        if number == bombs.len() {
            at_it();
        }
        let mut stream = connected(socket);
        // White space alone is no message: it may go on for ever.
        let is_refused = stream.write_all(bomb).is_err();
        let is_blank = bomb[0] == b' ';
        assert!(is_blank || is_refused || is_closed(stream), "a bomb was taken");
    }
}

/// Messages that begin and never end, on as many connections as there are to be had.
fn half_frames(socket: &Path) {
    let halves: [&[u8]; 2] = [b"\0\0\x10\0half", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"meth"];
    let begin = |number: usize| {
        let mut stream = connected(socket);
        let _ = stream.write_all(halves[number % 2]);
        stream
    };
    let mut streams: Vec<_> = (0..GREEDY).map(begin).collect();
    at_it();
    loop {
        for number in closed(&streams) {
            streams[number] = begin(number);
        }
    }
}

/// Waits until some are closed, or have something to say: these.
fn closed(streams: &[UnixStream]) -> Vec<usize> {
    let mut polled: Vec<_> = streams.iter().map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
    let _ = poll(&mut polled, None);
    (0..polled.len()).filter(|&number| !polled[number].revents().is_empty()).collect()
}

/// A byte at a time, on each connection; and again when it was closed.
fn drip(socket: &Path, connections: usize) {
    let message = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"mean\",\"params\":{\"numbers\":[1,2,3]}}\n";
    let open = || {
        let stream = connected(socket);
        stream.set_nonblocking(true).unwrap();
        (stream, 0)
    };
    let mut streams: Vec<_> = (0..connections).map(|_| open()).collect();
    at_it();
    loop {
        for (stream, sent) in &mut streams {
            let written = stream.write(&message[*sent..][..1]);
            let mut reply = [0; 4096];
            match stream.read(&mut reply) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && written.is_ok() => {
                    *sent = (*sent + 1) % message.len();
                }
                Ok(1..) => *sent = (*sent + 1) % message.len(),
                _ => (*stream, *sent) = open(),
            }
        }
        std::thread::sleep(DRIP);
    }
}

/// As many questions as are taken, and not one answer.
fn never_read(socket: &Path) {
    let pings = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n".repeat(1000);
    let open = || {
        let stream = connected(socket);
        stream.set_nonblocking(true).unwrap();
        stream
    };
    let mut streams: Vec<_> = (0..GREEDY).map(|_| open()).collect();
    at_it();
    loop {
        let mut polled: Vec<_> = streams.iter().map(|stream| PollFd::new(stream, PollFlags::OUT)).collect();
        let soon = Timespec { tv_sec: 1, tv_nsec: 0 };
        let _ = poll(&mut polled, Some(&soon));
        let ready: Vec<_> = polled.iter().map(PollFd::revents).collect();
        drop(polled);
        for (stream, ready) in streams.iter_mut().zip(ready) {
            if ready.intersects(PollFlags::HUP | PollFlags::ERR) {
                *stream = open();
            } else if ready.contains(PollFlags::OUT) {
                // In whole messages or not: it is read on as long as there is room.
                let _ = stream.write(&pings);
            }
        }
    }
}

/// Requests of some so many bytes, one after another on each connection; their answers are read.
fn requests(socket: &Path, bytes: usize) {
    let numbers = "1,".repeat(bytes / 2);
    let line = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"mean\",\"params\":{{\"numbers\":[{numbers}1]}}}}\n"
    );
    let open = || {
        let stream = connected(socket);
        stream.set_nonblocking(true).unwrap();
        (stream, 0)
    };
    let mut streams: Vec<_> = (0..GREEDY).map(|_| open()).collect();
    at_it();
    let mut replies = vec![0; 1 << 16];
    loop {
        let either = PollFlags::IN | PollFlags::OUT;
        let mut polled: Vec<_> = streams.iter().map(|(stream, _)| PollFd::new(stream, either)).collect();
        let _ = poll(&mut polled, None);
        for (stream, sent) in &mut streams {
            let read = stream.read(&mut replies);
            let is_open = match &read {
                Ok(count) => *count > 0,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            };
            match stream.write(&line.as_bytes()[*sent..]) {
                Ok(written) if is_open => *sent = (*sent + written) % line.len(),
                Err(error) if is_open && error.kind() == ErrorKind::WouldBlock => {}
                _ => (*stream, *sent) = open(),
            }
        }
    }
}

/// With each message as many descriptors as Linux passes on.
fn descriptor_flood(socket: &Path) {
    let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let many = vec![null.as_fd(); MOST_DESCRIPTORS];
    for round in 0.. {
        if round == 1 {
            at_it();
        }
        let stream = connected(socket);
        while send_with(&stream, b" ", &many).is_ok() {}
        assert!(is_closed(stream), "the descriptors were taken");
    }
}

/// All of it zeros that nobody has: read they would be 1 TB of numbers, and mapped they would come to be.
fn sparse_memfd(socket: &Path) {
    let sparse = memfd_create("sparse", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&sparse, 1 << 40).unwrap();
    fcntl_add_seals(&sparse, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)
        .unwrap();
    for (number, format) in ["f64", "i64", "text"].iter().cycle().enumerate() {
        if number == 3 {
            at_it();
        }
        must_fail(socket, sparse.as_fd(), format);
    }
}

/// What no numbers come from: each is an error, or a wait until the deadline.
fn strange_descriptors(socket: &Path) {
    let read = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = |path| open(path, read, Mode::empty()).unwrap();
    let (unwritten, _writer) = pipe().unwrap();
    let (closed, _) = pipe().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("l")).unwrap();
    let (pair, _other) = UnixStream::pair().unwrap();
    let datagram = socket_of(SocketType::DGRAM);
    let own = connected(socket);
    let strange: [OwnedFd; 14] = [
        file("/"),
        file("/dev/zero"),
        file("/dev/null"),
        file("/proc/self/mem"),
        unwritten,
        closed,
        pidfd_open(getpid(), PidfdFlags::empty()).unwrap(),
        listener.into(),
        pair.into(),
        datagram,
        own.into(),
        epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
        eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
        open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap(),
    ];
    for (number, kind) in strange.iter().cycle().enumerate() {
        if number == strange.len() {
            at_it();
        }
        for format in ["text", "f64"] {
            must_fail(socket, kind.as_fd(), format);
        }
    }
}

fn socket_of(kind: SocketType) -> OwnedFd {
    socket(AddressFamily::UNIX, kind, None).unwrap()
}

fn must_fail(socket: &Path, input: BorrowedFd<'_>, format: &str) {
    let mut stream = connected(socket);
    let line = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"mean\",\"params\":{{\"attached\":0,\"format\":\"{format}\"}},\"deadline_ms\":100}}\n"
    );
    if send_with(&stream, line.as_bytes(), &[input]).is_err() {
        return;
    }
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let mut reply = [0; 4096];
    let length = stream.read(&mut reply).unwrap_or_else(|error| {
        assert!(error.kind() == ErrorKind::ConnectionReset, "{error} of descriptor {}", input.as_raw_fd());
        0
    });
    let reply = String::from_utf8_lossy(&reply[..length]);
    // Closed without a word is an answer too; numbers are none.
    assert!(!reply.contains("\"result\""), "{reply} of descriptor {}", input.as_raw_fd());
}

fn connect_storm(socket: &Path) {
    at_it();
    loop {
        drop(connected(socket));
    }
}

fn no_protocol(socket: &Path) {
    for round in 0.. {
        if round == 1 {
            at_it();
        }
        let mut stream = connected(socket);
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
        assert!(is_closed(stream), "it is served");
    }
}
