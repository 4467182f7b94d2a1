//! What becomes of a run of the real programs when things go wrong: workers that misbehave, signals and kills at random
//! moments, deaths in the middle of a call. However a run ends, its result is right and nothing of it is left.
//!
//! All in one program, because it adopts every process that loses its parent here and so sees each one that is left.
//! `make test` builds the programs that it starts. `ENDINGS` sets how many runs of each kind are ended at random, `SEED`
//! how the moments are drawn.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cut;
mod endings;
mod hosting;
#[expect(dead_code, reason = "the tests of a service, which have it too, use the rest")]
mod house;
mod killed;
mod misbehaving;
#[expect(dead_code, reason = "the tests of a service, which have it too, use the rest")]
mod moments;
mod orphans;
mod remote;
mod stalled;
mod together;
mod traced;
