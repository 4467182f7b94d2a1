//! A worker that has been taken over: whoever calls it says what harm it is to do.
#![expect(unsafe_code, reason = "no library offers what this program is for")]

mod acts;

use std::ffi::{c_long, c_void};
use std::fs::File;
use std::io::Error;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::ptr::{null, null_mut};
use std::thread;
use std::time::Duration;

use acts::{Act, Hostile};
use rustix::net::sockopt::socket_acceptconn;
use tarpc::context::Context;
use task_worker::{Connection, Worker, WorkerError};

#[derive(Clone)]
struct Taken {
    connection: Connection,
    socket: String,
    victim: u32,
}

fn main() -> Result<(), WorkerError> {
    // The host calls its worker with `SOCKET --supervised PID`.
    let words: Vec<String> = std::env::args().collect();
    let host = words.last().and_then(|pid| pid.parse().ok()).unwrap_or_default();
    let socket = words.get(1).cloned().unwrap_or_default();
    let mut sleeper = Command::new("sleep");
    let sleeper = sleeper.arg("60").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    // It ends with the worker's process group.
    let victim = sleeper.expect("there is something to trace").id();
    Worker::supervised(host)?.serve("Hostile", move |connection| {
        Taken { connection: connection.clone(), socket: socket.clone(), victim }.serve()
    })
}

impl Hostile for Taken {
    async fn act(self, _: Context, act: Act) -> Result<i64, i32> {
        if act == Act::Sleep {
            // On a thread, which waits as threads do.
            let (send, receive) = tokio::sync::oneshot::channel();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(500));
                send.send(0)
            });
            return Ok(receive.await.expect("it wakes up"));
        }
        self.perform(act).map_err(|error| error.raw_os_error().unwrap_or_default())
    }
}

const HUGE: usize = 100 << 30;

impl Taken {
    fn perform(&self, act: Act) -> Result<c_long, Error> {
        match act {
            Act::Open => File::open("/etc/passwd").map(|file| file.as_raw_fd().into()),
            Act::Socket => call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0]),
            Act::Connect => {
                let attached = self.connection.attachments.get(0).expect("a socket is attached");
                let address = address(&self.socket);
                let length = size_of_val(&address) as c_long;
                let address = (&raw const address) as c_long;
                call(libc::SYS_connect, [attached.as_fd().as_raw_fd().into(), address, length, 0])
            }
            Act::Send => {
                let attached = self.connection.attachments.get(1).expect("a datagram socket is attached");
                let address = address(&format!("{}.d", self.socket));
                let length = size_of_val(&address) as u32;
                // SAFETY: the byte and the address live until the call is over.
                let sent = unsafe {
                    let address = (&raw const address).cast();
                    libc::sendto(attached.as_fd().as_raw_fd(), c"x".as_ptr().cast(), 1, 0, address, length)
                };
                if sent < 0 { Err(Error::last_os_error()) } else { Ok(sent as c_long) }
            }
            Act::Exec => {
                let words = [c"/bin/sh", c"-c", c"exit 42"].map(std::ffi::CStr::as_ptr);
                let words = [words[0], words[1], words[2], null()];
                // The line of the log that says so.
                call(libc::SYS_execve, [words[0] as c_long, words.as_ptr() as c_long, 0, 0])
            }
            Act::Trace => call(libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), self.victim.into(), 0, 0]),
            Act::Kill => {
                let parent = rustix::process::getppid().expect("it has a host").as_raw_pid();
                call(libc::SYS_kill, [parent.into(), libc::SIGWINCH.into(), 0, 0])
            }
            // SAFETY: the child does nothing but end.
            Act::Fork => match unsafe { libc::fork() } {
                // SAFETY: as above.
                0 => unsafe { libc::_exit(0) },
                -1 => Err(Error::last_os_error()),
                child => Ok(child.into()),
            },
            Act::Clone3 => {
                // `struct clone_args`, of which only the signal at the end is set.
                let mut arguments = [0_u64; 8];
                arguments[4] = libc::SIGCHLD as u64;
                match call(libc::SYS_clone3, [arguments.as_ptr() as c_long, 64, 0, 0])? {
                    // SAFETY: the child does nothing but end.
                    0 => unsafe { libc::_exit(0) },
                    child => Ok(child),
                }
            }
            Act::Reserve => reserve(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE),
            Act::ReserveNothing => reserve(libc::PROT_NONE, libc::MAP_PRIVATE),
            Act::ReserveShared => reserve(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
            Act::ReserveInParts => (0..16).try_fold(0, |_, _| {
                reserve_of(1 << 30, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE)
            }),
            Act::Share => reserve_of(4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
            Act::Shutdown => call(libc::SYS_shutdown, [listener(), libc::SHUT_RD.into(), 0, 0]),
            Act::ShutdownDisguised => {
                call(libc::SYS_shutdown, [listener() | 1 << 32, libc::SHUT_RD.into(), 0, 0])
            }
            Act::Duplicate => call(libc::SYS_dup, [2, 0, 0, 0]),
            Act::Shrink => call(libc::SYS_fcntl, [2, libc::F_SETPIPE_SZ.into(), 4096, 0]),
            Act::Execute => {
                let page = reserve_of(4096, libc::PROT_READ, libc::MAP_PRIVATE)?;
                call(libc::SYS_mprotect, [page, 4096, (libc::PROT_READ | libc::PROT_EXEC).into(), 0])
            }
            Act::Sleep | Act::Churn => {
                let churn = || {
                    for round in 0..64 {
                        let blocks: Vec<Vec<u8>> =
                            (0..4096).map(|size| vec![1; 1024 + size + round]).collect();
                        drop(blocks);
                    }
                };
                thread::scope(|scope| {
                    [scope.spawn(churn), scope.spawn(churn)].map(|churn| churn.join().is_ok())
                });
                Ok(0)
            }
            Act::Panic => panic!("on purpose"),
            Act::Abort => std::process::abort(),
            Act::Limit => {
                let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                call(libc::SYS_prlimit64, [0, libc::RLIMIT_CORE.into(), (&raw const limit) as c_long, 0])
            }
        }
    }
}

fn call(number: c_long, [a, b, c, d]: [c_long; 4]) -> Result<c_long, Error> {
    // SAFETY: what the addresses among the arguments point to lives until the call is over; what else it does is what
    // this program is for.
    match unsafe { libc::syscall(number, a, b, c, d) } {
        -1 => Err(Error::last_os_error()),
        result => Ok(result),
    }
}

fn reserve(protection: i32, kind: i32) -> Result<c_long, Error> {
    reserve_of(HUGE, protection, kind)
}

fn reserve_of(bytes: usize, protection: i32, kind: i32) -> Result<c_long, Error> {
    let flags = kind | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base: *mut c_void = unsafe { libc::mmap(null_mut(), bytes, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(base as c_long) }
}

fn address(path: &str) -> libc::sockaddr_un {
    // SAFETY: all zeros are an address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from as libc::c_char;
    }
    address
}

/// The number of the listener: the descriptor that accepts.
fn listener() -> c_long {
    (3..64)
        .find(|fd| {
            // SAFETY: it is asked what it is, and nothing else.
            let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) };
            socket_acceptconn(fd) == Ok(true)
        })
        .expect("there is a listener")
        .into()
}
