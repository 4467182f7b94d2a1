//! One connection to a worker: its channel, who serves it, and whether it was used.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{Shutdown, shutdown};
use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use tarpc::RequestName;
use tarpc::client::{Channel, Config};
use task_proto::limits::Limits;
use task_proto::wire::{self, FdStream, Greeting};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// A connection with its attachments, for as many calls as want it. Dropped, it is closed.
#[derive(Debug)]
pub(super) struct Connection<Req, Resp> {
    channel: Channel<Arc<Message<Req>>, Resp>,
    greeting: Arc<OnceLock<Greeting>>,
    /// Another descriptor of the socket.
    socket: OwnedFd,
    /// How many calls were handed to it that may yet be executed.
    pending: AtomicUsize,
    /// Some call was.
    executed: AtomicBool,
    dispatch: JoinHandle<()>,
}

impl<Req, Resp> Connection<Req, Resp>
where
    Req: RequestName + Serialize + Send + Sync + 'static,
    Resp: DeserializeOwned + Send + 'static,
{
    /// Fails where no descriptor is free for another of the socket, or the system watches no more of them.
    pub(super) fn over(
        stream: UnixStream,
        limits: &Limits,
        attachments: &[Arc<OwnedFd>],
    ) -> io::Result<Self> {
        let socket = fcntl_dupfd_cloexec(&stream, 0)?;
        // A worker sends no descriptors.
        let transport = wire::client(FdStream::new(stream, 0)?, limits);
        for attachment in attachments {
            transport.outgoing().push(Arc::clone(attachment));
        }
        let greeting = transport.greeting();
        let client = tarpc::client::new(Config::default(), transport);
        let dispatch = tokio::spawn(async move {
            if let Err(error) = client.dispatch.await {
                tracing::debug!("connection: {error}");
            }
        });
        let (pending, executed) = (AtomicUsize::new(0), AtomicBool::new(false));
        Ok(Connection { channel: client.client, greeting, socket, pending, executed, dispatch })
    }
}

impl<Req, Resp> Connection<Req, Resp> {
    pub(super) fn channel(&self) -> &Channel<Arc<Message<Req>>, Resp> {
        &self.channel
    }

    /// Who serves it; `None`: nothing of it was executed.
    pub(super) fn greeting(&self) -> Option<&Greeting> {
        self.greeting.get()
    }

    /// Ends it after what was received by now, which is still read.
    pub(super) fn end_reading(&self) {
        // It fails only where the connection has ended already.
        let _ = shutdown(&self.socket, Shutdown::Read);
    }

    /// Notes that a call is handed to it.
    pub(super) fn begin_use(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// That call was not executed, and will not be.
    pub(super) fn undo_use(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    /// That call was executed to its end.
    pub(super) fn end_use(&self) {
        self.executed.store(true, Ordering::Relaxed);
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a call that was handed to it may yet be executed.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed) > 0
    }

    /// Whether a call was executed to its end.
    pub(super) fn has_executed(&self) -> bool {
        self.executed.load(Ordering::Relaxed)
    }
}

impl<Req, Resp> Drop for Connection<Req, Resp> {
    fn drop(&mut self) {
        self.dispatch.abort();
    }
}

/// A request that knows whether it was handed to a connection.
#[derive(Debug)]
pub(super) struct Message<Req> {
    request: Req,
    sent: AtomicBool,
}

impl<Req> Message<Req> {
    pub(super) fn new(request: Req) -> Self {
        Message { request, sent: AtomicBool::new(false) }
    }

    pub(super) fn request(&self) -> &Req {
        &self.request
    }

    /// It begins anew.
    pub(super) fn is_to_be_sent(&self) {
        self.sent.store(false, Ordering::Relaxed);
    }

    /// Whether the connection may have sent any of it.
    pub(super) fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }
}

impl<Req: Serialize> Serialize for Message<Req> {
    /// The transport encodes a request in order to write it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.sent.store(true, Ordering::Relaxed);
        self.request.serialize(serializer)
    }
}

impl<Req: RequestName> RequestName for Message<Req> {
    fn name(&self) -> &str {
        self.request.name()
    }
}
