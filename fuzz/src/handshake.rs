//! The handshake's datagrams: what a host may say to its worker, and what a worker may answer.

use std::cell::LazyCell;
use std::fmt::Debug;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};
use task_proto::handshake::{PROTOCOL, receive_answer, receive_hello, send_answer, send_hello};
use task_proto::limits::HANDSHAKE;

thread_local! {
    static PAIR: LazyCell<(OwnedFd, OwnedFd)> = LazyCell::new(|| {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    });
    static NULL: LazyCell<File> = LazyCell::new(|| File::open("/dev/null").unwrap());
}

/// Hands both ends to the test, which leaves nothing unread.
fn over_a_pair(data: &[u8], test: impl FnOnce(&OwnedFd, &OwnedFd)) -> u64 {
    let data = &data[..data.len().min(HANDSHAKE)];
    // An empty one would be the end of the stream.
    if data.is_empty() {
        return 0;
    }
    PAIR.with(|pair| test(&pair.0, &pair.1));
    1
}

/// A datagram to a worker: one that it understands says the same when it is said again.
pub fn hello(data: &[u8]) -> u64 {
    over_a_pair(data, |host, worker| {
        NULL.with(|null| {
            send(host, data, &[null.as_fd(); 2]);
            let Ok(heard) = receive_hello(worker.as_fd()) else { return };
            assert!((PROTOCOL[0]..=PROTOCOL[1]).contains(&heard.protocol), "{heard:?}");
            send_hello(host.as_fd(), &heard.hello, null.as_fd(), null.as_fd()).unwrap();
            same(&heard.hello, &receive_hello(worker.as_fd()).unwrap().hello);
        });
    })
}

/// A datagram to a host, likewise.
pub fn answer(data: &[u8]) -> u64 {
    over_a_pair(data, |host, worker| {
        rustix::net::send(worker, data, SendFlags::NOSIGNAL).unwrap();
        let Ok(answer) = receive_answer(host.as_fd()) else { return };
        send_answer(worker.as_fd(), &answer).unwrap();
        same(&answer, &receive_answer(host.as_fd()).unwrap());
    })
}

fn same<T: PartialEq + Debug>(heard: &T, again: &T) {
    assert!(heard == again, "{heard:?} became {again:?}");
}

fn send(end: &OwnedFd, data: &[u8], descriptors: &[std::os::fd::BorrowedFd<'_>]) {
    use std::io::IoSlice;
    use std::mem::MaybeUninit;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, sendmsg};

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(descriptors));
    sendmsg(end, &[IoSlice::new(data)], &mut control, SendFlags::NOSIGNAL).unwrap();
}
