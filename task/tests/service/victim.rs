//! A client that was connected before others came, and asks on: how long its answers take.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, ErrorKind, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

use crate::house::LIMIT;
use crate::moments::Moments;

/// Between two questions: it has other things to do.
const PAUSE: Duration = Duration::from_millis(1);

/// It asks by JSON-RPC, and checks every answer. Where its connection has to make room it takes another.
pub(crate) struct Victim {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
    file: File,
    moments: Moments,
    /// Answers so far, all of them right.
    pub(crate) answered: u64,
    /// Connections so far that had to make room.
    pub(crate) dismissed: u64,
    /// Files that it has sent on this connection.
    attached: u64,
}

impl Victim {
    /// It makes itself a file with the numbers from 1 to 1000.
    pub(crate) fn connect(socket: &Path, file: &Path, seed: u64) -> Self {
        let numbers: Vec<_> = (1..=1000).map(|number| number.to_string()).collect();
        std::fs::write(file, numbers.join("\n")).unwrap();
        let (file, moments) = (File::open(file).unwrap(), Moments::new(seed, LIMIT));
        let (stream, socket) = (connect(socket), socket.to_owned());
        Victim { socket, stream, file, moments, answered: 0, dismissed: 0, attached: 0 }
    }

    /// The worker that answers.
    pub(crate) fn worker(&mut self) -> (u32, u64) {
        let pong = self.call("ping", |_| json!({}));
        (pong["pid"].as_u64().unwrap() as u32, pong["generation"].as_u64().unwrap())
    }

    /// Asks for so long: how long each answer took.
    pub(crate) fn ask(&mut self, length: Duration) -> Vec<Duration> {
        let (begin, mut took) = (Instant::now(), Vec::new());
        for turn in 0.. {
            let asked = Instant::now();
            match turn % 3 {
                0 => drop(self.worker()),
                1 => {
                    let first = self.moments.below(1 << 40) as u64;
                    let mean = self.call("mean", |_| json!({ "numbers": [first, first + 2, first + 4] }));
                    assert_eq!(mean["value"].as_f64(), Some((first + 2) as f64), "{mean}");
                }
                _ => {
                    let median = self.call("median", |attached| json!({ "attached": attached }));
                    assert_eq!(median["value"].as_f64(), Some(500.5), "{median}");
                }
            }
            took.push(asked.elapsed());
            if begin.elapsed() >= length {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        took
    }

    /// Asks until it is answered; `params` are told the number of the file, which goes with a request that names it.
    fn call(&mut self, method: &str, params: impl Fn(u64) -> Value) -> Value {
        let begin = Instant::now();
        loop {
            let params = params(self.attached);
            let request = json!({"jsonrpc": "2.0", "id": self.answered, "method": method, "params": params});
            let files = if params.get("attached").is_some() { vec![self.file.as_fd()] } else { Vec::new() };
            match exchange(&mut self.stream, &format!("{request}\n"), &files) {
                Ok(mut reply) => {
                    assert!(
                        reply["id"] == self.answered && reply.get("error").is_none(),
                        "{reply} to {request}"
                    );
                    self.answered += 1;
                    if !files.is_empty() {
                        self.release();
                    }
                    return reply["result"].take();
                }
                Err(error) => {
                    assert!(begin.elapsed() < LIMIT, "not answered: {error}");
                    self.dismissed += 1;
                    (self.stream, self.attached) = (connect(&self.socket), 0);
                }
            }
        }
    }

    /// Gives the file up again, as only so many may be alive. If the connection is lost, so is the file.
    fn release(&mut self) {
        let line =
            format!("{{\"id\":0,\"method\":\"release\",\"params\":{{\"attached\":{}}}}}\n", self.attached);
        self.attached += 1;
        if let Ok(reply) = exchange(&mut self.stream, &line, &[]) {
            assert_eq!(reply["result"], true, "{reply}");
        }
    }
}

fn connect(socket: &Path) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    BufReader::new(stream)
}

fn exchange(
    stream: &mut BufReader<UnixStream>,
    line: &str,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<Value> {
    send_with(stream.get_ref(), line.as_bytes(), descriptors)?;
    let mut reply = String::new();
    match stream.read_line(&mut reply)? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(serde_json::from_str(&reply).unwrap_or_else(|_| panic!("{reply:?} to {line}"))),
    }
}

/// Sends all of it, descriptors with the first byte.
pub(crate) fn send_with(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.is_empty() {
        return (&mut &*stream).write_all(bytes);
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(descriptors.len()))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    (&mut &*stream).write_all(&bytes[sent..])
}
