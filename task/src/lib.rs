//! x

pub mod capture;
pub mod journal;
pub mod record;
pub mod run_dir;
pub mod screen;
pub mod socket;
