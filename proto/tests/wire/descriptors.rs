//! Descriptors beside the bytes.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use futures::poll;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use task_proto::limits::{Limits, READ};
use task_proto::wire::{self, FdStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::local;
use crate::support::*;

/// A file that holds its own number.
fn file(number: u32) -> Arc<OwnedFd> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&number.to_le_bytes()).unwrap();
    Arc::new(OwnedFd::from(file))
}

fn number_in(descriptor: impl AsFd) -> u32 {
    let mut bytes = [0; 4];
    rustix::io::pread(descriptor, &mut bytes, 0).unwrap();
    u32::from_le_bytes(bytes)
}

fn streams(attachments: usize) -> (FdStream, FdStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (FdStream::new(ours, 0).unwrap(), FdStream::new(theirs, attachments).unwrap())
}

#[test]
fn descriptors_arrive_with_the_bytes_numbered_in_order_and_numbers_are_not_reused() {
    local(async {
        let (mut ours, mut theirs) = streams(16);
        let attachments = theirs.attachments().clone();
        for round in 0..40 {
            let number = ours.outgoing().push(file(round));
            assert_eq!(number, round);
            ours.write_all(b"x").await.unwrap();
            soon(theirs.read_u8()).await.unwrap();
            assert_eq!(number_in(attachments.get(round).unwrap()), round);
            assert!(attachments.get(round + 1).is_none());
            assert!(attachments.release(round) && !attachments.release(round));
            assert!(attachments.get(round).is_none());
        }
        assert_eq!(attachments.alive(), 0);
        let close_on_exec = rustix::io::fcntl_getfd(&*{
            ours.outgoing().push(file(40));
            ours.write_all(b"x").await.unwrap();
            soon(theirs.read_u8()).await.unwrap();
            attachments.get(40).unwrap()
        });
        assert_eq!(close_on_exec.unwrap(), rustix::io::FdFlags::CLOEXEC);
    });
}

#[test]
fn forty_descriptors_go_before_the_request_that_names_them_if_the_limit_allows() {
    local(async {
        let (mut ours, mut theirs) = streams(40);
        for number in 0..40 {
            assert_eq!(ours.outgoing().push(file(number)), number);
        }
        ours.write_all(b"request").await.unwrap();
        // With the first byte that is read they begin to come; with the whole request all are there.
        let mut request = [0; 7];
        soon(theirs.read_exact(&mut request)).await.unwrap();
        assert_eq!(&request, b"request");
        assert_eq!(theirs.attachments().alive(), 40);
        for number in 0..40 {
            assert_eq!(number_in(theirs.attachments().get(number).unwrap()), number);
        }
    });
}

#[test]
fn one_descriptor_over_the_limit_ends_the_connection_with_a_reason_that_names_it() {
    local(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let limits = Limits::default();
        let end = serve(theirs, &limits, Handler::new().0.serve());
        let transport = wire::client(FdStream::new(ours, 0).unwrap(), &limits);
        let outgoing = transport.outgoing().clone();
        let new =
            tarpc::client::new::<ProbeRequest, ProbeResponse, _>(tarpc::client::Config::default(), transport);
        tokio::spawn(new.dispatch);
        let client = ProbeClient::from(new.client);
        for number in 0..16 {
            outgoing.push(file(number));
        }
        let day = Duration::from_hours(24);
        assert_eq!(soon(client.echo(within(day), vec![1.0])).await.unwrap(), [1.0]);
        outgoing.push(file(16));
        let error = soon(client.echo(within(day), vec![1.0])).await.unwrap_err();
        assert!(told(&error).contains("more than 16 attachments"), "{}", told(&error));
        assert!(matches!(soon(end).await.unwrap(), End::Failed));
    });
}

#[test]
fn a_flood_of_descriptors_in_one_message_is_refused_and_leaks_none() {
    local(async {
        for count in [17, 40] {
            let (ours, mut theirs) = streams(100);
            let (canary, watched) = std::os::unix::net::UnixStream::pair().unwrap();
            let batch = vec![watched.as_fd(); count];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(40))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&batch)));
            sendmsg(&ours, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL).unwrap();
            let error = soon(theirs.read_u8()).await.unwrap_err();
            assert!(error.to_string().contains("more than 16 descriptors in one message"), "{error}");
            assert_eq!(theirs.attachments().alive(), 0);
            // Its other end sees the end only when every received copy is closed.
            drop(watched);
            canary.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            assert_eq!((&canary).read(&mut [0]).unwrap(), 0);
        }
    });
}

#[test]
fn a_connection_to_the_service_is_refused_as_an_attachment_and_other_sockets_are_not() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut ours = FdStream::new(UnixStream::connect(&path).await.unwrap(), 0).unwrap();
        let mut theirs = FdStream::new(listener.accept().await.unwrap().0, 16).unwrap();
        let (pair, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let _elsewhere = std::os::unix::net::UnixListener::bind(directory.path().join("t")).unwrap();
        let there = std::os::unix::net::UnixStream::connect(directory.path().join("t")).unwrap();
        for fine in [pair.into(), OwnedFd::from(there)] {
            ours.outgoing().push(Arc::new(fine));
        }
        ours.write_all(b"x").await.unwrap();
        soon(theirs.read_u8()).await.unwrap();
        assert_eq!(theirs.attachments().alive(), 2);
        ours.outgoing().push(Arc::new(ours.as_fd().try_clone_to_owned().unwrap()));
        ours.write_all(b"x").await.unwrap();
        assert_eq!(soon(theirs.first_byte()).await.unwrap(), Some(b'x'), "it tells the protocol");
        let error = soon(theirs.read_u8()).await.unwrap_err();
        assert!(error.to_string().contains("connection to this service"), "{error}");
        assert_eq!(theirs.attachments().alive(), 2);
    });
}

#[test]
fn a_listening_socket_is_refused_as_an_attachment() {
    local(async {
        let (mut ours, mut theirs) = streams(16);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        ours.outgoing().push(Arc::new(listener.into()));
        ours.write_all(b"x").await.unwrap();
        let error = soon(theirs.read_u8()).await.unwrap_err();
        assert!(error.to_string().contains("is a listening socket"), "{error}");
        assert_eq!(theirs.attachments().alive(), 0);
    });
}

#[test]
fn a_full_socket_neither_loses_nor_doubles_descriptors() {
    local(async {
        let (mut ours, mut theirs) = streams(64);
        let attachments = theirs.attachments().clone();
        let sending = tokio::task::spawn_local(async move {
            for number in 0..20 {
                ours.outgoing().push(file(2 * number));
                ours.outgoing().push(file(2 * number + 1));
                // More than the socket holds, so that writes are cut and refused at every place.
                ours.write_all(&vec![0; 300_000]).await.unwrap();
            }
        });
        let mut total = 0;
        let mut block = vec![0; 10_000];
        while total < 20 * 300_000 {
            total += soon(theirs.read(&mut block)).await.unwrap();
        }
        soon(sending).await.unwrap();
        assert_eq!(attachments.alive(), 40);
        for number in 0..40 {
            assert_eq!(number_in(attachments.get(number).unwrap()), number);
        }
    });
}

#[test]
fn what_comes_behind_a_message_with_descriptors_is_read_without_another_event() {
    local(async {
        let (mut ours, mut theirs) = streams(16);
        for (number, part) in [&b"with one, "[..], b"with one more, ", b"with none"].into_iter().enumerate() {
            if number < 2 {
                ours.outgoing().push(file(number as u32));
            }
            ours.write_all(part).await.unwrap();
        }
        // All is there before the first look: the kernel tells of it once, and each read ends behind a message.
        let mut read = Vec::new();
        while read.len() < 34 {
            soon(theirs.read_buf(&mut read)).await.unwrap();
        }
        assert_eq!(read, b"with one, with one more, with none");
        assert_eq!(theirs.attachments().alive(), 2);
    });
}

#[test]
fn what_a_full_read_has_left_is_read_without_another_event() {
    local(async {
        let (mut ours, mut theirs) = streams(16);
        for length in [READ, 2 * READ, 2 * READ + 1] {
            ours.write_all(&vec![7; length]).await.unwrap();
            let mut read = vec![0; length];
            soon(theirs.read_exact(&mut read)).await.unwrap();
        }
    });
}

#[test]
fn a_socket_that_was_emptied_is_read_again_after_the_next_event_and_not_before() {
    local(async {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut theirs = FdStream::new(theirs, 16).unwrap();
        for round in 0..100 {
            ours.write_u8(round).await.unwrap();
            assert_eq!(soon(theirs.read_u8()).await.unwrap(), round);
            // The runtime has yet to hear of these.
            ours.write_u8(round).await.unwrap();
            assert!(
                poll!(Box::pin(theirs.first_byte())).is_pending(),
                "it looks though nothing tells of more"
            );
            ours.write_u8(round).await.unwrap();
            assert_eq!(soon(theirs.read_u16()).await.unwrap(), u16::from_be_bytes([round; 2]));
        }
    });
}

#[test]
fn no_byte_of_a_sender_on_another_thread_is_missed_between_a_read_and_the_next_event() {
    local(async {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut theirs = FdStream::new(UnixStream::from_std(theirs).unwrap(), 16).unwrap();
        let (told, tells) = std::sync::mpsc::channel();
        // One is sent as soon as the one before it has been read, and sometimes a little later.
        let sending = std::thread::spawn(move || {
            for round in tells {
                (0..round % 64).for_each(|_| std::hint::spin_loop());
                (&ours).write_all(&[0; 2][..=(round % 2)]).unwrap();
            }
        });
        for round in 0..20_000 {
            told.send(round).unwrap();
            let mut read = [0; 2];
            soon(theirs.read_exact(&mut read[..=(round % 2)])).await.unwrap();
        }
        drop(told);
        sending.join().unwrap();
    });
}

#[test]
fn a_sender_of_single_bytes_is_understood() {
    local(async {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let queue = theirs.as_fd().try_clone_to_owned().unwrap();
        let (handler, _) = Handler::new();
        serve(theirs, &Limits::default(), handler.serve());
        let day = Duration::from_hours(24);
        for byte in framed(&request(5, day, ProbeRequest::Grow { bytes: 3 })) {
            ours.write_all(&[byte]).await.unwrap();
            // Each is read alone, not two together.
            let taken = async {
                while rustix::io::ioctl_fionread(&queue).unwrap() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            soon(taken).await;
        }
        let reply = Raw::new(ours).reply().await.unwrap();
        assert!(
            matches!(reply.message, Ok(ProbeResponse::Grow(text)) if reply.request_id == 5 && text == "xxx")
        );
    });
}

#[test]
fn the_first_byte_can_be_looked_at_and_is_still_there() {
    local(async {
        let (mut ours, mut theirs) = streams(16);
        ours.outgoing().push(file(7));
        ours.write_all(b"\0rest").await.unwrap();
        assert_eq!(soon(theirs.first_byte()).await.unwrap(), Some(0));
        assert_eq!(number_in(theirs.attachments().get(0).unwrap()), 7);
        drop(ours);
        let mut all = Vec::new();
        soon(theirs.read_to_end(&mut all)).await.unwrap();
        assert_eq!(all, b"\0rest");
        assert_eq!(soon(theirs.first_byte()).await.unwrap(), None);
    });
}

#[test]
fn a_full_backlog_and_a_long_path_are_no_obstacles_to_a_client() {
    local(async {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("d".repeat(120));
        std::fs::create_dir(&long).unwrap();
        let path = long.join("rpc.sock");
        let at = std::fs::File::open(&long).unwrap();
        let short = format!("/proc/self/fd/{}/rpc.sock", std::os::fd::AsRawFd::as_raw_fd(&at));
        let listener = std::os::unix::net::UnixListener::bind(short).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        listener.set_nonblocking(true).unwrap();
        let _first = soon(wire::connect(&path)).await.unwrap();
        // The backlog is full now; the next one waits until somebody accepts.
        let mut second = Box::pin(wire::connect_at(at.as_fd(), "rpc.sock"));
        assert!(futures::poll!(&mut second).is_pending());
        let listener = UnixListener::from_std(listener).unwrap();
        soon(listener.accept()).await.unwrap();
        soon(second).await.unwrap();
        let missing = soon(wire::connect(long.join("missing"))).await.unwrap_err();
        assert_eq!(missing, wire::ConnectError::Missing);
    });
}
