//! What strangers may send to each end, and what must hold of the answers.
//!
//! Each function takes the bytes of one input, does with them what the real program does, and panics when the answer is
//! wrong. It says how many messages (frames, lines, datagrams) were seen. libFuzzer calls them from `targets/`
//! (`make fuzz`), and `tests/replay.rs` with the inputs of `corpus/`, which libFuzzer has found, and mutations of them.
//!
//! No clock decides anything here: whatever is computed is computed in place, as no input has more than
//! [`INLINE_NUMBERS`](task_proto::limits::INLINE_NUMBERS) bytes, and a wait without an end is libFuzzer's to find.

#![expect(clippy::unwrap_used, reason = "what fails here is what is looked for")]

mod connection;
mod frames;
mod handshake;
mod lines;
mod npy;
mod plausible;
mod scoreboard;
#[path = "../../task-rpc/src/service.rs"]
mod service;
mod text;

use std::sync::atomic::{AtomicU64, Ordering};

pub use frames::frames;
pub use handshake::{answer, hello};
pub use lines::lines;
pub use npy::npy;
pub use scoreboard::scoreboard;
pub use text::text;

/// An input is cut to so many bytes.
pub const MOST: usize = task_proto::limits::INLINE_NUMBERS;

/// Takes the bytes of an input, and says how many messages were seen.
pub type Target = fn(&[u8]) -> u64;

/// All of them, by the names of their corpora.
pub const TARGETS: [(&str, Target); 7] = [
    ("frames", frames),
    ("lines", lines),
    ("hello", hello),
    ("answer", answer),
    ("scoreboard", scoreboard),
    ("text", text),
    ("npy", npy),
];

/// Counts messages; libFuzzer itself counts inputs. Says so at each million, as the end of a run tells nobody.
pub fn count(messages: u64) {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    const MILLION: u64 = 1_000_000;
    let before = SEEN.fetch_add(messages, Ordering::Relaxed);
    let millions = (before + messages) / MILLION;
    if millions > before / MILLION {
        eprintln!("messages: {millions} million");
    }
}
