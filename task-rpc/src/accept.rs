//! Accepts connections while there is room, and drains them at the end.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::server::Serve;
use task_proto::limits::{ACCEPT_BACKOFF, ACCEPT_BACKOFF_MAX, HEARTBEAT};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::connection::{self, Connection, Shared};

/// Serves what comes through the listener until `end`; then the listener is closed (this copy of it: it is never
/// shut down, as the next generation accepts from it), every connection is shut for reading, and what was sent
/// before is answered. Ticks the heartbeat all the while.
pub(crate) async fn serve<S>(
    listener: UnixListener,
    shared: Rc<Shared>,
    make: impl Fn(&Connection) -> S + 'static,
    end: impl Future<Output = ()>,
) where
    S: Serve<Req: DeserializeOwned + 'static, Resp: Serialize + 'static> + Clone + 'static,
{
    let (drain, draining) = watch::channel(false);
    let connections = RefCell::new(JoinSet::new());
    let heart = shared.scores.clone();
    let beat = async {
        let mut ticks = interval(HEARTBEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            heart.tick();
        }
    };
    let work = async {
        let make = Rc::new(make);
        let limit = shared.limits.connections;
        let mut end = pin!(end);
        tokio::select! {
            () = &mut end => {}
            never = accept(&listener, limit, |stream, permit| {
                let connection = connection::serve(stream, Rc::clone(&shared), Rc::clone(&make), draining.clone());
                let mut connections = connections.borrow_mut();
                while let Some(ended) = connections.try_join_next() {
                    report(ended);
                }
                connections.spawn_local(async move {
                    connection.await;
                    drop(permit);
                });
            }) => match never {},
        }
        drop(listener);
        drain.send_replace(true);
        let mut connections = connections.take();
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    tokio::select! {
        () = beat => {}
        () = work => {}
    }
}

async fn accept(
    listener: &UnixListener,
    limit: usize,
    welcome: impl Fn(UnixStream, OwnedSemaphorePermit),
) -> Infallible {
    let room = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
    let us = rustix::process::getuid().as_raw();
    let mut backoff = ACCEPT_BACKOFF;
    loop {
        // Before `accept`: whom there is no room for waits in the backlog, not in an open connection.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            unreachable!("nobody closes the semaphore")
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                backoff = ACCEPT_BACKOFF;
                match stream.peer_cred() {
                    Ok(peer) if peer.uid() == us || peer.uid() == 0 => welcome(stream, permit),
                    Ok(peer) => {
                        let (uid, pid) = (peer.uid(), peer.pid());
                        tracing::warn!(
                            log.target = "worker",
                            uid,
                            pid,
                            "refused a connection of another user"
                        );
                    }
                    Err(error) => {
                        tracing::warn!(log.target = "worker", %error, "refused a connection of nobody");
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // No descriptor or memory left, most likely; the connection stays in the backlog.
                let wait_ms = backoff.as_millis() as u64;
                tracing::warn!(log.target = "worker", %error, wait_ms, "cannot accept a connection");
                sleep(backoff).await;
                backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
            }
        }
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(log.target = "worker", %error, "a connection's task failed");
    }
}
