//! Huge pages for scratch that is touched once.

#![expect(unsafe_code, reason = "gives the kernel advice on memory")]

/// An empty vector whose memory is in huge pages, as far as the system gives them. Fresh pages of 4 KiB cost some µs each on
/// a virtual machine: with them the median of 100M takes 1.49 × the plain read, with huge ones 1.40, with memory that was
/// used before 1.25.
pub(crate) fn with_capacity<T>(capacity: usize) -> Vec<T> {
    let vector: Vec<T> = Vec::with_capacity(capacity);
    #[cfg(target_os = "linux")]
    {
        use rustix::mm::{Advice, madvise};
        const PAGE: usize = 4096;
        let start = vector.as_ptr();
        let into_page = start.addr() % PAGE;
        let bytes = (vector.capacity() * size_of::<T>() + into_page) / PAGE * PAGE;
        if bytes >= 2 << 20 {
            // SAFETY: whole pages of memory that is allocated; the advice changes nothing that it holds. The first one may
            // begin with memory of others, for which the same is true.
            // Without huge pages there are small ones.
            _ = unsafe {
                madvise(start.wrapping_byte_sub(into_page).cast_mut().cast(), bytes, Advice::LinuxHugepage)
            };
        }
    }
    vector
}
