//! For tests of permissions, which root does not feel: runs them as somebody else.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// The user nobody.
pub(crate) const NOBODY: u32 = 65534;

/// Runs the body of the test of this full name as a user without privileges: here, or as nobody in a process of its
/// own where the tests run as root.
pub(crate) fn unprivileged(test: &str, body: impl FnOnce()) {
    if !rustix::process::geteuid().is_root() {
        return body();
    }
    // By this name it can be run even if the way to it is closed to others.
    let mut command = Command::new("/proc/self/exe");
    command
        .args([test, "--exact", "--nocapture"])
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .env_remove("TMPDIR");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "as nobody: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
