//! What the service says, in the words of the command line: its options, and inputs by the names that the user gave.

use task_proto::fault::{Fault, FaultKind};

use crate::exit::Place;

/// A fault, with the way round it as it is written here.
pub fn fault(fault: Fault) -> Fault {
    let message = match fault.kind {
        FaultKind::MissingValue => fault.message.replace("missing=skip", "--missing skip"),
        // Of a token that is quoted nothing is changed.
        FaultKind::NotANumber | FaultKind::Malformed => {
            match fault.message.strip_suffix("format=npy reads it") {
                Some(what) => format!("{what}--format npy reads it"),
                None => fault.message,
            }
        }
        FaultKind::InputConsumed => fault.message.replace(", or release the other one first", ""),
        _ => fault.message,
    };
    Fault { message, ..fault }
}

/// The same of a worker that is this run's alone: the only other calls are those for the other statistics.
pub fn fault_of_own(fault: Fault) -> Fault {
    if fault.kind != FaultKind::TooLarge {
        return fault;
    }
    let words = [
        (" that all calls together may use", ""),
        (" of task where it runs this service", ""),
        ("other calls hold", "the other statistics hold"),
        ("ask again when those are done", "ask for each alone (--only mean)"),
    ];
    let message = words.iter().fold(fault.message, |message, (theirs, ours)| message.replace(theirs, ours));
    Fault { message, ..fault }
}

/// A warning, with its place as an error has it: `a.txt:1:3: this integer is beyond 64 bits: …`.
/// `typed` says it of what was typed, where the service has but a copy of it.
pub fn warning(warning: &str, names: &[String], typed: &[(usize, Place)]) -> String {
    placed(warning, names, typed).unwrap_or_else(|| warning.to_owned())
}

fn placed(warning: &str, names: &[String], typed: &[(usize, Place)]) -> Option<String> {
    let (place, what) = warning.strip_prefix("the integer at ")?.split_once(" is ")?;
    let (place, input) = match place.split_once(" of input ") {
        Some((place, input)) => (place, input.parse::<usize>().ok()?.checked_sub(1)?),
        None => (place, 0),
    };
    let mut at = Place::of(names.get(input)?);
    if let Some((_, place)) = typed.iter().find(|(source, _)| *source == input) {
        at = place.clone();
    } else if let Some(value) = place.strip_prefix("position ") {
        at.value = Some(value.parse().ok()?);
    } else {
        let (line, column) = place.strip_prefix("line ")?.split_once(", column ")?;
        (at.line, at.column) = (Some(line.parse().ok()?), Some(column.parse().ok()?));
    }
    Some(format!("{at}this integer is {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_has_its_place_as_an_error_has_it_and_what_nobody_knows_stays_as_it_is() {
        let names = ["a.txt".to_owned(), "b.npy".to_owned()];
        for (theirs, ours) in [
            ("the integer at line 1, column 3 is beyond", "a.txt:1:3: this integer is beyond"),
            ("the integer at position 7 of input 2 is beyond", "b.npy: value 7: this integer is beyond"),
            (
                "the integer at position 7 of input 3 is beyond",
                "the integer at position 7 of input 3 is beyond",
            ),
            (
                "the integer at position 7 of input 0 is beyond",
                "the integer at position 7 of input 0 is beyond",
            ),
            ("the integer at sea is beyond", "the integer at sea is beyond"),
            ("something is new", "something is new"),
        ] {
            assert_eq!(warning(theirs, &names, &[]), ours);
        }
    }

    #[test]
    fn in_a_run_of_its_own_nobody_else_has_the_memory() {
        let theirs = "other calls hold 50 of the 100 bytes of memory that all calls together may use, and too few are left \
            for these numbers; ask again when those are done, or raise --memory of task where it runs this service";
        let ours = fault_of_own(Fault::new(FaultKind::TooLarge, theirs)).message;
        assert_eq!(
            ours,
            "the other statistics hold 50 of the 100 bytes of memory, and too few are left for these numbers; \
            ask for each alone (--only mean), or raise --memory"
        );
    }
}
