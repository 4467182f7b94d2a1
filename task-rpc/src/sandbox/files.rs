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
