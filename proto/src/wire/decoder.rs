//! Long messages are decoded on other threads: half a million numbers take tens of milliseconds, for which all other
//! connections of the thread would wait.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::task::{Context, Poll, ready};
use std::thread;

use tokio::sync::{Semaphore, oneshot};

use super::stream::lock;
use crate::limits::DECODING;

/// Of all decoders.
static THREADS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(DECODING)));

/// Where the long messages of some connections are decoded, one at a time: those of one client, however many connections
/// it has, keep no others waiting. Clones are the same place.
#[derive(Debug, Clone)]
pub struct Decoder(Arc<Semaphore>);

impl Default for Decoder {
    fn default() -> Self {
        Decoder(Arc::new(Semaphore::new(1)))
    }
}

/// The decoders of processes. One stays the same for as long as a message is decoded in it, be its connection gone: who
/// comes again and again has no more of them.
#[derive(Debug, Default)]
pub struct Decoders(Mutex<HashMap<i32, Weak<Semaphore>>>);

impl Decoders {
    /// That of this process.
    pub fn of(&self, process: i32) -> Decoder {
        let mut decoders = lock(&self.0);
        if let Some(known) = decoders.get(&process).and_then(Weak::upgrade) {
            return Decoder(known);
        }
        decoders.retain(|_, decoder| decoder.strong_count() > 0);
        let decoder = Decoder::default();
        decoders.insert(process, Arc::downgrade(&decoder.0));
        decoder
    }
}

impl Decoder {
    /// Begins to decode a message, once all before it are decoded. Whoever drops the result before has no turn.
    pub(super) fn begin<T: Send + 'static>(
        &self,
        decode: impl FnOnce() -> T + Send + 'static,
    ) -> Decoding<T> {
        let place = Arc::clone(&self.0);
        Decoding(Some(Box::pin(async move {
            // Neither is ever closed. They are the thread's, also when nobody waits for it any more.
            let turn = place.acquire_owned().await;
            let turns = (turn, Arc::clone(&THREADS).acquire_owned().await);
            let (tell, told) = oneshot::channel();
            let work = move || {
                let decoded = decode();
                drop(turns);
                let _ = tell.send(decoded);
            };
            let work = Arc::new(Mutex::new(Some(work)));
            let run = {
                let work = Arc::clone(&work);
                move || {
                    let work = lock(&work).take();
                    if let Some(work) = work {
                        work();
                    }
                }
            };
            let thread = thread::Builder::new().name("decode".into()).spawn(run.clone());
            if thread.is_err() {
                // Late is better than never.
                run();
            }
            told.await.map_err(|_| io::Error::other("a message could not be decoded"))
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
        let decoded = ready!(work.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(Some(decoded))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test]
    async fn a_process_that_comes_again_waits_for_what_it_left_behind() {
        let decoders = Decoders::default();
        let (go, gone) = mpsc::channel::<()>();
        let mut left = decoders.of(7).begin(move || gone.recv());
        let poll =
            |decoding: &mut Decoding<_>| decoding.poll(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(poll(&mut left).is_pending());
        drop(left);

        let again = decoders.of(7);
        assert_eq!(again.0.available_permits(), 0, "its message is still being decoded");
        assert_eq!(decoders.of(8).0.available_permits(), 1, "which is no affair of another process");
        drop(go);
        let mut next = again.begin(|| 5);
        let answer = std::future::poll_fn(|cx| next.poll(cx)).await;
        assert_eq!(answer.unwrap().unwrap(), 5);
        drop((again, next));
        // The thread that was left behind may still have its turn in hand, which it has given back.
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until && {
            decoders.of(9);
            lock(&decoders.0).contains_key(&7)
        } {
            thread::yield_now();
        }
        assert!(!lock(&decoders.0).contains_key(&7), "nothing is kept of who is gone");
    }

    #[tokio::test]
    async fn a_message_whose_decoding_panics_ends_its_connection_and_gives_its_turn_back() {
        let decoder = Decoder::default();
        let mut failed = decoder.begin::<()>(|| panic!("on purpose"));
        assert!(std::future::poll_fn(|cx| failed.poll(cx)).await.unwrap().is_err());
        let mut next = decoder.begin(|| ());
        std::future::poll_fn(|cx| next.poll(cx)).await.unwrap().unwrap();
    }
}
