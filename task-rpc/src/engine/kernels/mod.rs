//! The inner loops, one file for each, and a version for each [`Level`](crate::engine::Level) where that wins.

pub(super) mod ahead;
pub(super) mod bounds;
pub(super) mod bracket;
pub(super) mod codes;
pub(super) mod count_few;
pub(super) mod counts;
pub(super) mod pages;
pub(super) mod repeats;
pub(super) mod sum;
pub(super) mod text;
