//! The wire from end to end, over real sockets: each fault of stock tarpc that ours must not have (with stock tarpc
//! beside it, to show that the test can tell), the gate, descriptors, draining, and stock clients.

#![expect(clippy::unwrap_used, reason = "a test; clippy exempts only the test functions themselves")]

mod calls;
mod clocks;
mod descriptors;
mod drain;
mod faults;
mod gate;
mod greeting;
mod json;
mod json_limits;
mod long;
mod room;
#[expect(unreachable_pub, reason = "pub is for its siblings")]
mod support;
mod turns;

/// Runs a test on one thread, as both sides of the wire do.
fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}
