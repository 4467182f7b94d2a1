//! Which instructions the kernels use: the best that the processor has, or what `TASK_SIMD` says.

/// A set of instructions. Each has all of the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor of the target has.
    Portable,
    /// x86-64-v3: AVX2, FMA, BMI1, BMI2, LZCNT, POPCNT.
    Avx2,
    /// x86-64-v4 with what Ice Lake and Zen 4 have as well: AVX-512 F, BW, CD, DQ, VL, VBMI and VBMI2.
    Avx512,
}

/// A level that this processor has: only here is one made, after a look at the processor, so that a kernel of that level
/// may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Simd(Level);

impl Simd {
    /// The best level of this processor.
    pub fn best() -> Self {
        Simd(best())
    }

    /// This level, where the processor has it.
    pub fn new(level: Level) -> Option<Self> {
        (Simd(level) <= Self::best()).then_some(Simd(level))
    }

    /// All levels that this processor has, the best last: for tests and benches.
    pub fn all() -> impl Iterator<Item = Self> {
        [Level::Portable, Level::Avx2, Level::Avx512].into_iter().filter_map(Self::new)
    }

    /// Which one.
    pub fn level(self) -> Level {
        self.0
    }

    /// The one of this name: `portable`, `avx2` or `avx512`.
    ///
    /// # Errors
    /// A sentence, where there is none or the processor does not have it.
    pub fn named(name: &str) -> Result<Self, String> {
        let levels = [("portable", Level::Portable), ("avx2", Level::Avx2), ("avx512", Level::Avx512)];
        let level = levels.iter().find(|(known, _)| *known == name);
        let &(_, level) =
            level.ok_or_else(|| format!("there is no `{name}`; there are portable, avx2 and avx512"))?;
        Simd::new(level).ok_or_else(|| format!("this processor does not have {name}"))
    }
}

#[cfg(target_arch = "x86_64")]
fn best() -> Level {
    use std::arch::is_x86_feature_detected as has;
    let v3 = has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt");
    let v4 = has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (v3, v4 && has!("avx512vbmi") && has!("avx512vbmi2")) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn best() -> Level {
    Level::Portable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_processor_has_is_a_level() {
        assert_eq!(Simd::named("portable").map(Simd::level), Ok(Level::Portable));
        assert!(Simd::named("sse9").unwrap_err().contains("portable, avx2 and avx512"));
        for (name, level) in [("avx2", Level::Avx2), ("avx512", Level::Avx512)] {
            let named = Simd::named(name);
            assert_eq!(named.is_ok(), level <= Simd::best().level(), "{named:?}");
        }
        assert_eq!(Simd::all().last(), Some(Simd::best()));
    }
}
