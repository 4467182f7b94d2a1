//! Which attachments of a connection have been read and cannot be read again: who asked once more would hear the rest, or
//! wait for ever.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use rustix::fs::{FileType, fstat};
use task_proto::fault::{Fault, FaultKind};
use task_proto::wire::Attachment;

use super::team::lock;

/// Attachments that have been read and cannot be read again, as long as anybody can ask for them.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<Vec<Claim>>);

#[derive(Debug)]
struct Claim {
    descriptor: Weak<Attachment>,
    pipe: Option<Pipe>,
}

/// Device and inode of a pipe or socket, to which several descriptors may lead: who read two of them would get some of
/// its bytes from each.
type Pipe = (u64, u64);

type Checked<'a> = (MutexGuard<'a, Vec<Claim>>, Option<Pipe>);

impl Claims {
    /// Says that this one is about to be read.
    ///
    /// # Errors
    /// `InputConsumed`.
    pub(super) fn claim(&self, descriptor: &Arc<Attachment>, file_type: FileType) -> Result<(), Fault> {
        let (mut claims, pipe) = self.checked(descriptor, file_type)?;
        claims.push(Claim { descriptor: Arc::downgrade(descriptor), pipe });
        Ok(())
    }

    /// Says whether it can still be read.
    ///
    /// # Errors
    /// `InputConsumed`.
    pub(super) fn check(&self, descriptor: &Arc<Attachment>, file_type: FileType) -> Result<(), Fault> {
        self.checked(descriptor, file_type).map(drop)
    }

    /// The claims, without one on this descriptor or its pipe; and which pipe that is.
    fn checked(&self, descriptor: &Arc<Attachment>, file_type: FileType) -> Result<Checked<'_>, Fault> {
        let is_pipe = matches!(file_type, FileType::Fifo | FileType::Socket);
        let pipe = is_pipe.then(|| fstat(descriptor).ok()).flatten().map(|stat| (stat.st_dev, stat.st_ino));
        let mut claims = lock(&self.0);
        claims.retain(|claim| claim.descriptor.strong_count() > 0);
        let message = if claims.iter().any(|claim| claim.descriptor.ptr_eq(&Arc::downgrade(descriptor))) {
            "an earlier call has read this input, which can be read only once; save it to a file to read it again"
        } else if pipe.is_some() && claims.iter().any(|claim| claim.pipe == pipe) {
            "this input is the same pipe or socket as another one, and can be read only once; give it once, or release the other one first"
        } else {
            return Ok((claims, pipe));
        };
        Err(Fault::new(FaultKind::InputConsumed, message))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn claims_last_as_long_as_their_descriptors() {
        let claims = Claims::default();
        let descriptor = || Arc::new(Attachment::from(OwnedFd::from(std::io::pipe().unwrap().0)));
        let kept = descriptor();
        claims.claim(&kept, FileType::Fifo).unwrap();
        for _ in 0..10 {
            let gone = descriptor();
            claims.claim(&gone, FileType::Fifo).unwrap();
            assert!(Arc::into_inner(gone).is_some(), "a claim keeps nothing open");
        }
        assert_eq!(claims.claim(&kept, FileType::Fifo).unwrap_err().kind, FaultKind::InputConsumed);
        assert_eq!(lock(&claims.0).len(), 1);
    }
}
