//! A worker that answers the handshake with something else: as any program does that is no worker but finds a socket on
//! its standard input.

use rustix::net::{SendFlags, send};

fn main() {
    eprintln!("220 mail.example.org ESMTP");
    send(rustix::stdio::stdin(), b"220 \xff\xfe{\"ready\":", SendFlags::NOSIGNAL).expect("stdin is a socket");
    std::thread::sleep(std::time::Duration::from_mins(1));
}
