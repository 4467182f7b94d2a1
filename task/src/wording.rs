//! What the service says, in the words of the command line: its options, and inputs by the names that the user gave.

use task_proto::fault::{Fault, FaultKind};

use crate::exit::Place;

/// A fault, with the way round it as it is written here.
pub fn fault(fault: Fault) -> Fault {
    let message = match fault.kind {
        FaultKind::MissingValue => fault.message.replace("missing=skip", "--missing skip"),
        FaultKind::NotANumber | FaultKind::Malformed => fault.message.replace("format=npy", "--format npy"),
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
        ("ask again when those are done", "ask for one alone (--only mean)"),
    ];
    let message = words.iter().fold(fault.message, |message, (theirs, ours)| message.replace(theirs, ours));
    Fault { message, ..fault }
}

/// A warning, with its place as an error has it: `a.txt:1:3: this integer is beyond 64 bits: …`.
pub fn warning(warning: &str, names: &[String]) -> String {
    placed(warning, names).unwrap_or_else(|| warning.to_owned())
}

fn placed(warning: &str, names: &[String]) -> Option<String> {
    let (place, what) = warning.strip_prefix("the integer at ")?.split_once(" is ")?;
    let (place, input) = match place.split_once(" of input ") {
        Some((place, input)) => (place, input.parse::<usize>().ok()?.checked_sub(1)?),
        None => (place, 0),
    };
    let mut at = Place::of(names.get(input)?);
    if let Some(value) = place.strip_prefix("position ") {
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
            assert_eq!(warning(theirs, &names), ours);
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
            ask for one alone (--only mean), or raise --memory"
        );
    }
}
