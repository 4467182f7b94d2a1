//! What is known of a connection that was lost.

use std::fmt;

use serde::{Deserialize, Serialize};
use task_proto::scoreboard::Consumed;

use crate::supervisor::PostMortem;

/// How a worker ended, for a caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// Which worker of its host it was, from 1.
    pub generation: u64,
    /// Its process id.
    pub pid: u32,
    /// The signal or the exit status, in words: `killed by SIGABRT`, `exited 3`.
    pub cause: String,
    /// The last lines of its stderr, oldest first, fit to be shown.
    pub stderr_tail: Vec<String>,
}

/// What the host knows of a connection, asked by the generation that served it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// That worker lives.
    Alive {
        /// What has been read on the connection, so far, of input that cannot be read again.
        consumed: Consumed,
    },
    /// That worker is gone.
    Died {
        /// How.
        death: Death,
        /// Likewise, when it died.
        consumed: Consumed,
    },
    /// It died too long ago, or never was.
    Unknown,
}

impl From<&PostMortem> for Death {
    fn from(death: &PostMortem) -> Self {
        Death {
            generation: death.generation,
            pid: death.pid,
            cause: death.why(),
            stderr_tail: death.stderr_tail.clone(),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Death { generation, pid, cause, .. } = self;
        write!(f, "the worker (pid {pid}, generation {generation}) {cause}")
    }
}
