//! What crosses the boundary between `task` and `task-rpc`, and nothing else: the tarpc trait with its
//! requests and replies, the number grammar, faults, limits, the handshake, the scoreboard and the transports.
//!
//! [`wire`], [`handshake`], [`limits`] and [`scoreboard`] know nothing of [`Stats`](stats::Stats): they serve any tarpc trait.

pub mod amount;
pub mod crash;
pub mod fault;
pub mod handshake;
pub mod limits;
pub mod number;
pub mod numbers;
pub mod scoreboard;
pub mod stats;
pub mod text;
pub mod watched;
pub mod wire;
