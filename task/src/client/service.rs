//! Where a service is: behind a supervisor of ours, or behind a socket of another process.

use std::path::PathBuf;
use std::sync::Arc;

use task_proto::limits::VERDICT;
use task_proto::wire::{self, ConnectError, Greeting};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::control::{CONTROL_SOCKET, Caller};
use crate::socket::Socket;
use crate::supervisor::{self, Ended, ServicePhase, Status, Supervisor};
use crate::verdict::Verdict;

/// A service, as far as its clients care.
#[derive(Debug)]
pub(super) enum Service {
    /// Of a supervisor in this process.
    Ours { socket: Arc<Socket>, status: watch::Receiver<Status> },
    /// Behind the socket at this path.
    Elsewhere(PathBuf),
}

impl Service {
    pub(super) fn ours(supervisor: &Supervisor) -> Self {
        Service::Ours { socket: Arc::clone(supervisor.socket()), status: supervisor.status() }
    }

    pub(super) fn path(&self) -> PathBuf {
        match self {
            Service::Ours { socket, .. } => socket.path().to_owned(),
            Service::Elsewhere(path) => path.clone(),
        }
    }

    /// Connects. While one worker follows another, the backlog takes the connection.
    pub(super) async fn connect(&self) -> Result<UnixStream, ConnectError> {
        match self {
            Service::Ours { socket, .. } => socket.connect().await,
            Service::Elsewhere(path) => wire::connect(path).await,
        }
    }

    /// Returns when no worker will come any more. Elsewhere that shows at the socket, and this never returns.
    pub(super) async fn ended(&self) -> Ended {
        let Service::Ours { status, .. } = self else { return std::future::pending().await };
        match status.clone().wait_for(Status::is_ended).await.as_deref() {
            Ok(Status { phase: ServicePhase::Ended(ended), .. }) => ended.clone(),
            Ok(_) | Err(_) => Ended::Stopped,
        }
    }

    /// What the host knows of the connection that was greeted so.
    pub(super) async fn verdict(&self, greeting: &Greeting) -> Verdict {
        match self {
            Service::Ours { status, .. } => {
                supervisor::verdict(status.clone(), greeting.generation, greeting.connection).await
            }
            Service::Elsewhere(path) => {
                let Greeting { instance, generation, connection } = greeting;
                let asked = Caller::ask(path.with_file_name(CONTROL_SOCKET), true, async |host| {
                    host.verdict(instance, *generation, *connection).await
                });
                match timeout(VERDICT, asked).await {
                    Ok(Ok(verdict)) => verdict,
                    // It is gone too, or hangs.
                    Ok(Err(_)) | Err(_) => Verdict::Unknown,
                }
            }
        }
    }
}
