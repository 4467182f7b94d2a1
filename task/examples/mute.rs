//! A worker that never answers the handshake: as one does that waits for a lock or a file server. It does nothing
//! that was asked of it, but ends with its host.

use std::io::Read as _;

fn main() {
    eprintln!("waiting for the file server");
    // Hello, and then for ever nothing.
    while std::io::stdin().read(&mut [0; 4096]).is_ok_and(|length| length > 0) {}
}
