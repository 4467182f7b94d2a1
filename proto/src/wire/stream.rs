//! A Unix stream that carries descriptors beside its bytes (`SCM_RIGHTS`).
//!
//! Every read of a server is a `recvmsg`: a plain `read` would lose the descriptors that came with its bytes. Writes without
//! a descriptor are plain `send`s, so that a sandbox may deny `sendmsg` to a side that never sends one.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustix::io::retry_on_intr;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, getpeername, getsockname, recv, recvmsg, send,
    sendmsg, shutdown,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::task::coop::poll_proceed;
use tokio::time::{Sleep, sleep};

use super::attachments::{Attachment, Attachments, are_stalled};
use super::events::Room;
use super::turns::Turns;
use crate::limits::{CLOSING, DESCRIPTORS_PER_MESSAGE, READ, ROOM_RETRY, STRETCH_READS};
use crate::watched::Watched;

const ROOM: usize = rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE));

/// A Unix stream whose descriptors are collected on the way in and sent along on the way out.
#[derive(Debug)]
pub struct FdStream {
    /// Watched for what comes to be read.
    socket: Watched,
    room: Option<Room>,
    full: Option<Full>,
    /// What was received and not yet read; `READ` bytes long once there was a read.
    buffer: Vec<u8>,
    unread: std::ops::Range<usize>,
    ended: bool,
    /// Why descriptors were refused: the next read says it.
    refused: Option<io::Error>,
    delivered: u64,
    written: u64,
    /// Of reads.
    turns: Turns,
    /// Whether the end of reading is our own doing.
    stopped: AtomicBool,
    /// Whether descriptors that come are lost.
    is_plain: bool,
    attachments: Attachments,
    outgoing: Outgoing,
}

impl FdStream {
    /// Wraps a socket on which at most `attachments` received descriptors may be alive at once. It belongs to the tokio runtime
    /// that this is called within, from then on.
    ///
    /// # Errors
    /// The system's: no descriptor or memory to watch it with.
    pub fn new(socket: UnixStream, attachments: usize) -> io::Result<Self> {
        let socket = Watched::new(socket.into_std()?.into())?;
        Ok(FdStream {
            socket,
            room: None,
            full: None,
            buffer: Vec::new(),
            unread: 0..0,
            ended: false,
            refused: None,
            delivered: 0,
            written: 0,
            turns: Turns::new(STRETCH_READS),
            stopped: AtomicBool::new(false),
            is_plain: false,
            attachments: Attachments::new(attachments),
            outgoing: Outgoing::default(),
        })
    }

    /// The same without descriptors that come in: they are lost. A plain read takes 0.3 µs less, a fiftieth of a call.
    pub(super) fn plain(self) -> Self {
        FdStream { is_plain: true, ..self }
    }

    /// Waits for the first byte, which tells the protocol, and leaves it to be read; `None`: the peer sent nothing.
    pub async fn first_byte(&mut self) -> io::Result<Option<u8>> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await?;
        Ok(self.buffer[self.unread.clone()].first().copied())
    }

    /// The descriptors received so far.
    pub fn attachments(&self) -> &Attachments {
        &self.attachments
    }

    /// The queue of descriptors to send.
    pub fn outgoing(&self) -> &Outgoing {
        &self.outgoing
    }

    /// Reads no more than what was sent before: the peer's next write fails.
    pub fn stop_reading(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        // It fails only where the peer is gone already.
        let _ = shutdown(self, Shutdown::Read);
    }

    /// Whether the end of the stream may be of our own making: what comes before it may have been cut off.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Whether the peer's end of stream was read.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Whether all that was received has been read.
    pub(crate) fn is_read(&self) -> bool {
        self.unread.is_empty()
    }

    /// Bytes handed out so far.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Appends what has come to a buffer; 0 bytes: the stream has ended.
    pub(super) fn poll_append(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_fill(cx))?;
        if let Some(error) = self.refused.take() {
            return Poll::Ready(Err(error));
        }
        let unread = std::mem::replace(&mut self.unread, 0..0);
        into.extend_from_slice(&self.buffer[unread.clone()]);
        Poll::Ready(Ok(unread.len()))
    }

    /// What tells when a full socket has room.
    fn ask_for_room(&mut self) -> io::Result<Full> {
        let room = match self.room.take().map_or_else(|| Room::new(&self.socket), Ok) {
            Ok(room) => self.room.insert(room),
            Err(_) => return Ok(Full::Unwatched(Box::pin(sleep(ROOM_RETRY)))),
        };
        room.ask(&self.socket, true)?;
        Ok(Full::Watched)
    }

    /// Ready unless the socket is full still.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match (&mut self.full, &self.room) {
            (None, _) => return Poll::Ready(Ok(())),
            (Some(Full::Unwatched(pause)), _) => ready!(pause.as_mut().poll(cx)),
            (Some(Full::Watched), room) => {
                if let Some(room) = room {
                    ready!(room.poll(cx))?;
                    room.ask(&self.socket, false)?;
                }
            }
        }
        self.full = None;
        Poll::Ready(Ok(()))
    }

    /// Ready once there are unread bytes or the stream has ended.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() && !self.ended {
            ready!(self.socket.poll_readable(cx))?;
            ready!(self.turns.poll(cx, None));
            self.buffer.resize(READ, 0);
            let FdStream { socket, buffer, attachments, is_plain, .. } = self;
            let mut received = None;
            let tried = socket.try_read(|socket| {
                let one = if *is_plain {
                    receive_plain(socket, buffer)?
                } else {
                    receive(socket, buffer, attachments)?
                };
                match received.insert(one) {
                    // As tokio's own reads do: the next one waits for an event, and need not find the socket empty.
                    Received { all: true, .. } => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(()),
                }
            });
            match (received, tried) {
                (Some(Received { bytes: 0, .. }), _) => self.ended = true,
                (Some(Received { bytes, welcome: Ok(()), all }), _) => {
                    self.unread = 0..bytes;
                    if all {
                        self.turns.reset();
                    }
                }
                // Nothing of it is read, but `first_byte` can tell the protocol in which to say why.
                (Some(Received { welcome: Err(error), .. }), _) => {
                    self.unread = 0..1;
                    self.refused = Some(error);
                }
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                (None, _) => self.turns.reset(),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A socket that had no room for more.
#[derive(Debug)]
enum Full {
    /// Its [`Room`] is asked.
    Watched,
    /// There is no descriptor or memory to watch it with: it is tried again after a while.
    Unwatched(Pin<Box<Sleep>>),
}

/// What one read of a socket has brought.
struct Received {
    bytes: usize,
    /// Whether the descriptors that came with them are.
    welcome: io::Result<()>,
    /// Whether nothing was left: the kernel's next event tells of more. Neither a read that was full says so nor one
    /// that brought descriptors, which ends behind the message they came with.
    all: bool,
}

/// Who serves sends no descriptors. Behind one that does, the rest of what came is heard with the next byte.
fn receive_plain(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let room = buffer.len();
    let (bytes, _) = retry_on_intr(|| recv(socket, &mut *buffer, RecvFlags::empty()))?;
    Ok(Received { bytes, welcome: Ok(()), all: 0 < bytes && bytes < room })
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], attachments: &Attachments) -> io::Result<Received> {
    let room = buffer.len();
    let mut space = [MaybeUninit::uninit(); ROOM];
    // What finds no room the kernel drops, without the wait of a close.
    let stalled = are_stalled();
    let mut control = RecvAncillaryBuffer::new(if stalled { &mut [] } else { &mut space });
    let message = retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let bytes = message.bytes;
    let mut all = 0 < bytes && bytes < room;
    let mut received = Vec::new();
    for part in control.drain() {
        all = false;
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            received.extend(rights.map(Attachment::from));
        }
    }
    let refused = |reason| {
        let welcome = Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        Ok(Received { bytes, welcome, all: false })
    };
    // Some descriptors were lost, so the numbers of all later ones would be wrong. (Padding may have had room for
    // one too many, which is no reason to let it depend on the padding.)
    if message.flags.contains(ReturnFlags::CTRUNC) || received.len() > DESCRIPTORS_PER_MESSAGE {
        return refused(if stalled {
            format!(
                "no more attachments can be had until those are closed, {CLOSING} by now, whose file systems do not answer"
            )
        } else {
            format!("more than {DESCRIPTORS_PER_MESSAGE} descriptors in one message, or no room for them")
        });
    }
    if let Some(reason) = received.iter().find_map(|descriptor| unwanted(descriptor.as_fd(), socket)) {
        return refused(reason.to_owned());
    }
    Ok(Received { bytes, welcome: attachments.add(received), all })
}

/// Why a descriptor is not kept. The listener of this service could be shut down through a copy of it.
fn unwanted(descriptor: BorrowedFd<'_>, connection: BorrowedFd<'_>) -> Option<&'static str> {
    if leads_here(descriptor, connection) {
        Some("an attachment is a connection to this service, which would keep itself open")
    } else if socket_acceptconn(descriptor) == Ok(true) {
        Some("an attachment is a listening socket, which has no numbers")
    } else {
        None
    }
}

/// Whether a descriptor is the client's end of a connection to the same listener as `connection`, maybe of that one
/// itself. While we held it, nobody would ever see its client go: an end of a connection hangs up when its last copy
/// is closed. A cycle needs such an end that was connected when it was sent, so its peer has a name to compare.
fn leads_here(descriptor: BorrowedFd<'_>, connection: BorrowedFd<'_>) -> bool {
    let unix = |address| SocketAddrUnix::try_from(address).ok().filter(|address| !address.is_unnamed());
    let peer = getpeername(descriptor).ok().flatten().and_then(unix);
    // Most attachments are files and pipes, which have no peer to ask for.
    peer.is_some_and(|peer| getsockname(connection).ok().and_then(unix) == Some(peer))
}

impl AsyncRead for FdStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_fill(cx))?;
        if let Some(error) = self.refused.take() {
            return Poll::Ready(Err(error));
        }
        let count = buf.remaining().min(self.unread.len());
        let start = self.unread.start;
        buf.put_slice(&self.buffer[start..start + count]);
        self.unread.start += count;
        self.delivered += count as u64;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FdStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let turn = ready!(poll_proceed(cx));
        loop {
            ready!(self.poll_room(cx))?;
            match self.outgoing.send_with(self.socket.as_fd(), bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.full = Some(self.ask_for_room()?);
                }
                Ok(count) => {
                    turn.made_progress();
                    self.written += count as u64;
                    return Poll::Ready(Ok(count));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(shutdown(&self.socket, Shutdown::Write)?))
    }
}

impl AsFd for FdStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The descriptors that wait for the next bytes written to a connection: the first
/// [`DESCRIPTORS_PER_MESSAGE`] ride on the first byte, more of them on the bytes after it.
#[derive(Debug, Clone, Default)]
pub struct Outgoing(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    next: u32,
    waiting: VecDeque<Arc<OwnedFd>>,
}

impl Outgoing {
    /// Queues a descriptor, to go before the last byte of the next frame; returns the number that it has on the other side.
    pub fn push(&self, descriptor: Arc<OwnedFd>) -> u32 {
        let mut queue = lock(&self.0);
        queue.waiting.push_back(descriptor);
        queue.next += 1;
        queue.next - 1
    }

    /// One write: of all bytes with the waiting descriptors, or of one byte with as many as fit in a message.
    fn send_with(&self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        let mut queue = lock(&self.0);
        if queue.waiting.is_empty() {
            return Ok(retry_on_intr(|| send(socket, bytes, SendFlags::NOSIGNAL))?);
        }
        let batch: Vec<_> =
            queue.waiting.iter().take(DESCRIPTORS_PER_MESSAGE).map(|descriptor| descriptor.as_fd()).collect();
        let bytes = if batch.len() < queue.waiting.len() { &bytes[..1] } else { bytes };
        let mut space = [MaybeUninit::uninit(); ROOM];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&batch));
        let count =
            retry_on_intr(|| sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))?;
        // They went with the first byte, even if not all bytes did; on an error none went.
        let sent = batch.len();
        queue.waiting.drain(..sent);
        Ok(count)
    }
}

/// A panic elsewhere leaves these tables whole: each change is one step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
