//! Lengths of time and amounts of memory, as flags give them.

use std::time::Duration;

use task_proto::limits::NO_DEADLINE;

/// A length of time: `500ms`, `2s`, `1.5m`, `1h`; a plain number is in seconds.
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

/// An amount of memory in bytes: `1000000`, `512K`, `512M`, `1.5G`, `1T`, in powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let (amount, unit) = amount_and_unit(text)?;
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
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
