//! Accepts connections while there is room, and drains them at the end.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::server::Serve;
use task_proto::limits::{ACCEPT_BACKOFF, ACCEPT_BACKOFF_MAX, BACKLOG, DRAIN, HEARTBEAT};
use task_proto::wire::json::Methods;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::connection::{self, Connection, Shared};
use crate::log;
use crate::seats::{Seat, Seats};

/// Serves what comes through the listener until `end`; then every connection is shut for reading, those that wait in
/// the backlog too, what was sent before is answered, and the listener is closed (this copy of it: it is never shut
/// down, as the next generation accepts from it). Ticks the heartbeat all the while.
pub(crate) async fn serve<S>(
    listener: AsyncFd<UnixListener>,
    shared: Rc<Shared>,
    make: impl Fn(&Connection) -> S + 'static,
    json: Option<Methods<S::Req, S::Resp>>,
    end: impl Future<Output = ()>,
) where
    S: Serve<Req: DeserializeOwned + 'static, Resp: Serialize + 'static> + Clone + 'static,
{
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
        let seats = Seats::new(shared.limits.connections);
        let welcome = |stream, seat| {
            let connection = connection::serve(stream, Rc::clone(&shared), Rc::clone(&make), json, seat);
            let mut connections = connections.borrow_mut();
            while let Some(ended) = connections.try_join_next() {
                report(ended);
            }
            connections.spawn_local(connection);
        };
        let mut end = pin!(end);
        tokio::select! {
            () = &mut end => {}
            never = accept(&listener, &seats, &welcome) => match never {},
        }
        seats.close();
        // With the seats that there are; for more of them it waits as long as a drain may take, as at a hand-over the
        // next generation empties the backlog, too.
        let _ = timeout(DRAIN, sweep(listener, &seats, &welcome)).await;
        let mut connections = connections.take();
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    tokio::select! {
        () = beat => {}
        () = log::summaries(&shared.scores) => {}
        () = work => {}
    }
}

async fn accept(
    listener: &AsyncFd<UnixListener>,
    seats: &Rc<Seats>,
    welcome: &impl Fn(UnixStream, Rc<Seat>),
) -> Infallible {
    let mut backoff = Backoff::default();
    loop {
        // Before `accept`: whom there is no room for waits in the backlog, not in an open connection.
        let seat = seats.take(waited_for(listener)).await;
        let accepted = loop {
            match listener
                .readable()
                .await
                .map(|mut ready| ready.try_io(|listener| listener.get_ref().accept()))
            {
                Ok(Ok(accepted)) => break accepted,
                Ok(Err(_would_block)) => {}
                Err(error) => break Err(error),
            }
        };
        match accepted {
            Ok((stream, _)) => {
                backoff = Backoff::default();
                admit(stream, seat, welcome);
            }
            Err(error) => backoff.wait(&error).await,
        }
    }
}

/// Accepts what was in the backlog when the drain began: nobody else might. Who connects from then on is left alone,
/// but for the few that come before the backlog is seen empty.
async fn sweep(listener: AsyncFd<UnixListener>, seats: &Rc<Seats>, welcome: &impl Fn(UnixStream, Rc<Seat>)) {
    let listener = listener.into_inner();
    let mut backoff = Backoff::default();
    let mut left = BACKLOG + 1;
    while left > 0 && is_waited_for(&listener) {
        // Nobody is to be told to leave: all have been.
        let seat = seats.take(std::future::pending()).await;
        match listener.accept() {
            Ok((stream, _)) => {
                left -= 1;
                admit(stream, seat, welcome);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => backoff.wait(&error).await,
        }
    }
}

fn admit(stream: std::os::unix::net::UnixStream, seat: Rc<Seat>, welcome: &impl Fn(UnixStream, Rc<Seat>)) {
    let us = rustix::process::getuid().as_raw();
    let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
    match stream.and_then(|stream| Ok((stream.peer_cred()?, stream))) {
        Ok((peer, stream)) if peer.uid() == us || peer.uid() == 0 => welcome(stream, seat),
        Ok((peer, _)) => {
            let (uid, pid) = (peer.uid(), peer.pid());
            tracing::warn!(log.target = "worker", uid, pid, "refused a connection of another user");
        }
        Err(error) => tracing::warn!(log.target = "worker", %error, "refused a connection of nobody"),
    }
}

/// Resolves when somebody waits in the backlog.
async fn waited_for(listener: &AsyncFd<UnixListener>) {
    // It fails only where the runtime ends.
    while let Ok(mut ready) = listener.readable().await {
        // What is remembered may be of a connection that has been accepted since.
        if is_waited_for(listener.get_ref()) {
            return;
        }
        ready.clear_ready();
    }
}

fn is_waited_for(listener: &UnixListener) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

/// The wait after `accept` failed.
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Backoff(ACCEPT_BACKOFF)
    }
}

impl Backoff {
    async fn wait(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionAborted {
            return;
        }
        // No descriptor or memory left, most likely; the connection stays in the backlog.
        let wait_ms = self.0.as_millis() as u64;
        tracing::warn!(log.target = "worker", %error, wait_ms, "cannot accept a connection");
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(ACCEPT_BACKOFF_MAX);
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(log.target = "worker", %error, "a connection's task failed");
    }
}
