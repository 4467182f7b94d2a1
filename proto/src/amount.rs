//! Lengths of time and amounts of memory, as flags give them.

use std::time::Duration;

use crate::limits::NO_DEADLINE;

/// A length of time: `500ms`, `2s`, `1.5m`, `1h`; a plain number is in seconds. At most [`NO_DEADLINE`].
///
/// # Errors
/// What is wrong with it, in words.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (amount, unit) = amount_and_unit(text)?;
    let scale = match unit.as_str() {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is none of the units ms, s, m, h")),
    };
    match Duration::try_from_secs_f64(amount * scale) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".into()),
        Ok(duration) => Ok(duration.min(NO_DEADLINE)),
        Err(_) if amount < 0.0 => Err("it must be longer than nothing".into()),
        Err(_) => Ok(NO_DEADLINE),
    }
}

/// An amount of memory in bytes: `1000000`, `10 bytes`, `512K`, `512M`, `1.5G`, `1T`, in powers of 1024.
///
/// # Errors
/// What is wrong with it, in words.
pub fn size(text: &str) -> Result<u64, String> {
    let (amount, unit) = amount_and_unit(text)?;
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" | "byte" | "bytes" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(format!("{unit:?} is none of the units K, M, G, T")),
    };
    let bytes = amount * 1024_f64.powi(power);
    if bytes < 1.0 { Err("it must be at least one byte".into()) } else { Ok(bytes as u64) }
}

fn amount_and_unit(text: &str) -> Result<(f64, String), String> {
    let text = text.trim();
    let (amount, unit) =
        text.split_at(text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len()));
    let amount = amount.trim().parse().map_err(|_| "it must begin with a number".to_owned())?;
    Ok((amount, unit.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_or_are_seconds() {
        for (text, millis) in
            [("500ms", 500), ("2s", 2000), ("2", 2000), ("0.5", 500), ("1.5m", 90_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "0ms", "-1", "1e3", "5 parsecs", "s", "nan", "inf", "1e-400"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(duration("99999999999999999999h"), Ok(NO_DEADLINE));
    }

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        for (text, bytes) in [
            ("1000000", 1_000_000),
            ("512M", 512 << 20),
            ("4G", 4 << 30),
            ("4GiB", 4 << 30),
            ("1.5k", 1536),
            ("1tb", 1 << 40),
            ("7B", 7),
            ("10 bytes", 10),
            ("1 byte", 1),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "0.5", "-1G", "4X", "G"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
