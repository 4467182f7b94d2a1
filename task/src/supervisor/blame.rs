//! Which calls kill workers. Pure: the scoreboard of a dead worker says which calls were executing.
//!
//! A call that was executing at a death is a suspect. Suspects run one at a time in later workers, so the next death
//! finds one of them executing, and a call that was found twice is condemned: it is not executed again. SIGKILLs from
//! outside say less, as anybody may send them; but the kernel sends them too when a call takes all memory.

use std::collections::{HashSet, VecDeque};

use task_proto::crash::{Condemned, Crash, TraceId};
use task_proto::limits::{CONDEMNED, CONDEMNED_TAIL, FOREIGN_KILLS, OWN_DEATHS, SUSPECTS};

/// Whose doing a death was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Making {
    /// The worker's: a fatal signal, an exit, a hang that health ended.
    Own,
    /// Somebody sent SIGKILL.
    Foreign,
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
    /// Takes in a death: the calls that were executing, and the suspects that this worker had been told of. Only those
    /// ran apart from one another, so only they can be condemned. Returns who is.
    pub(super) fn died(
        &mut self,
        making: Making,
        executing: impl IntoIterator<Item = TraceId>,
        told: &HashSet<TraceId>,
        crash: &Crash,
    ) -> Vec<TraceId> {
        let mut condemned = Vec::new();
        // The calls of one query share a trace id.
        for trace_id in executing.into_iter().collect::<HashSet<_>>() {
            let known = self.suspects.iter().position(|suspect| suspect.trace_id == trace_id);
            let mut suspect = known.and_then(|index| self.suspects.remove(index)).unwrap_or(Suspect {
                trace_id,
                own: 0,
                foreign: 0,
            });
            match making {
                Making::Own => suspect.own += 1,
                Making::Foreign => suspect.foreign += 1,
            }
            let guilty = suspect.own >= OWN_DEATHS || suspect.foreign >= FOREIGN_KILLS;
            if guilty && told.contains(&trace_id) {
                self.condemned.push_back(Condemned { trace_id, crash: short(crash) });
                condemned.push(trace_id);
            } else {
                self.suspects.push_back(suspect);
            }
        }
        self.suspects.drain(..self.suspects.len().saturating_sub(SUSPECTS));
        self.condemned.drain(..self.condemned.len().saturating_sub(CONDEMNED));
        condemned
    }

    /// The suspects to tell the next worker of.
    pub(super) fn suspects(&self) -> Vec<TraceId> {
        self.suspects.iter().map(|suspect| suspect.trace_id).collect()
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

    fn ids(ids: impl IntoIterator<Item = u128>) -> Vec<TraceId> {
        ids.into_iter().map(TraceId).collect()
    }

    /// What a death leads to in a worker that was told of all suspects.
    fn death(blame: &mut Blame, making: Making, executing: impl IntoIterator<Item = u128>) -> Vec<TraceId> {
        let told = blame.suspects().into_iter().collect();
        blame.died(making, ids(executing), &told, &crash())
    }

    #[test]
    fn a_call_is_condemned_at_its_second_death_and_those_beside_it_are_not() {
        let mut blame = Blame::default();
        assert_eq!(death(&mut blame, Making::Own, [1, 2, 3]), []);
        assert_eq!(blame.suspects().len(), 3);
        // One at a time: the next death finds one of them, and strangers.
        assert_eq!(death(&mut blame, Making::Own, [2, 4]), ids([2]));
        assert_eq!(blame.condemned()[0].trace_id, TraceId(2));
        assert!(!blame.suspects().contains(&TraceId(2)));
        assert_eq!(death(&mut blame, Making::Own, [5]), []);
    }

    #[test]
    fn kills_from_outside_condemn_at_the_fifth() {
        let mut blame = Blame::default();
        for _ in 0..4 {
            assert_eq!(death(&mut blame, Making::Foreign, [1]), []);
        }
        assert_eq!(death(&mut blame, Making::Foreign, [1]), ids([1]));
    }

    #[test]
    fn who_ran_beside_others_unannounced_is_not_condemned() {
        let mut blame = Blame::default();
        for _ in 0..9 {
            assert_eq!(blame.died(Making::Own, ids([1, 2]), &HashSet::new(), &crash()), []);
        }
    }

    #[test]
    fn three_calls_of_one_query_count_as_one() {
        let mut blame = Blame::default();
        for _ in 0..4 {
            assert_eq!(death(&mut blame, Making::Foreign, [1, 1, 1]), []);
        }
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
            let executing = ids((0..3_000).map(|id| u128::MAX - (round / 2 * 3_000) - id));
            let told = executing.iter().copied().collect();
            blame.died(Making::Own, executing, &told, &crash);
        }
        blame.died(Making::Own, ids(0..2_000), &HashSet::new(), &crash);
        assert_eq!((blame.suspects().len(), blame.condemned().len()), (SUSPECTS, CONDEMNED));
        let hello = task_proto::handshake::Hello {
            protocol: [1, 1],
            instance: "x".repeat(8),
            generation: u64::MAX,
            socket: "\\".repeat(4096),
            limits: task_proto::limits::Limits::default(),
            suspects: blame.suspects(),
            condemned: blame.condemned(),
        };
        let bytes = serde_json::to_vec(&hello).unwrap().len() + r#"{"hello":}"#.len();
        assert!(bytes <= task_proto::limits::HANDSHAKE, "{bytes} bytes");
    }
}
