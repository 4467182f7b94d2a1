//! Accepts connections while there is room, and drains them at the end.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tarpc::server::Serve;
use task_proto::limits::{ACCEPT_BACKOFF, ACCEPT_BACKOFF_MAX, BACKLOG, BEGUN, HEARTBEAT, REFUSALS, REFUSED};
use task_proto::wire;
use task_proto::wire::json::Methods;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::connection::{self, Connection, Shared};
use crate::log;
use crate::seats::{OverShare, Seat, Seats};
use crate::told::Told;

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
    S: Serve<Req: DeserializeOwned + Send + 'static, Resp: Serialize + 'static> + Clone + 'static,
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
        let (waiting, refused, json) = (RefCell::default(), RefCell::default(), json.is_some());
        let door = Door { listener, seats, waiting, json, refused, shared: Rc::clone(&shared) };
        let mut end = pin!(end);
        tokio::select! {
            () = &mut end => {}
            never = door.accept(&welcome) => match never {},
        }
        door.seats.close();
        // With the seats that there are; for more of them it waits as long as a drain may take, as at a hand-over the
        // next generation empties the backlog, too.
        let _ = timeout(shared.limits.drain, door.sweep(&welcome)).await;
        let mut connections = connections.take();
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    tokio::select! {
        () = beat => {}
        () = log::summaries(&shared.scores, &shared.told.refused) => {}
        () = work => {}
    }
}

/// The way in.
struct Door {
    listener: AsyncFd<UnixListener>,
    seats: Rc<Seats>,
    /// Who has been accepted and has no seat yet. Whose process it is, is known only then, and decides whether others
    /// must make room.
    waiting: RefCell<Option<Guest>>,
    /// Whether JSON is spoken.
    json: bool,
    /// Those that are being told that there is no seat for them.
    refused: RefCell<JoinSet<()>>,
    shared: Rc<Shared>,
}

struct Guest {
    stream: UnixStream,
    pid: i32,
}

impl Door {
    async fn accept(&self, welcome: &impl Fn(UnixStream, Rc<Seat>)) -> Infallible {
        let mut backoff = Backoff::default();
        loop {
            // A readiness that nobody uses is asked for again: it fails only where the runtime ends.
            let accepted = match self.listener.readable().await {
                Ok(mut ready) => ready.try_io(|listener| next(listener.get_ref())),
                Err(error) => Ok(Err(error)),
            };
            match accepted {
                Ok(Ok(stream)) => {
                    backoff = Backoff::default();
                    let Some(guest) = identified(stream, &self.shared.told) else { continue };
                    let pid = guest.pid;
                    self.waiting.replace(Some(guest));
                    let seat = self.seats.take(pid).await;
                    let Some(guest) = self.waiting.take() else { continue };
                    match seat {
                        Ok(seat) => welcome(guest.stream, seat),
                        Err(over) => self.refuse(guest, &over),
                    }
                }
                Ok(Err(error)) => backoff.wait(&error).await,
                Err(_would_block) => {}
            }
        }
    }

    /// Accepts what was in the backlog when the drain began: nobody else might. Who connects from then on is left
    /// alone, but for the few that come before the backlog is seen empty.
    async fn sweep(self, welcome: &impl Fn(UnixStream, Rc<Seat>)) {
        let Door { listener, seats, waiting, shared, .. } = self;
        let listener = listener.into_inner();
        let mut guest = waiting.take();
        let mut backoff = Backoff::default();
        let mut left = BACKLOG + 1;
        loop {
            if let Some(guest) = guest.take()
                && let Ok(seat) = seats.take(guest.pid).await
            {
                welcome(guest.stream, seat);
            }
            if left == 0 || !is_waited_for(&listener) {
                return;
            }
            match next(&listener) {
                Ok(stream) => {
                    left -= 1;
                    guest = identified(stream, &shared.told);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => backoff.wait(&error).await,
            }
        }
    }

    /// Says why, in the protocol that the client is about to speak: others are not kept waiting for that.
    fn refuse(&self, Guest { stream, pid }: Guest, OverShare { connections }: &OverShare) {
        let mut refused = self.refused.borrow_mut();
        while refused.try_join_next().is_some() {}
        if refused.len() < REFUSALS {
            let (limits, json) = (Arc::clone(&self.shared.limits), self.json);
            let reason = format!(
                "process {pid} has {connections} of the {} connections, none of them idle, and can have no more now; nothing was executed",
                limits.connections
            );
            refused.spawn_local(async move {
                // Who says nothing hears nothing.
                let _ = timeout(BEGUN, stream.readable()).await;
                let mut sent = [0; REFUSED];
                let count = recv(&stream, &mut sent[..], RecvFlags::DONTWAIT).map_or(0, |(_, count)| count);
                let said = wire::refusal(&sent[..count], &io::Error::other(reason), &limits, json);
                // There is room for it, as nothing was said before.
                let _ = send(&stream, &said, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            });
        }
        if let Some(more) = self.shared.told.over_share.one() {
            tracing::warn!(
                log.target = "worker",
                pid,
                connections,
                more,
                "refused a connection: there is no room for more of its process"
            );
        }
    }
}

/// The next connection, non-blocking from the first on: the sandbox has no call that would make it so.
fn next(listener: &UnixListener) -> io::Result<std::os::unix::net::UnixStream> {
    Ok(accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?.into())
}

/// The peer, if it is this user or root.
fn identified(stream: std::os::unix::net::UnixStream, told: &Told) -> Option<Guest> {
    let us = rustix::process::getuid().as_raw();
    match UnixStream::from_std(stream).and_then(|stream| Ok((stream.peer_cred()?, stream))) {
        // The pid of a process outside of this one's namespace is 0: all of these are one.
        Ok((peer, stream)) if peer.uid() == us || peer.uid() == 0 => {
            Some(Guest { stream, pid: peer.pid().unwrap_or_default() })
        }
        Ok((peer, _)) => {
            let (uid, pid) = (peer.uid(), peer.pid());
            if let Some(more) = told.foreign.one() {
                tracing::warn!(log.target = "worker", uid, pid, more, "refused a connection of another user");
            }
            None
        }
        Err(error) => {
            tracing::warn!(log.target = "worker", %error, "refused a connection of nobody");
            None
        }
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
