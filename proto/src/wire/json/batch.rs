//! Replies that wait for the rest of their batches.

use std::collections::hash_map::{Entry, HashMap};

use super::reply::TooLarge;

/// The batches that are not answered, by the numbers of their first requests.
pub(super) struct Batches {
    open: HashMap<u64, Batch>,
    /// The longest line.
    line: usize,
    /// The most bytes of replies that wait.
    limit: usize,
    /// Bytes that wait, or are kept for errors.
    bytes: usize,
}

struct Batch {
    replies: Vec<u8>,
    outstanding: usize,
    /// Bytes kept for those.
    kept: usize,
}

impl Batches {
    pub(super) fn new(line: usize, limit: usize) -> Self {
        Batches { open: HashMap::new(), line, limit, bytes: 0 }
    }

    /// A batch of so many requests.
    pub(super) fn begin(&mut self, number: u64, requests: usize) {
        self.open.insert(number, Batch { replies: Vec::new(), outstanding: requests, kept: 0 });
    }

    /// Keeps so many bytes for the error of a request whose reply is too large: each is to be told of it, however many
    /// they are.
    pub(super) fn keep(&mut self, number: u64, bytes: usize) {
        if let Some(batch) = self.open.get_mut(&number) {
            batch.kept += bytes;
            self.bytes += bytes;
        }
    }

    /// Takes the reply of a request for which so many bytes were kept, or that it has none; in place of one for which
    /// there is no room, the error that fits. Returns the line, once it is whole.
    pub(super) fn answer(
        &mut self,
        number: u64,
        kept: usize,
        said: Option<Result<Vec<u8>, TooLarge>>,
        too_large: impl FnOnce() -> Vec<u8>,
    ) -> Option<Vec<u8>> {
        let Entry::Occupied(mut open) = self.open.entry(number) else { return None };
        let batch = open.get_mut();
        batch.outstanding -= 1;
        batch.kept -= kept;
        self.bytes -= kept;
        if let Some(said) = said {
            // Brackets, a comma, and the end of line.
            let left = self.line.saturating_sub(batch.replies.len() + batch.kept + 3);
            let left = left.min(self.limit.saturating_sub(self.bytes)).max(kept);
            let said = said.ok().filter(|said| said.len() < left).unwrap_or_else(too_large);
            batch.replies.push(if batch.replies.is_empty() { b'[' } else { b',' });
            batch.replies.extend_from_slice(&said);
            self.bytes += said.len() + 1;
        }
        if batch.outstanding > 0 {
            return None;
        }
        let mut line = open.remove().replies;
        self.bytes -= line.len();
        if !line.is_empty() {
            line.extend_from_slice(b"]\n");
        }
        Some(line)
    }
}
