//! The client's end of a control socket.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tarpc::client::{Config, RpcError};
use tarpc::context::Context;
use task_proto::limits::{CONTROL, DEATH_NOTICE, DRAIN, HAND_OVER, KILL, RESEND_PAUSE, RESENDS, VERDICT};
use task_proto::wire::{self, ConnectError, FdStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::server::limits;
use super::{ControlClient, NotRestarted, Report};
use crate::client;
use crate::verdict::Verdict;
use crate::watched::Watched;

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
        let new = tarpc::client::new(Config::default(), wire::client(FdStream::new(stream, 0), &limits()));
        let dispatch = tokio::spawn(async move {
            if let Err(error) = new.dispatch.await {
                tracing::debug!("control connection: {error}");
            }
        });
        Ok(Caller { client: ControlClient::from(new.client), dispatch, host })
    }

    /// Connects and asks what may be asked twice: again if the connection ended before the answer came, as that of
    /// somebody does who has sent nothing yet when the host has more callers than places.
    ///
    /// # Errors
    /// Those of [`Caller::connect`] and of what is asked.
    pub async fn ask<T>(
        path: impl AsRef<Path>,
        what: impl AsyncFn(&Caller) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let mut resends = 0;
        loop {
            match what(&Caller::connect(&path).await?).await {
                Err(ControlError::Lost(_)) if resends < RESENDS => resends += 1,
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

    /// Stops the service, and waits until its process is gone.
    pub async fn stop(mut self) -> Result<(), ControlError> {
        match self.client.stop(context(CONTROL)).await {
            // The calls that it still answers have that long.
            Ok(()) => timeout(DRAIN + KILL + CONTROL, self.gone()).await.map_err(|_| ControlError::Silent),
            Err(RpcError::DeadlineExceeded) => Err(ControlError::Silent),
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
            lost => ControlError::Lost(lost),
        }
    }
}

fn context(limit: Duration) -> Context {
    client::context(rand::random(), Some(limit))
}
