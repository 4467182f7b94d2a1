//! The worker library: a process that serves any tarpc trait on a Unix socket, under a host or alone.
//!
//! ```no_run
//! # use tarpc::{context::Context, server::Serve};
//! # use task_proto::limits::Limits;
//! #[tarpc::service]
//! trait Greeter {
//!     async fn greet(name: String) -> String;
//! }
//!
//! #[derive(Clone)]
//! struct Service;
//!
//! impl Greeter for Service {
//!     async fn greet(self, _: Context, name: String) -> String {
//!         format!("hello {name}")
//!     }
//! }
//!
//! let worker = task_worker::Worker::standalone("/tmp/greeter.sock", &Limits::default())?;
//! worker.serve("Greeter", |_connection| Service.serve())?;
//! # Ok::<(), task_worker::WorkerError>(())
//! ```
//!
//! A connection is a task on the one thread that does I/O, and its calls are futures of that task; a service
//! computes on threads of its own. Statistics are the business of [`engine`] and of the binary.

mod accept;
mod blamed;
mod call;
mod connection;
pub mod engine;
mod error;
mod lifeline;
mod log;
mod notify;
mod sandbox;
mod seats;
mod signals;
mod standalone;
mod supervised;
mod sys;
mod told;
mod worker;

pub use connection::Connection;
pub use error::WorkerError;
pub use task_proto::handshake::SandboxMode;
pub use task_proto::scoreboard::Progress;
pub use worker::Worker;
