use super::*;

fn command(line: &[&str]) -> Result<Command, Rejected> {
    parse(std::iter::once("task").chain(line.iter().copied()).map(OsString::from))
}

fn config(line: &[&str]) -> Config {
    match command(line) {
        Ok(Command::OneShot(config)) => *config,
        other => panic!("{line:?} is no one-shot run: {other:?}"),
    }
}

fn rejected(line: &[&str]) -> String {
    match command(line) {
        Err(Rejected {
            failure: Failure::Usage(message) | Failure::CommandUsage { message, .. }, ..
        }) => message,
        other => panic!("{line:?} is no usage error: {other:?}"),
    }
}

#[test]
fn negative_numbers_are_inputs_and_not_flags() {
    for line in [
        &["-5", "3"][..],
        &["3", "-5"],
        &["-inf"],
        &["-Infinity", "-nan"],
        &["-1,-2"],
        &["-.5", "-1e-3", "-5."],
        &["-1 -2"],
        &["-inf,-1"],
        // Not numbers, but no flags either: the error is to name the token.
        &["-5x", "-.e"],
        &["-"],
        &["--", "--json", "-q"],
    ] {
        let words: Vec<_> = line.iter().copied().filter(|word| *word != "--").collect();
        assert_eq!(config(line).words, words, "{line:?}");
    }
}

#[test]
fn flags_are_flags_wherever_they_stand() {
    let Config { words, only, asking: Asking { json, missing, .. }, .. } =
        config(&["-5", "--json", "a.txt", "--only", "mode", "--missing", "skip", "-"]);
    assert_eq!(words, ["-5", "a.txt", "-"]);
    assert_eq!((only, json, missing), (Some(Only::Mode), true, Missing::Skip));
}

#[test]
fn a_plain_command_line_has_plain_defaults() {
    let config = config(&["1"]);
    assert_eq!((config.only, config.asking.json, config.asking.missing), (None, false, Missing::Error));
    assert_eq!((config.asking.verbosity, config.asking.color), (Verbosity::Normal, Color::Auto));
    assert_eq!((config.asking.timeout, config.memory, config.runtime_dir), (None, None, None));
    assert_eq!(config.rpc_bin, std::env::current_exe().unwrap().with_file_name("task-rpc"));
}

#[test]
fn verbosity_goes_up_by_v_and_down_by_q() {
    for (line, verbosity) in [
        (&["-q"][..], Verbosity::Quiet),
        (&["--quiet"], Verbosity::Quiet),
        (&["-v"], Verbosity::Verbose),
        (&["-vv"], Verbosity::Debug),
        (&["-v", "1", "-v", "--verbose"], Verbosity::Debug),
    ] {
        assert_eq!(config(line).asking.verbosity, verbosity, "{line:?}");
    }
    assert_eq!(rejected(&["-qv"]), "--quiet and --verbose contradict each other");
}

#[test]
fn usage_errors_are_one_line_that_names_the_nearest_flag() {
    assert_eq!(
        rejected(&["--jsn"]),
        "unexpected argument '--jsn' found; a similar argument exists: '--json'"
    );
    assert_eq!(
        rejected(&["--timeout", "0", "1"]),
        "invalid value '0' for '--timeout <DURATION>': it must be longer than nothing"
    );
    for line in [&["--only", "range"][..], &["--only"], &["-x"], &["completions", "tcl"], &["logs", "--json"]]
    {
        assert!(!rejected(line).contains('\n'), "{line:?}");
    }
}

#[test]
fn a_usage_error_is_json_when_the_line_asks_for_it() {
    let json = |line| command(line).is_err_and(|rejected| rejected.json);
    assert!(json(&["--json", "--bogus"]));
    assert!(json(&["--bogus", "1", "--json"]));
    assert!(!json(&["--bogus", "--", "--json"]));
    assert!(!json(&["--bogus"]));
}

#[test]
fn commands_are_commands_as_the_first_word_only() {
    assert!(matches!(command(&["logs", "--color", "never"]), Ok(Command::Logs(_, Color::Never))));
    assert!(matches!(command(&["completions", "bash"]), Ok(Command::Completions(_))));
    assert!(matches!(command(&["man"]), Ok(Command::Man)));
    assert_eq!(config(&["1", "logs"]).words, ["1", "logs"]);
    assert_eq!(config(&["./logs"]).words, ["./logs"]);
}

#[test]
fn help_and_version_are_pages_to_print() {
    for line in [&["--help"][..], &["-h"], &["--version"], &["-V"], &["help"], &["logs", "--help"]] {
        assert!(matches!(command(line), Ok(Command::Help(page)) if page.contains("task")), "{line:?}");
    }
}

#[test]
fn the_grammar_holds_together() {
    grammar().debug_assert();
}

#[test]
fn a_call_takes_a_method_and_the_words_and_flags_of_a_run() {
    let call = |line: &[&str]| match command(&[&["call"], line].concat()) {
        Ok(Command::Call(call)) => call,
        other => panic!("{line:?}: {other:?}"),
    };
    let median = call(&["median", "-5", "--json", "a.txt", "--timeout", "2s", "-v"]);
    assert_eq!((median.only, &median.words[..]), (Some(Only::Median), &["-5".into(), "a.txt".into()][..]));
    assert_eq!((median.asking.json, median.asking.verbosity), (true, Verbosity::Verbose));
    assert_eq!((median.asking.timeout, median.socket), (Some(Duration::from_secs(2)), None));
    assert_eq!(call(&["ping"]).only, None);
    assert!(command(&["call"]).is_err() && command(&["call", "sum", "1"]).is_err());
}
