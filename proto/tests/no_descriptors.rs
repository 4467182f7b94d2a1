//! A full socket is written to again although no descriptor is left. The limit is the process's, so the test has one of its own.

#![expect(clippy::unwrap_used, reason = "a test; clippy exempts only the test functions themselves")]

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures::poll;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use task_proto::wire::FdStream;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

/// Takes all descriptors that are left.
fn exhaust() -> Vec<std::fs::File> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
    std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).take(100).collect()
}

#[tokio::test]
async fn a_full_socket_waits_for_room_without_a_descriptor() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut ours = FdStream::new(ours, 0).unwrap();
    let taken = exhaust();
    assert!(taken.len() < 100 && UnixStream::pair().is_err(), "{} are left", taken.len());
    while let Poll::Ready(written) = poll!(poll_fn(|cx| Pin::new(&mut ours).poll_write(cx, &[7; 4096]))) {
        written.unwrap();
    }
    let writing = async {
        ours.write_all(&vec![8; 1 << 20]).await.unwrap();
        ours.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let both = async { tokio::join!(writing, theirs.read_to_end(&mut received)) };
    let ((), read) = tokio::time::timeout(Duration::from_mins(1), both).await.unwrap();
    read.unwrap();
    assert!(received[received.len() - (1 << 20)..] == vec![8; 1 << 20]);
    drop(taken);
}
