use super::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

const START_LIMIT: Duration = Duration::from_secs(10);
const DRAIN_LIMIT: Duration = Duration::from_secs(9);
const RUN: Policy = Policy { restart: Restart::Deaths(1), start: START_LIMIT, drain: DRAIN_LIMIT };
const SERVICE: Policy = Policy { restart: Restart::FailedStarts(Some(5)), ..RUN };

fn died(generation: u64) -> Event {
    Event::Exited { generation, proved: false, hopeless: false }
}

fn proved(generation: u64) -> Event {
    Event::Exited { generation, proved: true, hopeless: false }
}

fn spawn(generation: u64) -> [Action; 2] {
    [Action::Spawn(generation), Action::Arm(Timer::Start(generation), START_LIMIT)]
}

/// What the last of these events leads to, all at the same moment.
fn after(policy: &Policy, events: &[Event]) -> (State, Vec<Action>) {
    events.iter().fold(State::start(policy), |(state, _), event| state.next(*event, Duration::ZERO, policy))
}

#[track_caller]
fn has(actions: &[Action], wanted: &[Action]) {
    assert!(wanted.iter().all(|action| actions.contains(action)), "{wanted:?} in {actions:?}");
}

#[track_caller]
fn ends((state, actions): (State, Vec<Action>), how: Outcome) {
    assert_eq!(state.mode, Mode::Ended);
    has(&actions, &[Action::End(how)]);
}

#[test]
fn a_run_replaces_a_worker_that_was_ready_at_once_and_once() {
    let (_, actions) = after(&RUN, &[Event::Ready(1), died(1)]);
    has(&actions, &spawn(2));
    ends(after(&RUN, &[Event::Ready(1), died(1), Event::Ready(2), died(2)]), Outcome::Died);
}

#[test]
fn a_run_whose_worker_exits_before_ready_fails_at_once() {
    ends(after(&RUN, &[died(1)]), Outcome::StartFailed);
    ends(after(&RUN, &[Event::Ready(1), died(1), died(2)]), Outcome::StartFailed);
}

#[test]
fn a_worker_that_never_gets_ready_is_killed_and_reaped_before_the_end() {
    let late = Event::TimeUp(Timer::Start(1));
    let (state, actions) = after(&RUN, &[late]);
    has(&actions, &[Action::Kill(1), Action::Arm(Timer::Kill(1), KILL)]);
    assert_eq!(state.mode, Mode::Running);
    ends(after(&RUN, &[late, died(1)]), Outcome::StartFailed);
    let unkillable = after(&RUN, &[late, Event::TimeUp(Timer::Kill(1))]);
    has(&unkillable.1, &[Action::Forget(1)]);
    ends(unkillable, Outcome::StartFailed);
}

#[test]
fn a_service_replaces_a_worker_that_proved_itself_at_once_and_always() {
    let mut state = State::start(&SERVICE).0;
    for generation in 1..1000 {
        state = state.next(Event::Ready(generation), Duration::ZERO, &SERVICE).0;
        let (next, actions) = state.next(proved(generation), Duration::ZERO, &SERVICE);
        has(&actions, &spawn(generation + 1));
        state = next;
    }
}

#[test]
fn failed_starts_are_followed_at_once_then_after_a_wait_that_doubles_and_five_in_a_row_are_the_end() {
    let mut state = State::start(&SERVICE).0;
    let mut waits = Vec::new();
    for generation in 1..=4 {
        let (next, actions) = state.next(died(generation), Duration::from_secs(generation), &SERVICE);
        waits.extend(actions.iter().filter_map(|action| match action {
            Action::Arm(Timer::Backoff, wait) => Some(wait.as_millis()),
            _ => None,
        }));
        state = next;
        if state.is_waiting() {
            state = state.next(Event::TimeUp(Timer::Backoff), Duration::ZERO, &SERVICE).0;
        }
        assert_eq!(state.in_role(Role::Starting), Some(generation + 1));
    }
    assert_eq!(waits, [200, 400, 800]);
    let last = state.next(died(5), Duration::from_secs(61), &SERVICE);
    has(&last.1, &[Action::Unlink]);
    ends(last, Outcome::StartFailed);
}

#[test]
fn five_failed_starts_over_more_than_a_minute_or_with_one_that_proved_itself_between_are_not_the_end() {
    let run = |times: [u64; 5], good: Option<usize>| {
        let mut state = State::start(&SERVICE).0;
        for (index, second) in times.into_iter().enumerate() {
            if good == Some(index) {
                let generation = state.latest;
                state = state.next(Event::Ready(generation), Duration::ZERO, &SERVICE).0;
                state = state.next(proved(generation), Duration::ZERO, &SERVICE).0;
            }
            let generation = state.latest;
            state = state.next(died(generation), Duration::from_secs(second), &SERVICE).0;
            if state.is_waiting() {
                state = state.next(Event::TimeUp(Timer::Backoff), Duration::ZERO, &SERVICE).0;
            }
        }
        state.mode
    };
    assert_eq!(run([0, 1, 2, 3, 60], None), Mode::Ended);
    assert_eq!(run([0, 1, 2, 3, 61], None), Mode::Running);
    assert_eq!(run([0, 1, 2, 3, 4], Some(3)), Mode::Running);
}

#[test]
fn however_many_starts_may_fail_it_gives_up_though_each_takes_as_long_as_it_can() {
    for most in [1, 5, 6, 12, 40] {
        let policy = Policy { restart: Restart::FailedStarts(Some(most)), ..SERVICE };
        let (mut state, mut now, mut starts) = (State::start(&policy).0, Duration::ZERO, 0);
        while state.mode == Mode::Running {
            starts += 1;
            assert!(starts <= most, "{starts} of {most}");
            // With five of them a minute is over sooner.
            now += if most > 5 { START_LIMIT } else { Duration::ZERO };
            let (next, actions) = state.next(died(u64::from(starts)), now, &policy);
            state = next;
            for action in actions {
                if let Action::Arm(Timer::Backoff, wait) = action {
                    now += wait.mul_f64(1.5);
                    state = state.next(Event::TimeUp(Timer::Backoff), now, &policy).0;
                }
            }
        }
        assert_eq!(starts, most);
    }
}

#[test]
fn a_service_that_may_fail_for_ever_waits_half_a_minute_at_most_and_does_not_grow() {
    let policy = Policy { restart: Restart::FailedStarts(None), ..RUN };
    let mut state = State::start(&policy).0;
    let mut longest = Duration::ZERO;
    for generation in 1..10_000 {
        let (next, actions) = state.next(died(generation), Duration::ZERO, &policy);
        for action in actions {
            if let Action::Arm(Timer::Backoff, wait) = action {
                longest = longest.max(wait);
            }
        }
        state = next;
        if state.is_waiting() {
            state = state.next(Event::TimeUp(Timer::Backoff), Duration::ZERO, &policy).0;
        }
    }
    assert_eq!(longest, RESTART_BACKOFF_MAX);
    assert!(state.failed.len() <= 64);
}

#[test]
fn what_cannot_get_better_ends_the_service_at_once() {
    let hopeless = |generation| Event::Exited { generation, proved: false, hopeless: true };
    ends(after(&SERVICE, &[hopeless(1)]), Outcome::StartFailed);
    ends(after(&SERVICE, &[Event::SpawnFailed { generation: 1, hopeless: true }]), Outcome::StartFailed);
    let refused = Event::Refused { generation: 1, hopeless: true };
    ends(after(&SERVICE, &[refused, died(1)]), Outcome::StartFailed);
    // After a worker that was ready it may be a program that is just being replaced.
    assert_eq!(after(&SERVICE, &[Event::Ready(1), hopeless(1)]).0.mode, Mode::Running);
    let gone = Event::SpawnFailed { generation: 2, hopeless: true };
    assert!(after(&SERVICE, &[Event::Ready(1), proved(1), gone]).0.mode == Mode::Running);
}

#[test]
fn a_hand_over_starts_the_successor_beside_the_old_one_which_then_drains() {
    let (state, actions) = after(&SERVICE, &[Event::Ready(1), Event::HandOver]);
    has(&actions, &spawn(2));
    assert_eq!(state.role(1), Some(Role::Serving));
    let (state, actions) = after(&SERVICE, &[Event::Ready(1), Event::HandOver, Event::Ready(2)]);
    has(&actions, &[Action::Serve(2), Action::Terminate(1)]);
    assert!(
        !actions.iter().any(|action| matches!(action, Action::Arm(Timer::Stop, _))),
        "it drains without limit"
    );
    assert_eq!((state.role(1), state.role(2)), (Some(Role::Draining), Some(Role::Serving)));
}

#[test]
fn a_successor_that_does_not_start_leaves_the_old_one_serving() {
    let begun = [Event::Ready(1), Event::HandOver];
    for failure in [
        vec![died(2)],
        vec![Event::SpawnFailed { generation: 2, hopeless: true }],
        vec![Event::TimeUp(Timer::Start(2)), died(2)],
        vec![Event::Refused { generation: 2, hopeless: true }, died(2)],
    ] {
        let (state, actions) = after(&SERVICE, &[&begun[..], &failure[..]].concat());
        has(&actions, &[Action::NotStarted(2)]);
        assert_eq!((state.mode, state.role(1)), (Mode::Running, Some(Role::Serving)), "{failure:?}");
        assert_eq!(state.failed_starts(), 0);
    }
}

#[test]
fn whoever_asks_for_another_worker_while_starts_fail_has_one_at_once_and_is_told_of_its_failure() {
    let waiting = [died(1), died(2)];
    let (state, actions) = after(&SERVICE, &waiting);
    has(&actions, &[Action::Arm(Timer::Backoff, RESTART_BACKOFF)]);
    assert!(state.is_waiting());
    let asked = [&waiting[..], &[Event::HandOver]].concat();
    has(&after(&SERVICE, &asked).1, &spawn(3));
    has(&after(&SERVICE, &[&asked[..], &[died(3)]].concat()).1, &[Action::NotStarted(3)]);
    // What starts already is not what was asked for.
    let (_, actions) = after(&SERVICE, &[died(1), Event::HandOver, died(2)]);
    has(&actions, &[Action::NotStarted(2)]);
    has(&actions, &spawn(3));
}

#[test]
fn starts_that_failed_before_a_worker_that_proved_itself_do_not_count_any_more() {
    let begun = [died(1), Event::Ready(2), Event::HandOver, Event::Ready(3)];
    assert_eq!(after(&SERVICE, &begun).0.failed_starts(), 1);
    assert_eq!(after(&SERVICE, &[&begun[..], &[died(2)]].concat()).0.failed_starts(), 1);
    assert_eq!(after(&SERVICE, &[&begun[..], &[proved(2)]].concat()).0.failed_starts(), 0);
}

#[test]
fn an_old_one_that_dies_while_its_successor_starts_needs_no_other() {
    let (state, actions) = after(&SERVICE, &[Event::Ready(1), Event::HandOver, died(1)]);
    assert!(!actions.iter().any(|action| matches!(action, Action::Spawn(_))));
    assert_eq!(state.role(2), Some(Role::Starting));
}

#[test]
fn hand_overs_go_one_at_a_time_and_requests_meanwhile_count_as_one() {
    let begun = [Event::Ready(1), Event::HandOver, Event::HandOver, Event::HandOver, Event::Ready(2)];
    let (state, _) = after(&SERVICE, &begun);
    assert_eq!(state.in_role(Role::Starting), None);
    let (state, actions) = state.next(proved(1), Duration::ZERO, &SERVICE);
    has(&actions, &spawn(3));
    let state = state.next(Event::Ready(3), Duration::ZERO, &SERVICE).0;
    let (_, actions) = state.next(proved(2), Duration::ZERO, &SERVICE);
    assert!(!actions.iter().any(|action| matches!(action, Action::Spawn(_))));
}

#[test]
fn a_hand_over_while_a_start_is_waited_for_starts_at_once() {
    let (state, actions) = after(&SERVICE, &[died(1), died(2), Event::HandOver]);
    has(&actions, &spawn(3));
    has(&actions, &[Action::Disarm(Timer::Backoff)]);
    assert_eq!(state.role(3), Some(Role::Starting));
}

#[test]
fn a_worker_that_a_stranger_told_to_end_has_a_successor_at_once() {
    let (state, actions) = after(&SERVICE, &[Event::Ready(1), Event::Leaving(1)]);
    has(&actions, &spawn(2));
    assert_eq!(state.role(1), Some(Role::Draining));
    let (state, actions) = state.next(Event::Ready(2), Duration::ZERO, &SERVICE);
    assert!(!actions.contains(&Action::Terminate(1)), "it is on its way");
    let (state, actions) = state.next(proved(1), Duration::ZERO, &SERVICE);
    assert!(!actions.iter().any(|action| matches!(action, Action::Spawn(_))));
    assert_eq!(state.role(2), Some(Role::Serving));
    // What the host itself asked for is no news.
    let (_, actions) =
        after(&SERVICE, &[Event::Ready(1), Event::HandOver, Event::Ready(2), Event::Leaving(1)]);
    assert_eq!(actions, []);
}

#[test]
fn a_worker_that_a_death_brought_is_the_one_that_a_waiting_hand_over_asked_for() {
    // The third begins after the request that waits for the first to have drained.
    let events =
        [Event::Ready(1), Event::HandOver, Event::Ready(2), Event::HandOver, proved(2), Event::Ready(3)];
    let (state, actions) = after(&SERVICE, &events);
    has(&actions, &[Action::Serve(3)]);
    assert_eq!(state.next(proved(1), Duration::ZERO, &SERVICE).0.latest, 3, "nobody asked for a fourth");
}

#[test]
fn a_sick_worker_is_killed_and_what_follows_is_the_policys_business() {
    let (_, actions) = after(&SERVICE, &[Event::Ready(1), Event::Sick(1)]);
    has(&actions, &[Action::Kill(1), Action::Arm(Timer::Kill(1), KILL)]);
    let (_, actions) = after(&SERVICE, &[Event::Ready(1), Event::Sick(1), proved(1)]);
    has(&actions, &spawn(2));
    // One that even SIGKILL does not end is done without.
    let (_, actions) = after(&SERVICE, &[Event::Ready(1), Event::Sick(1), Event::TimeUp(Timer::Kill(1))]);
    has(&actions, &[Action::Forget(1)]);
    has(&actions, &spawn(2));
}

#[test]
fn the_stop_ladder_is_unlink_then_term_then_kill() {
    let (state, actions) = after(&RUN, &[Event::Ready(1), Event::Stop]);
    let unlink = actions.iter().position(|action| *action == Action::Unlink);
    let term = actions.iter().position(|action| *action == Action::Terminate(1));
    assert!(unlink < term && unlink.is_some(), "{actions:?}");
    has(&actions, &[Action::Arm(Timer::Stop, DRAIN_LIMIT)]);
    for last_straw in [Event::TimeUp(Timer::Stop), Event::StopNow] {
        let (state, actions) = state.clone().next(last_straw, Duration::ZERO, &RUN);
        has(&actions, &[Action::Kill(1), Action::Arm(Timer::Stop, KILL)]);
        ends(state.clone().next(died(1), Duration::ZERO, &RUN), Outcome::Stopped);
        ends(state.next(Event::TimeUp(Timer::Stop), Duration::ZERO, &RUN), Outcome::Stopped);
    }
}

#[test]
fn a_stop_in_the_middle_of_a_hand_over_ends_both_workers() {
    let (state, actions) = after(&SERVICE, &[Event::Ready(1), Event::HandOver, Event::Stop]);
    has(&actions, &[Action::Terminate(1), Action::Terminate(2)]);
    let (state, _) = state.next(died(2), Duration::ZERO, &SERVICE);
    ends(state.next(proved(1), Duration::ZERO, &SERVICE), Outcome::Stopped);
}

#[test]
fn a_stop_while_a_start_is_waited_for_is_the_end() {
    ends(after(&SERVICE, &[died(1), died(2), Event::Stop]), Outcome::Stopped);
}

/// Random lives of random workers. The service is never without a worker, a start or a wait for one; at most one
/// starts and one serves; it ends once, with no worker left and the socket gone; nothing is spawned after a
/// stop.
#[test]
fn no_sequence_of_events_breaks_an_invariant() {
    let mut ended = 0;
    for seed in 0..20_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let policy = match seed % 3 {
            0 => RUN,
            1 => SERVICE,
            _ => Policy { restart: Restart::FailedStarts(None), ..RUN },
        };
        let (mut state, mut actions) = State::start(&policy);
        let (mut alive, mut armed, mut now) = (Vec::new(), Vec::new(), Duration::ZERO);
        let (mut asked, mut unlinked, mut ends) = (false, false, 0);
        for step in 0..40 {
            for action in &actions {
                match *action {
                    Action::Spawn(generation) => {
                        assert!(!asked, "seed {seed}: spawned after a stop");
                        alive.push(generation);
                    }
                    Action::Arm(timer, _) => armed.push(timer),
                    Action::Disarm(timer) => armed.retain(|other| *other != timer),
                    Action::Forget(generation) => alive.retain(|other| *other != generation),
                    Action::Unlink => unlinked = true,
                    Action::End(_) => ends += 1,
                    Action::Terminate(generation) | Action::Kill(generation) | Action::Serve(generation) => {
                        assert!(alive.contains(&generation), "seed {seed}: {action:?} of nobody");
                    }
                    Action::NotStarted(generation) => {
                        assert!(!alive.contains(&generation), "seed {seed}: it may start yet");
                    }
                }
            }
            let count =
                |wanted: fn(&Role) -> bool| state.workers.iter().filter(|(_, role)| wanted(role)).count();
            assert!(count(|role| *role == Role::Starting) <= 1, "seed {seed}");
            assert!(count(|role| *role == Role::Serving) <= 1, "seed {seed}");
            let mut known: Vec<_> = state.workers.iter().map(|(generation, _)| *generation).collect();
            known.sort_unstable();
            alive.sort_unstable();
            assert_eq!(known, alive, "seed {seed}: workers lost sight of");
            match state.mode {
                Mode::Running => {
                    let coming = state.is_attended() || armed.contains(&Timer::Backoff) || !alive.is_empty();
                    assert!(coming, "seed {seed}, step {step}: nothing will ever happen");
                    for (generation, role) in &state.workers {
                        let timer = match role {
                            Role::Starting => Timer::Start(*generation),
                            Role::Abandoned { .. } => Timer::Kill(*generation),
                            Role::Serving | Role::Draining => continue,
                        };
                        assert!(armed.contains(&timer), "seed {seed}: {role:?} without limit");
                    }
                }
                Mode::Stopping { .. } => assert!(unlinked && armed.contains(&Timer::Stop), "seed {seed}"),
                Mode::Ended => assert!(alive.is_empty() && unlinked && ends == 1, "seed {seed}"),
            }
            now += Duration::from_millis(random.random_range(0..5_000));
            let of = alive.choose(&mut random).copied().unwrap_or(1);
            let event = match random.random_range(0..20) {
                0..6 => Event::Ready(of),
                6..11 => Event::Exited {
                    generation: of,
                    proved: random.random(),
                    hopeless: random.random_ratio(1, 8),
                },
                11 => Event::SpawnFailed { generation: of, hopeless: random.random_ratio(1, 4) },
                12 => Event::Refused { generation: of, hopeless: random.random() },
                13 if random.random() => Event::Leaving(of),
                13 => Event::Sick(of),
                14 | 15 => Event::HandOver,
                16 if random.random_ratio(1, 4) => Event::Stop,
                17 if random.random_ratio(1, 6) => Event::StopNow,
                _ => match armed.choose(&mut random) {
                    Some(&timer) => Event::TimeUp(timer),
                    None => Event::Ready(of),
                },
            };
            match event {
                Event::Exited { generation, .. } | Event::SpawnFailed { generation, .. } => {
                    alive.retain(|other| *other != generation);
                }
                Event::TimeUp(timer) => armed.retain(|other| *other != timer),
                Event::Stop | Event::StopNow => asked = true,
                _ => {}
            }
            asked |= state.mode != Mode::Running;
            (state, actions) = state.next(event, now, &policy);
        }
        ended += usize::from(state.mode == Mode::Ended);
    }
    assert!(ended > 1_000, "only {ended} came to an end: the test is too tame");
}
