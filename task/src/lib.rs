//! x

pub mod backward;
pub mod capture;
pub mod journal;
pub mod query;
pub mod record;
pub mod run_dir;
pub mod screen;
pub mod socket;
pub mod store;

#[cfg(test)]
mod unprivileged;
