use super::*;

fn not_a_number() -> Failure {
    let fault = Fault::new(FaultKind::NotANumber, "\"abc\" is not a number").in_source(1).at(3, 5);
    Failure::from_fault(fault, &[], &["arguments".into(), "a.txt".into()])
}

fn died() -> Failure {
    Failure::CannotStart {
        program: "bin/task-rpc".into(),
        reason: "it exited with status 3".into(),
        stderr: vec!["no \u{1b}[31mluck".into(), "bye".into()],
    }
}

fn deadline(outcome: Option<Outcome>) -> Failure {
    Failure::Deadline { limit: Duration::from_millis(1500), outcome }
}

#[test]
fn a_call_without_an_answer_says_whether_it_may_have_been_executed() {
    let member = |failure: &Failure| {
        serde_json::from_str::<serde_json::Value>(&failure.json()).unwrap()["error"]["outcome"].clone()
    };
    assert_eq!(
        deadline(Some(Outcome::Unknown)).text(),
        "task: outcome unknown: no answer within 1.5s (--timeout); see task status"
    );
    assert_eq!(member(&deadline(Some(Outcome::Unknown))), "unknown");
    assert_eq!(member(&deadline(Some(Outcome::NeverSent))), "never_sent");
    assert!(member(&deadline(None)).is_null() && member(&not_a_number()).is_null());
    let call = |kind| member(&Failure::Call { kind, message: "no".into() });
    assert_eq!(
        (call(CallKind::BacklogFull), call(CallKind::NoAnswer)),
        ("never_sent".into(), "unknown".into())
    );
}

#[test]
fn a_fault_names_its_input_line_and_column() {
    assert_eq!(not_a_number().text(), "task: a.txt:3:5: \"abc\" is not a number");
    assert_eq!(
        not_a_number().json(),
        r#"{"error":{"kind":"not_a_number","message":"\"abc\" is not a number","input":"a.txt","line":3,"column":5}}"#
    );
}

#[test]
fn a_fault_in_what_is_no_text_names_the_value() {
    let sources = [Format::F64, Format::Text].map(|format| Source::Attached { attached: 0, format });
    let failure = |index| {
        let fault = Fault { column: Some(17), ..Fault::new(FaultKind::MissingValue, "use missing=skip") };
        Failure::from_fault(fault.in_source(index), &sources, &["a.f64".into(), "a.txt".into()])
    };
    assert_eq!(failure(0).text(), "task: a.f64: value 17: use --missing skip");
    assert_eq!(failure(1).text(), "task: a.txt, column 17: use --missing skip");
    assert_eq!(
        failure(0).json(),
        r#"{"error":{"kind":"missing_value","message":"use --missing skip","input":"a.f64","value":17}}"#
    );
}

#[test]
fn a_source_that_the_query_does_not_have_has_no_name() {
    let fault = Fault::new(FaultKind::EmptyInput, "no numbers").in_source(7);
    assert_eq!(Failure::from_fault(fault, &[], &[]).text(), "task: no numbers");
}

#[test]
fn a_worker_that_does_not_start_has_its_last_words_shown_and_they_steer_no_terminal() {
    assert_eq!(
        died().text(),
        "task: cannot start bin/task-rpc: it exited with status 3\n  | no \\u{1b}[31mluck\n  | bye"
    );
    assert_eq!(
        died().json(),
        r#"{"error":{"kind":"cannot_start","message":"cannot start bin/task-rpc: it exited with status 3","stderr":["no \u001b[31mluck","bye"]}}"#
    );
}

#[test]
fn a_json_failure_is_one_line_whatever_the_file_is_called() {
    let failure = Failure::Input {
        kind: InputKind::NotFound,
        message: "no such file".into(),
        place: Place::of("a\nb\u{9b}"),
    };
    assert_eq!(
        failure.json(),
        r#"{"error":{"kind":"not_found","message":"no such file","input":"a\nb\u009b"}}"#
    );
    assert_eq!(failure.text(), "task: a\\nb\\u{9b}: no such file");
}

#[test]
fn places_read_well_with_and_without_each_part() {
    let shown = |input: Option<&str>, line, column| {
        Place { input: input.map(Into::into), line, column, value: None }.to_string()
    };
    assert_eq!(shown(None, None, None), "");
    assert_eq!(shown(None, None, Some(5)), "column 5: ");
    assert_eq!(shown(None, Some(2), Some(5)), "line 2, column 5: ");
    assert_eq!(shown(Some("argument 2"), None, None), "argument 2: ");
    assert_eq!(shown(Some("argument 2"), None, Some(3)), "argument 2, column 3: ");
    assert_eq!(shown(Some("a.txt"), Some(3), None), "a.txt:3: ");
}

#[test]
fn each_failure_has_its_ending_and_kind() {
    let cause = || "SIGKILL".to_owned();
    let io = || io::Error::from(io::ErrorKind::StorageFull);
    let call = |kind| Failure::Call { kind, message: "no".into() };
    let endings = [
        (Failure::Usage("what?".into()), Ending::Code(2), "usage"),
        (not_a_number(), Ending::Code(1), "not_a_number"),
        (deadline(None), Ending::Code(124), "deadline"),
        (died(), Ending::Code(1), "cannot_start"),
        (Failure::InputConsumed { bytes: Some(7), cause: Some(cause()) }, Ending::Code(1), "input_consumed"),
        (call(CallKind::BacklogFull), Ending::Code(1), "backlog_full"),
        (call(CallKind::OutcomeUnknown), Ending::Code(1), "outcome_unknown"),
        (Failure::Crashed { cause: cause(), generation: 2, stderr: Vec::new() }, Ending::Code(1), "crashed"),
        (Failure::RuntimeDir("not ours".into()), Ending::Code(1), "runtime_dir"),
        (Failure::Output(io()), Ending::Code(1), "output"),
        (Failure::ClosedOutput, Ending::Signal(Signal::Pipe), "closed_output"),
        (Failure::Signal(Signal::Interrupt), Ending::Signal(Signal::Interrupt), "signal"),
        (Failure::Internal("no threads".into()), Ending::Code(1), "internal"),
    ];
    for (failure, ending, kind) in endings {
        assert_eq!((failure.ending(), failure.kind().as_str()), (ending, kind), "{failure:?}");
    }
}

#[test]
fn lost_input_has_its_bytes_counted_only_where_they_are_known() {
    let said = |bytes, cause: Option<&str>| {
        Failure::InputConsumed { bytes, cause: cause.map(Into::into) }.to_string()
    };
    let known = said(Some(7), Some("exited 3"));
    assert!(known.starts_with("the worker died (exited 3) after it had read 7 bytes of"), "{known}");
    for (cause, who) in [(Some("exited 3"), "the worker died (exited 3)"), (None, "the connection was lost")]
    {
        let unknown = said(None, cause);
        assert!(unknown.starts_with(&format!("{who} after it may have read from")), "{unknown}");
    }
}

#[test]
fn a_deadline_says_how_long_it_was_and_a_usage_error_where_to_read_on() {
    assert_eq!(deadline(None).text(), "task: no answer within 1.5s (--timeout)");
    assert_eq!(Failure::Usage("what?".into()).text(), "task: what?; see task --help");
    let of_command = Failure::CommandUsage { command: "call".into(), message: "what?".into() };
    assert_eq!(of_command.text(), "task: what?; see task call --help");
}
