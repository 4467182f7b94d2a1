//! The floor: frames of 200 bytes, about as long as a call of ours, there and back, with nothing around them.
//!
//! One call at a time: without an id for each there is nothing to tell replies apart by.

use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::measure::Call;
use crate::{Failure, mean};

const FRAME: usize = 200;

type Frames = Framed<UnixStream, LengthDelimitedCodec>;

pub(crate) async fn serve(path: &Path) -> Result<(), Failure> {
    let listener = UnixListener::bind(path)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut frames = Frames::new(stream, LengthDelimitedCodec::new());
            while let Some(Ok(mut frame)) = frames.next().await {
                let count = frame.get_u8();
                let numbers: Vec<_> = (0..count).map(|_| frame.get_f64()).collect();
                if frames.send(padded(&[mean(&numbers)])).await.is_err() {
                    break;
                }
            }
        });
    }
}

pub(crate) struct Caller(Mutex<Frames>);

impl Caller {
    pub(crate) async fn connect(path: &Path) -> Result<Self, Failure> {
        let stream = UnixStream::connect(path).await?;
        Ok(Caller(Mutex::new(Frames::new(stream, LengthDelimitedCodec::new()))))
    }
}

impl Call for Caller {
    async fn mean(&self, numbers: &[f64]) -> Result<f64, Failure> {
        let mut frames = self.0.try_lock().map_err(|_| "one call at a time")?;
        frames.send(padded(numbers)).await?;
        let mut frame = frames.next().await.ok_or("the server has closed")??;
        frame.advance(1);
        Ok(frame.get_f64())
    }
}

fn padded(numbers: &[f64]) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME);
    frame.put_u8(u8::try_from(numbers.len()).unwrap_or(u8::MAX));
    for number in numbers {
        frame.put_f64(*number);
    }
    frame.resize(FRAME, 0);
    frame.freeze()
}
