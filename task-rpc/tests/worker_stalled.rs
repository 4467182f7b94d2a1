//! Attachments on a file system that does not answer: they keep nobody waiting but who asks for them.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, PipeWriter, Write, pipe};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Alone, PATIENCE};
use task_proto::limits::CLOSING;
use task_proto::wire::FdStream;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::sync::Mutex;

/// A FUSE file system, in no directory, whose files can be opened and which answers nothing else. With it ends all waiting
/// for it, and without it after some patience: not even SIGKILL ends a process that waits. Declare it after whoever might.
struct Stalled {
    root: OwnedFd,
    /// Nobody but the worker may close one before the end.
    files: RefCell<Vec<Arc<OwnedFd>>>,
    end: Option<PipeWriter>,
    daemon: Option<JoinHandle<()>>,
}

impl Stalled {
    /// `None`, said aloud, where there is no such thing.
    fn mount() -> Option<Self> {
        Self::mounted()
            .inspect_err(|error| eprintln!("skipped: no FUSE file system can be made here: {error}"))
            .ok()
    }

    fn mounted() -> rustix::io::Result<Self> {
        let device = open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let new = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let number = device.as_raw_fd().to_string();
        for (key, value) in [("fd", &*number), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")] {
            fsconfig_set_string(new.as_fd(), key, value)?;
        }
        fsconfig_create(new.as_fd())?;
        let root = fsmount(new.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let (ended, end) = pipe().unwrap();
        let daemon = thread::spawn(move || serve(&device, ended.as_fd()));
        Ok(Stalled { root, files: RefCell::default(), end: Some(end), daemon: Some(daemon) })
    }

    fn open(&self) -> Arc<OwnedFd> {
        let file = openat(&self.root, "numbers", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let file = Arc::new(file);
        self.files.borrow_mut().push(Arc::clone(&file));
        file
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        drop(self.end.take());
        // Its descriptor of the device was the last: every request fails now, and those to come.
        self.daemon.take().map(JoinHandle::join);
    }
}

/// The daemon: reads all requests, and answers those that lead to an open file.
fn serve(device: &OwnedFd, ended: impl AsFd) {
    const LOOKUP: u32 = 1;
    const OPEN: u32 = 14;
    const INIT: u32 = 26;
    let mut request = vec![0; 1 << 20];
    let patience = Instant::now() + 3 * PATIENCE;
    loop {
        let mut ready = [PollFd::new(device, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
        let left = patience.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        if poll(&mut ready, Some(&left)).unwrap() == 0 || !ready[1].revents().is_empty() {
            return;
        }
        // One that was given up is no longer there to be read.
        let Ok(40..) = rustix::io::read(device, &mut request) else { continue };
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let answer: Vec<u32> = match word(4) {
            // Of the version that it has had for years; writes of 4 KiB.
            INIT => [7, 31, 0, 0, 0, 4096, 1].into_iter().chain([0; 9]).collect(),
            // Inode 2 is known for ten seconds, its size and mode for none.
            LOOKUP => {
                let (node, known, file) = ([2, 0, 0, 0], [10, 0, 0, 0, 0, 0], [2, 0, 4096, 0, 8, 0]);
                let (times, mode, rest) = ([0; 9], [0o100_644, 1], [0, 0, 0, 4096, 0]);
                [&node[..], &known, &file, &times, &mode, &rest].concat()
            }
            OPEN => vec![1, 0, 0, 0],
            _ => continue,
        };
        let mut said = (16 + 4 * answer.len() as u32).to_ne_bytes().to_vec();
        said.extend(0_u32.to_ne_bytes());
        said.extend(&request[8..16]);
        said.extend(answer.into_iter().flat_map(u32::to_ne_bytes));
        rustix::io::write(device, &said).unwrap();
    }
}

/// A client with attachments.
struct Client(tokio::io::BufReader<FdStream>);

impl Client {
    async fn connect(socket: &Path) -> Self {
        let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        Client(tokio::io::BufReader::new(FdStream::new(stream, 0).unwrap()))
    }

    fn attach(&self, descriptor: impl Into<Arc<OwnedFd>>) {
        self.0.get_ref().outgoing().push(descriptor.into());
    }

    async fn send(&mut self, method: &str, params: Value) {
        let request = json!({ "jsonrpc": "2.0", "id": method, "method": method, "params": params });
        self.0.write_all(format!("{request}\n").as_bytes()).await.unwrap();
    }

    /// Nothing at the end.
    async fn reply(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line);
        let count = tokio::time::timeout(PATIENCE, read).await.expect("no reply").unwrap();
        (count > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.send(method, params).await;
        self.reply().await.expect("a reply")
    }

    /// Sends what is attached; hears why the connection is closed.
    async fn refused(mut self) -> String {
        self.send("ping", json!({})).await;
        let notice = self.reply().await.expect("a notice");
        assert_eq!((&notice["id"], &notice["error"]["code"]), (&Value::Null, &json!(-32004)), "{notice}");
        notice["error"]["message"].as_str().unwrap().to_owned()
    }
}

/// Pings that tell something.
const ENOUGH: usize = 500;

/// Somebody else, who asks on and on; how long each answer took, sorted.
struct Victim {
    done: Arc<AtomicBool>,
    asking: JoinHandle<Vec<Duration>>,
}

impl Victim {
    fn of(socket: &Path) -> Self {
        let done = Arc::<AtomicBool>::default();
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut lines, over) = (BufReader::new(stream), Arc::clone(&done));
        let asking = thread::spawn(move || {
            let (mut took, mut line) = (Vec::new(), String::new());
            while !over.load(Relaxed) || took.len() < ENOUGH {
                let began = Instant::now();
                let ping = b"{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"ping\"}\n";
                lines.get_mut().write_all(ping).unwrap();
                line.clear();
                lines.read_line(&mut line).expect("the worker answers nobody");
                took.push(began.elapsed());
            }
            took.sort_unstable();
            took
        });
        Victim { done, asking }
    }

    fn end(self) -> Vec<Duration> {
        self.done.store(true, Relaxed);
        self.asking.join().unwrap()
    }
}

fn descriptors(alone: &Alone) -> usize {
    fs::read_dir(format!("/proc/{}/fd", alone.process.pid())).unwrap().count()
}

/// Threads that close something.
fn closers(alone: &Alone) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", alone.process.pid())).unwrap();
    let name = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.flatten().filter(|task| name(task).trim() == "close").count()
}

/// Waits until so many threads close something and so many descriptors are open, of which no event tells.
async fn until(alone: &Alone, what: impl Fn(usize, usize) -> bool) {
    let patience = Instant::now() + PATIENCE;
    loop {
        let (closers, descriptors) = (closers(alone), descriptors(alone));
        if what(closers, descriptors) {
            return;
        }
        assert!(Instant::now() < patience, "{closers} threads that close, {descriptors} descriptors");
        tokio::task::yield_now().await;
    }
}

/// Held for all of a test: a worker that another one starts would have copies of its descriptors for a moment, and wait for
/// this file system while it closes them.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Nobody else may wait so long: three times that, and a worker would be taken for dead.
const SLOW: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_file_system_that_hangs_keeps_nobody_waiting_but_who_reads_it() {
    let _alone = ALONE.lock().await;
    let mut alone = Alone::start();
    let Some(stalled) = Stalled::mount() else { return };
    let victim = Victim::of(&alone.socket);
    let mut client = Client::connect(&alone.socket).await;
    client.ask("ping", json!({})).await;
    let before = descriptors(&alone);

    (0..15).for_each(|_| client.attach(stalled.open()));
    client.send("mean", json!({ "attached": 0 })).await;
    assert_eq!(client.ask("release", json!({ "attached": 1 })).await["result"], true);
    assert_eq!(client.ask("release", json!({ "attached": 0 })).await["result"], true, "it is being read");
    // At receipt: a listening socket beside them, and more than there may be.
    let refused = Client::connect(&alone.socket).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    refused.attach(stalled.open());
    refused.attach(OwnedFd::from(listener));
    assert!(refused.refused().await.contains("is a listening socket"));
    let over = Client::connect(&alone.socket).await;
    (0..17).for_each(|_| over.attach(stalled.open()));
    let told = over.refused().await;
    assert!(told.contains("more than 16 attachments") && told.contains("--limit attachments=N"), "{told}");
    // All at the end of a connection; but those that are being read by then are their readers' affair.
    let mut gone = Client::connect(&alone.socket).await;
    (0..16).for_each(|_| gone.attach(stalled.open()));
    gone.send("mode", json!({ "inputs": [{ "attached": 3 }, { "attached": 4, "format": "f64" }] })).await;
    gone.ask("ping", json!({})).await;
    drop((gone, client));

    until(&alone, |closers, _| closers >= 1 + 1 + 2 + 2).await;
    let took = victim.end();
    let (p99, most) = (took[took.len() * 99 / 100], took[took.len() - 1]);
    println!("another client's pings: {}, p99 {p99:?}, at most {most:?}", took.len());
    assert!(most < SLOW, "{most:?}");

    drop(stalled);
    until(&alone, |closers, descriptors| closers == 0 && descriptors <= before).await;
    alone.process.signal(Signal::TERM);
    alone.process.end_well();
}

#[tokio::test]
async fn no_more_attachments_are_taken_than_can_be_closed() {
    let _alone = ALONE.lock().await;
    let mut alone = Alone::start();
    let Some(stalled) = Stalled::mount() else { return };
    let file = stalled.open();
    let mut neighbour = Client::connect(&alone.socket).await;
    for _ in 0..CLOSING / 16 {
        let mut client = Client::connect(&alone.socket).await;
        (0..16).for_each(|_| client.attach(Arc::clone(&file)));
        client.ask("ping", json!({})).await;
    }
    until(&alone, |closers, _| closers == CLOSING / 16).await;
    let memory = || memfd_create("numbers", MemfdFlags::CLOEXEC).unwrap();
    let client = Client::connect(&alone.socket).await;
    client.attach(memory());
    let told = client.refused().await;
    assert!(told.contains("file systems do not answer"), "{told}");
    assert_eq!(neighbour.ask("mean", json!({ "numbers": [1, 2] })).await["result"]["value"], 1.5);

    drop(stalled);
    until(&alone, |closers, _| closers == 0).await;
    neighbour.attach(memory());
    assert_eq!(neighbour.ask("release", json!({ "attached": 0 })).await["result"], true);
    alone.process.signal(Signal::TERM);
    alone.process.end_well();
}
