//! The host library: any Rust program keeps a worker process of its own behind a Unix socket with it, whatever tarpc
//! trait the worker serves.
//!
//! [`Supervisor`](supervisor::Supervisor) starts and watches the worker that a [`WorkerSpec`](spawn::WorkerSpec)
//! describes, behind a [`Socket`](socket::Socket) in a [`RunDir`](run_dir::RunDir); a [`Client`](client::Client) calls
//! it and outlives it; the [`Journal`](journal::Journal) keeps what both say.

pub mod backward;
pub mod capture;
pub mod client;
pub mod control;
pub mod follow;
pub mod journal;
pub mod lock;
pub mod query;
pub mod record;
pub mod run_dir;
pub mod screen;
pub mod socket;
pub mod spawn;
pub mod store;
pub mod supervisor;
pub mod verdict;

#[cfg(test)]
mod unprivileged;
