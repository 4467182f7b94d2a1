//! The lifeline: the worker's stdin, whose end says that the host is gone.

use std::io;
use std::thread;

use rustix::io::Errno;

use crate::sys;

/// Watches stdin from a thread of its own, which lives as long as the process. From here on it is the only reader.
///
/// The end ends the process at once, and so does every error but EINTR: a dead host can give ECONNRESET.
/// Together with PDEATHSIG: that alone is lost when the host dies before it is asked for, and this alone does
/// not end a stopped process.
pub(crate) fn watch() -> io::Result<()> {
    let thread = thread::Builder::new().name("lifeline".into()).stack_size(64 * 1024);
    thread.spawn(|| {
        let mut datagram = [0; 256];
        loop {
            match rustix::io::read(rustix::stdio::stdin(), &mut datagram) {
                // No protocol has further messages yet: one of a later host is not for us.
                Ok(1..) | Err(Errno::INTR) => {}
                // Nobody is left to read a log line, and a full pipe would keep us waiting with it.
                Ok(0) | Err(_) => sys::exit_now(EXIT_ORPHANED),
            }
        }
    })?;
    Ok(())
}

/// Exit status of a worker whose host is gone. Nobody reads it; a tracer may.
const EXIT_ORPHANED: i32 = 1;
