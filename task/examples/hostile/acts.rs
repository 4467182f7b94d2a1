//! What a worker does that has been taken over: a service with one method for it.

/// Does harm.
#[tarpc::service]
pub(crate) trait Hostile {
    /// Does this one thing, and says what came of it: the system's error number where that denied it.
    async fn act(act: Act) -> Result<i64, i32>;
}

/// One thing that no worker needs to do, or (the last ones) that each may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Act {
    /// Opens a file that everybody may read.
    Open,
    /// Makes a socket.
    Socket,
    /// Connects the attached socket to the service's own.
    Connect,
    /// Becomes a shell that exits 42.
    Exec,
    /// Traces another process.
    Trace,
    /// Sends its parent a signal.
    Kill,
    /// Forks.
    Fork,
    /// The same by the newer call.
    Clone3,
    /// Reserves 100 GB that it may write to.
    Reserve,
    /// Reserves 100 GB that it may do nothing with, yet.
    ReserveNothing,
    /// Shares 100 GB with processes to come.
    ReserveShared,
    /// Reserves 16 GB of which no part is large.
    ReserveInParts,
    /// Shares a page with processes to come.
    Share,
    /// Sends a datagram to a name, through the attached socket.
    Send,
    /// Shuts the listener down.
    Shutdown,
    /// The same by a number of which the system looks at the lower half.
    ShutdownDisguised,
    /// Copies a descriptor.
    Duplicate,
    /// Makes a pipe smaller that it shares with others.
    Shrink,
    /// Makes memory executable.
    Execute,
    /// Raises a limit of its own.
    Limit,
    /// Sleeps for half a second.
    Sleep,
    /// Fills and empties the heaps of two threads, so that they grow and shrink.
    Churn,
    /// Panics.
    Panic,
    /// Aborts.
    Abort,
}
