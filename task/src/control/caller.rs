//! The client's end of a control socket.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tarpc::client::{Config, RpcError};
use tarpc::context::Context;
use task_proto::crash::TraceId;
use task_proto::limits::{CONTROL, DEATH_NOTICE, HAND_OVER, KILL, RESEND_PAUSE, RESENDS, VERDICT};
use task_proto::watched::Watched;
use task_proto::wire::{self, ConnectError, FdStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::server::limits;
use super::{ControlClient, NotRestarted, Reading, Report};
use crate::client::{self, is_never_sent};
use crate::verdict::Verdict;

/// A connection to the host of a service.
#[derive(Debug)]
pub struct Caller {
    client: ControlClient,
    dispatch: JoinHandle<()>,
    /// The host's process, where it can be watched.
    host: Option<Watched>,
}

/// Why a control call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no socket, or a stale one.
    #[error("no service is running")]
    NoService,
    /// There is one, but it cannot be reached.
    #[error("cannot connect: {0}")]
    Connect(#[source] ConnectError),
    /// It says nothing.
    #[error("the service does not answer: its process is stopped, or hangs")]
    Silent,
    /// The service made room for others before it had read what was asked.
    #[error("the service has too many callers")]
    NeverSent,
    /// The connection ended before the answer came.
    #[error("the service ended before it answered")]
    Lost(#[source] RpcError),
    /// The new worker did not come to serve; the old one goes on.
    #[error("{0}")]
    NotRestarted(NotRestarted),
}

impl Caller {
    /// Connects to the control socket at this path, of any length. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ControlError::NoService`] where nothing runs.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ControlError> {
        let stream = wire::connect(path).await.map_err(|error| match error {
            ConnectError::Missing | ConnectError::Refused => ControlError::NoService,
            error => ControlError::Connect(error),
        })?;
        // Taken while its end of the connection is open, or was just now: the pid is still its own.
        let host = stream.peer_cred().ok().and_then(|peer| Pid::from_raw(peer.pid()?));
        let host = host.and_then(|pid| Watched::new(pidfd_open(pid, PidfdFlags::empty()).ok()?).ok());
        let stream = FdStream::new(stream, 0).map_err(|error| ControlError::Connect(error.into()))?;
        let new = tarpc::client::new(Config::default(), wire::client(stream, &limits()));
        let dispatch = tokio::spawn(async move {
            if let Err(error) = new.dispatch.await {
                tracing::debug!("control connection: {error}");
            }
        });
        Ok(Caller { client: ControlClient::from(new.client), dispatch, host })
    }

    /// Connects and asks: again if nobody has read it, since a host with more callers than places makes room, and if
    /// the connection ended before the answer came, where the same may be asked `twice`.
    ///
    /// # Errors
    /// Those of [`Caller::connect`] and of what is asked.
    pub async fn ask<T>(
        path: impl AsRef<Path>,
        twice: bool,
        what: impl AsyncFn(Caller) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let mut resends = 0;
        loop {
            match what(Caller::connect(&path).await?).await {
                Err(ControlError::NeverSent) if resends < RESENDS => resends += 1,
                Err(ControlError::Lost(_)) if twice && resends < RESENDS => resends += 1,
                answer => return answer,
            }
            sleep(RESEND_PAUSE).await;
        }
    }

    /// How the service stands.
    pub async fn status(&self) -> Result<Report, ControlError> {
        Ok(self.client.status(context(CONTROL)).await?)
    }

    /// Starts the next generation, and returns its number once it serves in place of the last.
    pub async fn restart(&self) -> Result<u64, ControlError> {
        self.client.restart(context(HAND_OVER + CONTROL)).await?.map_err(ControlError::NotRestarted)
    }

    /// What is known of a connection to this generation, of the host whose run is called `instance`.
    pub async fn verdict(
        &self,
        instance: &str,
        generation: u64,
        connection: u64,
    ) -> Result<Verdict, ControlError> {
        Ok(self.client.verdict(context(VERDICT), instance.to_owned(), generation, connection).await?)
    }

    /// How far the calls of this trace id have read their input; `None` where none is executing.
    pub async fn reading(&self, trace_id: TraceId) -> Result<Option<Reading>, ControlError> {
        Ok(self.client.reading(context(CONTROL), trace_id).await?)
    }

    /// Stops the service, and waits until its process is gone.
    pub async fn stop(mut self) -> Result<(), ControlError> {
        let drain = match self.status().await {
            Ok(report) => report.limits.drain,
            // Nobody has been asked to stop.
            Err(ControlError::Lost(_)) => return Err(ControlError::NeverSent),
            Err(error) => return Err(error),
        };
        match self.client.stop(context(CONTROL)).await {
            // The calls that it still answers have that long.
            Ok(()) => timeout(drain + KILL + CONTROL, self.gone()).await.map_err(|_| ControlError::Silent),
            Err(RpcError::DeadlineExceeded) => Err(ControlError::Silent),
            Err(error) if is_never_sent(&error) => Err(ControlError::NeverSent),
            // It may have ended for another reason.
            Err(lost) => timeout(DEATH_NOTICE, self.gone()).await.map_err(|_| ControlError::Lost(lost)),
        }
    }

    /// Waits for the host's exit; where that cannot be seen, for the end of the connection.
    async fn gone(&mut self) {
        match &self.host {
            Some(host) => drop(host.readable().await),
            None => drop(pin!(&mut self.dispatch).await),
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.dispatch.abort();
    }
}

impl From<RpcError> for ControlError {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::DeadlineExceeded => ControlError::Silent,
            error if is_never_sent(&error) => ControlError::NeverSent,
            lost => ControlError::Lost(lost),
        }
    }
}

fn context(limit: Duration) -> Context {
    client::context(rand::random(), Some(limit))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Read as _;
    use std::net::Shutdown;
    use std::os::unix::net::UnixListener;

    use tokio::sync::mpsc;

    use super::*;

    /// Callers of a host that does this to each connection before they ask; how many connected, and what the last saw.
    async fn connections(host: fn(UnixListener, mpsc::Sender<()>)) -> (u64, Result<u64, ControlError>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (ready, at_ready) = mpsc::channel(1);
        let at_ready = tokio::sync::Mutex::new(at_ready);
        let hosting = std::thread::spawn(move || host(listener, ready));
        let count = Cell::new(0);
        let asked = Caller::ask(&path, false, async |caller| {
            count.set(count.get() + 1);
            at_ready.lock().await.recv().await.unwrap();
            caller.restart().await
        })
        .await;
        hosting.join().unwrap();
        (count.get(), asked)
    }

    #[tokio::test]
    async fn what_nobody_has_read_is_asked_again_and_what_somebody_may_have_done_is_not() {
        let (count, asked) = connections(|listener, ready| {
            for _ in 0..=RESENDS {
                let (stream, _) = listener.accept().unwrap();
                stream.shutdown(Shutdown::Read).unwrap();
                ready.blocking_send(()).unwrap();
                drop(stream.try_clone().unwrap().read(&mut [0; 1]));
            }
        })
        .await;
        assert!(matches!(asked, Err(ControlError::NeverSent)), "{asked:?}");
        assert_eq!(count, u64::from(RESENDS) + 1);

        let (count, asked) = connections(|listener, ready| {
            let (mut stream, _) = listener.accept().unwrap();
            ready.blocking_send(()).unwrap();
            assert_ne!(stream.read(&mut [0; 64]).unwrap(), 0);
        })
        .await;
        assert!(matches!(asked, Err(ControlError::Lost(_))), "{asked:?}");
        assert_eq!(count, 1);
    }
}
