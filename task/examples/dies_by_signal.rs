//! A worker that crashes before it is ready, by SIGABRT: as one does that finds its memory corrupted.

fn main() {
    eprintln!("free(): invalid pointer");
    std::process::abort();
}
