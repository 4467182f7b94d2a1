//! No files, no network, no signals to others: Landlock.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};

/// What this program asks for was tested on kernels with it; older ones do what they can, which is to keep files closed.
const TESTED: ABI = ABI::V7;

/// Closes all files to this thread and those that it starts, but lets it remove some from the directory `removable`
/// and those beneath it.
///
/// # Errors
/// Why files stay open, in words.
pub(super) fn close(removable: Option<BorrowedFd<'_>>) -> Result<(), String> {
    let status = restrict(removable).map_err(|error| format!("no Landlock: {error}"))?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced, _) => Ok(()),
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("no Landlock: it is switched off in this kernel (boot parameter lsm=)".to_owned())
        }
        (RulesetStatus::NotEnforced, _) => Err("no Landlock in this kernel".to_owned()),
    }
}

fn restrict(removable: Option<BorrowedFd<'_>>) -> Result<landlock::RestrictionStatus, RulesetError> {
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(TESTED))?
        .handle_access(AccessNet::from_all(TESTED))?
        .scope(Scope::from_all(TESTED))?
        .create()?;
    match removable {
        Some(directory) => rules.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?,
        None => rules,
    }
    .restrict_self()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::ErrorKind::PermissionDenied;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::thread;

    use super::*;

    /// Whether this kernel has what is tested here, said aloud where it has not.
    fn is_tested_here() -> bool {
        let tested = RulesetStatus::FullyEnforced;
        // On a thread of its own, which it binds.
        let status = thread::spawn(|| restrict(None).map(|status| status.ruleset)).join().unwrap();
        let there = status.is_ok_and(|status| status == tested);
        if !there {
            eprintln!("skipped: this kernel's Landlock is older than that of Linux 6.15, or switched off");
        }
        there
    }

    #[test]
    fn no_file_is_opened_or_removed_but_in_the_directory_that_is_left() {
        if !is_tested_here() {
            return;
        }
        let [ours, others] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        for directory in [&ours, &others] {
            fs::write(directory.path().join("f"), "precious").unwrap();
        }
        let directory = File::open(ours.path()).unwrap();
        let [mine, theirs] = [&ours, &others].map(|directory| directory.path().join("f"));
        let bound = move || {
            close(Some(directory.as_fd())).unwrap();
            [
                File::open(&mine).map(drop),
                fs::read_dir(mine.parent().unwrap()).map(drop),
                File::create(mine.with_file_name("g")).map(drop),
                fs::remove_file(&theirs),
                fs::remove_file(&mine),
            ]
            .map(|done| done.map_err(|error| error.kind()))
        };
        let denied = Err(PermissionDenied);
        assert_eq!(thread::spawn(bound).join().unwrap(), [denied, denied, denied, denied, Ok(())]);
        assert!(others.path().join("f").exists());
    }

    #[test]
    fn nobody_is_reached_by_network_or_abstract_socket_but_who_is_connected() {
        if !is_tested_here() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let name = SocketAddr::from_abstract_name(format!("task-{}", address.port())).unwrap();
        let manager = UnixDatagram::bind_addr(&name).unwrap();
        let [connected, unconnected] = [(); 2].map(|()| UnixDatagram::unbound().unwrap());
        connected.connect_addr(&name).unwrap();
        let bound = move || {
            close(None).unwrap();
            let tried = [
                TcpStream::connect(address).map(drop),
                TcpListener::bind("127.0.0.1:0").map(drop),
                unconnected.connect_addr(&name),
                connected.send(b"x").map(drop),
            ];
            tried.map(|done| done.map_err(|error| error.kind()))
        };
        let denied = Err(PermissionDenied);
        assert_eq!(thread::spawn(bound).join().unwrap(), [denied, denied, denied, Ok(())]);
        drop(manager);
    }
}
