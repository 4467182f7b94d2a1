//! The permit that a request in flight holds.

use tarpc::ServerError;
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
    pub(super) message: Result<Req, ServerError>,
    pub(super) permit: Permit,
}

impl<Req> Gated<Req> {
    /// The request; or why it could not be decoded, which is to be the reply.
    pub fn message(&self) -> Result<&Req, &ServerError> {
        self.message.as_ref()
    }
}
