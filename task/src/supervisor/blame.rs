//! Which calls kill workers. Pure: the scoreboard of a dead worker says which calls were executing.
//!
//! A call that was executing at a death is a suspect. Suspects run one at a time in later workers, and while one is
//! new no other call begins: it is on trial. A call that is found on trial, or alone, at its second death is condemned: it
//! is not executed again. A death with others beside it says less, as one of those may be the cause. So do SIGKILLs from
//! outside, which anybody may send; but the kernel sends them too when a call takes all memory.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use task_proto::crash::{Condemned, Crash, TraceId};
use task_proto::limits::{
    CONDEMNED, CONDEMNED_TAIL, FOREIGN_KILLS_SUSPECT, OWN_DEATHS, SUSPECT, SUSPECTS, WEAK_DEATHS,
};

/// Whose doing a death was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Making {
    /// The worker's: a fatal signal, an exit, a hang that health ended.
    Own,
    /// Somebody sent SIGKILL.
    Foreign,
}

/// What is known of a death.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) making: Making,
    /// The calls that may have caused it.
    pub(super) executing: &'a HashSet<TraceId>,
    /// Which of them was on trial.
    pub(super) on_trial: Option<TraceId>,
    /// All calls that the worker had.
    pub(super) present: &'a HashSet<TraceId>,
    /// The suspects that it had been told of.
    pub(super) told: &'a HashSet<TraceId>,
    /// How long it had lived.
    pub(super) lived: Duration,
}

/// The suspects and the condemned of one supervisor.
#[derive(Debug, Default)]
pub(super) struct Blame {
    /// The freshest at the end.
    suspects: VecDeque<Suspect>,
    condemned: VecDeque<Condemned>,
}

#[derive(Debug)]
struct Suspect {
    trace_id: TraceId,
    own: u32,
    foreign: u32,
}

impl Blame {
    /// Takes in a death. Only suspects of whom the worker had been told took turns, so only they can be condemned; and only
    /// if they were on trial, or no other suspect was executing beside, as one may that it had not been told of. Returns
    /// who is.
    pub(super) fn died(&mut self, death: &Scene<'_>, crash: &Crash) -> Vec<TraceId> {
        let Scene { making, executing, on_trial, present, told, lived } = *death;
        // A suspect that this worker could have had, and had not, was answered, or nobody asks for it any more.
        if lived >= SUSPECT {
            self.suspects
                .retain(|suspect| !told.contains(&suspect.trace_id) || present.contains(&suspect.trace_id));
        }
        let known = self.suspects.iter().filter(|suspect| executing.contains(&suspect.trace_id)).count();
        let mut condemned = Vec::new();
        for trace_id in executing {
            let place = self.suspects.iter().position(|suspect| suspect.trace_id == *trace_id);
            let mut suspect = place.and_then(|place| self.suspects.remove(place)).unwrap_or(Suspect {
                trace_id: *trace_id,
                own: 0,
                foreign: 0,
            });
            match making {
                Making::Own => suspect.own += 1,
                Making::Foreign => suspect.foreign += 1,
            }
            let caught = making == Making::Own && (executing.len() == 1 || on_trial == Some(*trace_id));
            let guilty =
                (caught && suspect.own >= OWN_DEATHS) || suspect.own + suspect.foreign >= WEAK_DEATHS;
            if guilty && told.contains(trace_id) && (known == 1 || on_trial == Some(*trace_id)) {
                self.condemned.push_back(Condemned { trace_id: *trace_id, crash: short(crash) });
                condemned.push(*trace_id);
            } else {
                self.suspects.push_back(suspect);
            }
        }
        self.suspects.drain(..self.suspects.len().saturating_sub(SUSPECTS));
        self.condemned.drain(..self.condemned.len().saturating_sub(CONDEMNED));
        condemned
    }

    /// The suspects to tell the next worker of. A kill or two from outside make none.
    pub(super) fn suspects(&self) -> Vec<TraceId> {
        let suspicious = |suspect: &&Suspect| suspect.own > 0 || suspect.foreign >= FOREIGN_KILLS_SUSPECT;
        self.suspects.iter().filter(suspicious).map(|suspect| suspect.trace_id).collect()
    }

    /// The condemned to tell the next worker of.
    pub(super) fn condemned(&self) -> Vec<Condemned> {
        self.condemned.iter().cloned().collect()
    }
}

/// With no more of the last words than a hello has room for: the last ones.
fn short(crash: &Crash) -> Crash {
    let mut room = CONDEMNED_TAIL;
    let mut tail = VecDeque::new();
    for line in crash.stderr_tail.iter().rev() {
        let kept = &line[..line.floor_char_boundary(room)];
        room -= kept.len();
        if kept.is_empty() && !line.is_empty() {
            break;
        }
        tail.push_front(kept.to_owned());
        if tail.len() == CONDEMNED_TAIL / 8 {
            break;
        }
    }
    Crash { stderr_tail: tail.into(), ..crash.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crash() -> Crash {
        Crash { generation: 1, cause: "killed by SIGABRT".into(), stderr_tail: Vec::new() }
    }

    fn ids(ids: impl IntoIterator<Item = u128>) -> HashSet<TraceId> {
        ids.into_iter().map(TraceId).collect()
    }

    /// A young worker's death of its own making, with no calls but those that it executed.
    fn own<'a>(executing: &'a HashSet<TraceId>, told: &'a HashSet<TraceId>) -> Scene<'a> {
        let making = Making::Own;
        Scene { making, executing, on_trial: None, present: executing, told, lived: Duration::ZERO }
    }

    /// What a death leads to in a worker that was told of all suspects, and had no other calls.
    fn death(blame: &mut Blame, making: Making, executing: impl IntoIterator<Item = u128>) -> Vec<TraceId> {
        let (told, executing) = (blame.suspects().into_iter().collect(), ids(executing));
        blame.died(&Scene { making, ..own(&executing, &told) }, &crash())
    }

    /// The same, when one of them was on trial.
    fn trial(blame: &mut Blame, on_trial: u128, executing: impl IntoIterator<Item = u128>) -> Vec<TraceId> {
        let (told, executing) = (blame.suspects().into_iter().collect(), ids(executing));
        let on_trial = Some(TraceId(on_trial));
        blame.died(&Scene { on_trial, ..own(&executing, &told) }, &crash())
    }

    #[test]
    fn a_call_is_condemned_at_its_second_death_and_those_beside_it_are_not() {
        let mut blame = Blame::default();
        assert_eq!(death(&mut blame, Making::Own, [1, 2, 3]), []);
        assert_eq!(blame.suspects().len(), 3);
        // On trial: the next death finds one of them, and strangers.
        assert_eq!(trial(&mut blame, 2, [2, 4]), [TraceId(2)]);
        assert_eq!(blame.condemned()[0].trace_id, TraceId(2));
        assert!(!blame.suspects().contains(&TraceId(2)));
        assert_eq!(death(&mut blame, Making::Own, [5]), []);
    }

    #[test]
    fn kills_from_outside_condemn_at_the_fifth_and_make_no_suspect_before_the_third() {
        let mut blame = Blame::default();
        for suspects in [0, 0, 1, 1] {
            assert_eq!(death(&mut blame, Making::Foreign, [1]), []);
            assert_eq!(blame.suspects().len(), suspects);
        }
        assert_eq!(death(&mut blame, Making::Foreign, [1]), [TraceId(1)]);
    }

    #[test]
    fn a_call_that_was_beside_another_killer_each_time_is_not_condemned_before_the_fifth() {
        let mut blame = Blame::default();
        for killer in 2..6 {
            assert_eq!(death(&mut blame, Making::Own, [1, killer]), []);
        }
        // None of them was ever seen alone, and it may be that one alone kills.
        assert_eq!(death(&mut blame, Making::Own, [1, 6]), [TraceId(1)]);
        assert_eq!(death(&mut blame, Making::Own, [3]), [TraceId(3)]);
    }

    #[test]
    fn who_ran_beside_others_unannounced_is_not_condemned() {
        let mut blame = Blame::default();
        for _ in 0..9 {
            let both = ids([1, 2]);
            let condemned = blame.died(&own(&both, &ids([])), &crash());
            assert_eq!(condemned, []);
        }
    }

    #[test]
    fn a_suspect_is_not_condemned_for_another_that_ran_beside_it_because_there_were_too_many_to_tell_of() {
        let mut blame = Blame::default();
        death(&mut blame, Making::Own, [1, 2]);
        // The worker is told of 1 only.
        let (told, executing) = (ids([1]), ids([1, 2]));
        let condemned = blame.died(&own(&executing, &told), &crash());
        assert_eq!(condemned, []);
        assert_eq!(death(&mut blame, Making::Own, [2]), [TraceId(2)]);
    }

    #[test]
    fn a_suspect_that_nobody_asks_for_any_more_is_forgotten() {
        let mut blame = Blame::default();
        death(&mut blame, Making::Own, [1, 2]);
        let (told, present) = (ids([1, 2]), ids([2]));
        blame.died(&Scene { present: &present, lived: SUSPECT / 2, ..own(&ids([]), &told) }, &crash());
        assert_eq!(blame.suspects().len(), 2, "its caller may not have come yet");
        blame.died(&Scene { present: &present, lived: SUSPECT, ..own(&ids([]), &told) }, &crash());
        assert_eq!(blame.suspects(), [TraceId(2)]);
    }

    #[test]
    fn the_worst_that_can_be_told_fits_one_handshake() {
        let mut blame = Blame::default();
        let crash = Crash {
            generation: u64::MAX,
            cause: "killed by SIGKILL by its host: no heartbeat for 3 s".into(),
            stderr_tail: (0..20).map(|_| "\"\\\u{fffd}".repeat(100)).collect(),
        };
        for round in 0..4_u128 {
            let executing = ids((0..100).map(|id| u128::MAX - round / 2 * 100 - id));
            for call in executing {
                let one = HashSet::from([call]);
                blame.died(&own(&one, &one), &crash);
            }
        }
        let many = ids(0..2_000);
        blame.died(&own(&many, &ids([])), &crash);
        assert_eq!((blame.suspects().len(), blame.condemned().len()), (SUSPECTS, CONDEMNED));
        let hello = task_proto::handshake::Hello {
            protocol: [1, 1],
            instance: "x".repeat(8),
            generation: u64::MAX,
            socket: "\\".repeat(4096),
            limits: task_proto::limits::Limits::default(),
            sandbox: task_proto::handshake::SandboxMode::default(),
            suspects: blame.suspects(),
            condemned: blame.condemned(),
        };
        let bytes = serde_json::to_vec(&hello).unwrap().len() + r#"{"hello":}"#.len();
        assert!(bytes <= task_proto::limits::HANDSHAKE, "{bytes} bytes");
    }
}
