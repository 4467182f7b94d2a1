//! The wire: tarpc in length-delimited frames of `MessagePack` over a Unix socket, for any tarpc trait.
//!
//! ```text
//! tarpc's channels ── transport ── tokio_serde::Framed + codec ── LengthDelimitedCodec ── stream ── socket
//! ```
//!
//! [`stream`] carries bytes and descriptors, [`codec`] turns frames into tarpc's messages, [`transport`] adds the
//! gate for calls in flight and the two ends' manners. What stock tarpc does wrong and these must not is in
//! `tests/wire/faults.rs`, one test each.

pub mod codec;
mod connect;
pub mod gate;
pub mod hangup;
mod message;
pub mod stream;
pub mod transport;

pub use connect::{ConnectError, connect, connect_at};
pub use gate::{Gated, Permit, execute, serve_gated};
pub use hangup::Hangup;
pub use message::{Greeting, clamped};
pub use stream::{Attachments, FdStream, Outgoing};
pub use transport::{ClientTransport, NEVER_SENT, ServerTransport, client, server};
