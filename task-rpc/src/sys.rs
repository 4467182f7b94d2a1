//! What the worker asks of the system through unsafe calls, and the only file for it.
#![expect(
    unsafe_code,
    reason = "signal dispositions, the allocator, closing foreign descriptors, watching the listener, seccomp, leaving without unwinding"
)]

use std::io;
use std::os::unix::net::UnixListener;

use seccompiler::sock_filter;
use tokio::io::unix::AsyncFd;

/// Ignores SIGPIPE and SIGXFSZ, so that writing too far is an error and not an end; and SIGTTIN, so that reading a terminal
/// that a client has attached is one, and does not stop the process for everybody.
pub(crate) fn ignore_io_signals() {
    for signal in [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGTTIN] {
        // SAFETY: SIG_IGN runs no code, and it cannot fail for these signals.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Lets the blocks of large inputs go back to the system when they are freed, and shares two heaps among all threads.
/// Left to itself glibc keeps such blocks, in up to eight heaps for each processor: measured, 100 MB on two, for ever,
/// after 24 calls with 3 million numbers each; and 1.6 MB more with every hour of mixed load while there were as many
/// heaps for small ones (-0.1 MB with two). It costs the pages that are fresh again: such calls took a fifth more of the
/// processors.
pub(crate) fn keep_memory_level() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets numbers of the allocator, under the allocator's own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 * 1024);
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Closes every descriptor from 3 up. Only for the start of `main`, before the process has opened any of its own.
pub(crate) fn close_stray_descriptors() -> io::Result<()> {
    // SAFETY: by the caller's word nothing in this process owns a descriptor from 3 up, so none is closed under
    // an owner. The call itself touches no memory.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The listener, with word of when somebody waits in its backlog (tokio's own listener only accepts).
pub(crate) fn watched(listener: UnixListener) -> io::Result<AsyncFd<UnixListener>> {
    // SAFETY: the listener is an open descriptor that nobody else owns; the `AsyncFd` lends it only shared, through
    // which it cannot be replaced, so it stays open and the same until it is deregistered.
    Ok(unsafe { AsyncFd::register(listener) }?)
}

/// Ends the process at once, from any thread: no destructor, no exit handler, nothing that could wait.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` never returns and runs none of this process's code.
    unsafe { libc::_exit(status) }
}

/// Puts a seccomp filter in force, for every thread of the process and for good. Without the side effect on speculation
/// that kernels before 5.16 give it: it costs every call, and nothing here runs code that it does not trust.
pub(crate) fn filter_calls(program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: `filter` points to `len` instructions of the kernel's layout (both types are its `sock_filter`), which the
    // kernel copies and does not change.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    match done {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!("thread {thread} has filters of its own"))),
    }
}
