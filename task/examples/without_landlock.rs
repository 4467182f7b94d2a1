//! Runs the program that its arguments name where there is no Landlock, as on a kernel that was built without it.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arch = std::env::consts::ARCH.try_into()?;
    let calls = [444, 445, 446].map(|landlock| (landlock, Vec::new())).into();
    let unknown = SeccompAction::Errno(38);
    let filter: BpfProgram = SeccompFilter::new(calls, SeccompAction::Allow, unknown, arch)?.try_into()?;
    apply_filter(&filter)?;
    let mut words = std::env::args_os().skip(1);
    let program = words.next().ok_or("no program is named")?;
    Err(Command::new(program).args(words).exec().into())
}
