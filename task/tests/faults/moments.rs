//! Random moments that a seed repeats, and what many measured times come to.

use std::thread;
use std::time::Duration;

/// Random moments in something that takes this long, from before it begins to after its end.
pub(crate) struct Moments {
    state: u64,
    length: Duration,
}

impl Moments {
    pub(crate) fn new(seed: u64, length: Duration) -> Self {
        Moments { state: seed, length }
    }

    /// Waits, for up to the length and a quarter.
    pub(crate) fn wait(&mut self) {
        let part = self.part();
        thread::sleep(self.length.mul_f64(part * 1.25));
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 0
    }

    /// A number from 0 up to 1.
    pub(crate) fn part(&mut self) -> f64 {
        self.next() as f64 / u64::MAX as f64
    }

    /// A whole number from 0 to below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// The time that this part (0 to 1) of the sorted times did not exceed.
pub(crate) fn quantile(sorted: &[Duration], part: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}
