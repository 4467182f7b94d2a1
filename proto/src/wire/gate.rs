//! The permit that a request in flight holds, and the way a handler is run under it.

use std::any::Any;
use std::cell::Cell;
use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use tarpc::server::Serve;
use tarpc::{RequestName, ServerError, context};
use tokio::sync::OwnedSemaphorePermit;

/// Room for one call in flight; dropping it makes the room for another, and wakes the transport.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Permit {
    pub(super) fn new(permit: OwnedSemaphorePermit) -> Self {
        Permit(permit)
    }
}

/// A request with its permit. However it ends — answered, expired, cancelled, refused as a duplicate — the permit
/// ends with it; replies are never counted, because most of these endings send none.
pub struct Gated<Req> {
    message: Result<Req, ServerError>,
    permit: Cell<Option<Permit>>,
}

impl<Req> Gated<Req> {
    pub(super) fn new(message: Result<Req, ServerError>, permit: Permit) -> Self {
        Gated { message, permit: Cell::new(Some(permit)) }
    }

    /// Keeps it beyond the request.
    pub(super) fn take_permit(&self) -> Option<Permit> {
        self.permit.take()
    }

    /// The request; or why it could not be decoded, which is to be the reply.
    pub fn message(&self) -> Result<&Req, &ServerError> {
        self.message.as_ref()
    }
}

impl<Req: RequestName> RequestName for Gated<Req> {
    fn name(&self) -> &str {
        self.message.as_ref().map_or("undecodable", RequestName::name)
    }
}

/// Lets a service take gated requests: holds the permit while it serves, answers an undecodable request with its
/// reason, and turns a panic of the handler into an error reply (a caller of stock tarpc waits out its deadline).
pub fn serve_gated<S: Serve>(serve: S) -> ServeGated<S> {
    ServeGated(serve)
}

/// See [`serve_gated`].
#[derive(Debug, Clone, Copy)]
pub struct ServeGated<S>(S);

impl<S: Serve> Serve for ServeGated<S> {
    type Req = Gated<S::Req>;
    type Resp = S::Resp;

    async fn serve(self, context: context::Context, request: Self::Req) -> Result<S::Resp, ServerError> {
        let Gated { message, permit: _permit } = request;
        // The handler is dropped with its panic, so nobody sees what it left half done of its own.
        AssertUnwindSafe(self.0.serve(context, message?)).catch_unwind().await.unwrap_or_else(|panic| {
            Err(ServerError::new(ErrorKind::Other, format!("the handler panicked: {}", text(&*panic))))
        })
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}
