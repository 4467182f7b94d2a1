//! The wire: two dialects of one Unix socket, for any tarpc trait. tarpc in length-delimited frames of `MessagePack`,
//! and JSON-RPC, one message a line.
//!
//! ```text
//! tarpc's channels ─┬─ client ──────────┬── frames: tokio_serde::Framed + codec + LengthDelimitedCodec ─┬── stream ── socket
//!                   └─ server: the gate ┴── json: lines ────────────────────────────────────────────────┘
//! ```
//!
//! [`stream`] carries bytes and descriptors, `frames` and [`json`] turn them into tarpc's messages, `server` holds the
//! gate for calls in flight and the clocks. What stock tarpc does wrong and these must not is in
//! `tests/wire/faults.rs`, one test each.

mod attachments;
mod calls;
mod client;
mod clocks;
mod codec;
mod connect;
mod decoder;
mod events;
mod frames;
pub mod gate;
pub mod json;
mod message;
mod pack;
mod server;
pub mod stream;
mod turns;
mod unpack;

pub use attachments::{Attachment, Attachments};
pub use calls::{Answer, Calls, Handler, execute};
pub use client::{ClientTransport, NEVER_SENT, client};
pub use connect::{ConnectError, connect, connect_at};
pub use decoder::{Decoder, Decoders};
pub use events::Hangup;
pub use frames::{Frames, ServerTransport, server};
pub use gate::{Gated, Permit};
pub use json::{Lines, json_server};
pub use message::{Greeting, clamped};
pub use server::{Dialect, Refused, Server, refusal};
pub use stream::{FdStream, Outgoing};
