//! Writing to a socket: at once, and where that is full, once there is room; only then is it watched for room.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

use futures::poll;
use rustix::event::epoll::EventFlags;
use task_proto::wire::FdStream;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::yield_now;

use crate::local;
use crate::support::*;

/// What the epolls of this process watch a descriptor for.
fn watched(descriptor: impl AsFd) -> Vec<EventFlags> {
    let wanted = descriptor.as_fd().as_raw_fd().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo").unwrap() {
        // Of other tests some are gone by now.
        let info = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        for line in info.lines().filter(|line| line.starts_with("tfd:")) {
            let words: Vec<_> = line.split_whitespace().collect();
            if words[1] == wanted {
                let events = u32::from_str_radix(words[3], 16).unwrap();
                found.push(EventFlags::from_bits_retain(events));
            }
        }
    }
    found
}

/// How often a task was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn write(stream: &mut FdStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    Pin::new(stream).poll_write(cx, &[7; 4096])
}

#[test]
fn a_socket_is_watched_for_room_only_while_it_has_none() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut ours = FdStream::new(ours, 0).unwrap();
        let for_room = |ours: &FdStream| {
            let watched = watched(ours);
            assert!(watched.iter().any(|events| events.contains(EventFlags::IN)), "{watched:?}");
            watched.into_iter().filter(|events| events.contains(EventFlags::OUT)).count()
        };
        assert_eq!(for_room(&ours), 0);
        for round in 0..3 {
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(Arc::clone(&woken));
            let cx = &mut Context::from_waker(&waker);
            while let Poll::Ready(written) = write(&mut ours, cx) {
                written.unwrap();
            }
            assert_eq!(for_room(&ours), 1, "round {round}");
            for _ in 0..50 {
                yield_now().await;
            }
            assert_eq!(woken.0.load(Relaxed), 0, "round {round}: there is no room");
            let mut taken = vec![0; 1 << 16];
            while let Ok(1..) = theirs.try_read(&mut taken) {}
            soon(async {
                while woken.0.load(Relaxed) == 0 {
                    yield_now().await;
                }
            })
            .await;
            assert!(write(&mut ours, cx).is_ready());
            assert_eq!(for_room(&ours), 0, "round {round}");
        }
    });
}

#[test]
fn what_is_written_arrives_whole_through_a_socket_that_is_full_most_of_the_time() {
    local(async {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut ours = FdStream::new(ours, 0).unwrap();
        let sent: Vec<u8> = (0..4 << 20).map(|index: u32| (index / 7) as u8).collect();
        let writing = async {
            ours.write_all(&sent).await.unwrap();
            ours.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let ((), read) = soon(async { tokio::join!(writing, theirs.read_to_end(&mut received)) }).await;
        read.unwrap();
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    });
}

#[test]
fn a_peer_that_goes_ends_the_wait_for_room() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut ours = FdStream::new(ours, 0).unwrap();
        while let Poll::Ready(written) = poll!(poll_fn(|cx| write(&mut ours, cx))) {
            written.unwrap();
        }
        drop(theirs);
        let error = soon(poll_fn(|cx| write(&mut ours, cx))).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    });
}
