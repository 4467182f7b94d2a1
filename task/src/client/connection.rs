//! One connection to a worker: its channel, who serves it, and which calls use it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
    /// Another descriptor of the socket; `None` should there have been no room for one.
    socket: Option<OwnedFd>,
    uses: Mutex<Uses>,
    dispatch: JoinHandle<()>,
}

/// Which calls use a connection, by trace id.
#[derive(Debug, Clone, Default)]
pub(super) struct Uses {
    /// Those under way.
    pub(super) calls: Vec<u128>,
    /// One that came to its end, or was dropped: it may have read what can be read only once.
    pub(super) over: Option<u128>,
}

impl<Req, Resp> Connection<Req, Resp>
where
    Req: RequestName + Serialize + Send + Sync + 'static,
    Resp: DeserializeOwned + Send + 'static,
{
    pub(super) fn over(stream: UnixStream, limits: &Limits, attachments: &[Arc<OwnedFd>]) -> Self {
        let socket = stream.as_fd().try_clone_to_owned().ok();
        // A worker sends no descriptors.
        let transport = wire::client(FdStream::new(stream, 0), limits);
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
        Connection { channel: client.client, greeting, socket, uses: Mutex::default(), dispatch }
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
        if let Some(socket) = &self.socket {
            // It fails only where the connection has ended already.
            let _ = shutdown(socket, Shutdown::Read);
        } else {
            self.dispatch.abort();
        }
    }

    pub(super) fn uses(&self) -> Uses {
        self.lock().clone()
    }

    /// Notes that a call uses it, until the result is dropped.
    pub(super) fn used_by(&self, trace_id: u128) -> Used<'_, Req, Resp> {
        self.lock().calls.push(trace_id);
        Used { connection: self, trace_id, traceless: false }
    }

    fn lock(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Req, Resp> Drop for Connection<Req, Resp> {
    fn drop(&mut self) {
        self.dispatch.abort();
    }
}

/// A call that uses a connection. Dropped, it has come to its end.
#[derive(Debug)]
pub(super) struct Used<'a, Req, Resp> {
    connection: &'a Connection<Req, Resp>,
    trace_id: u128,
    traceless: bool,
}

impl<Req, Resp> Used<'_, Req, Resp> {
    /// The call was not executed, or what it left behind is known.
    pub(super) fn without_trace(mut self) {
        self.traceless = true;
    }
}

impl<Req, Resp> Drop for Used<'_, Req, Resp> {
    fn drop(&mut self) {
        let mut uses = self.connection.lock();
        if let Some(at) = uses.calls.iter().position(|call| *call == self.trace_id) {
            uses.calls.swap_remove(at);
        }
        if !self.traceless {
            uses.over = Some(self.trace_id);
        }
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
