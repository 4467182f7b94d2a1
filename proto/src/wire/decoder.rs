//! Long messages are decoded on other threads: half a million numbers take tens of milliseconds, for which all other
//! connections of the thread would wait.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Where the long messages of some connections are decoded, one at a time: those of one client, however many connections
/// it has, take no more than a processor from all others. Clones are the same place.
#[derive(Debug, Clone)]
pub struct Decoder(Arc<Semaphore>);

impl Default for Decoder {
    fn default() -> Self {
        Decoder(Arc::new(Semaphore::new(1)))
    }
}

impl Decoder {
    /// Begins to decode a message, once all before it are decoded.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        decode: impl FnOnce() -> T + Send + 'static,
    ) -> Decoding<T> {
        let place = Arc::clone(&self.0);
        Decoding(Some(Box::pin(async move {
            // It is never closed. The thread keeps its turn, also when nobody waits for it any more.
            let turn = place.acquire_owned().await;
            let decoded = spawn_blocking(move || {
                let decoded = decode();
                drop(turn);
                decoded
            });
            Ok(decoded.await?)
        })))
    }
}

type Work<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// The message of a connection that is being decoded, if there is one.
pub(super) struct Decoding<T>(Option<Work<T>>);

impl<T> Default for Decoding<T> {
    fn default() -> Self {
        Decoding(None)
    }
}

impl<T> Decoding<T> {
    pub(super) fn is_under_way(&self) -> bool {
        self.0.is_some()
    }

    /// What it was; `None` at once if there is none.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<T>>> {
        let Some(work) = &mut self.0 else { return Poll::Ready(None) };
        let decoded = std::task::ready!(work.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(Some(decoded))
    }
}
