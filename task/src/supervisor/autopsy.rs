//! What a worker that hangs is at, from outside: its threads as the kernel sees them, its memory, its calls.

use std::fs;
use std::path::Path;

use task_proto::crash::TraceId;
use task_proto::limits::{AUTOPSY_CALLS, AUTOPSY_THREADS};
use task_proto::scoreboard::{Call, now};

/// Each thread of a process: its name, state and what it waits for in the kernel, as far as `/proc` tells.
pub(super) fn threads(pid: u32) -> String {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return "gone".to_owned() };
    let all: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    let mut said: Vec<_> = all.iter().take(AUTOPSY_THREADS).map(|thread| describe(thread)).collect();
    said.extend(more(all.len(), AUTOPSY_THREADS));
    said.join("; ")
}

fn describe(thread: &Path) -> String {
    let read = |name| fs::read_to_string(thread.join(name)).unwrap_or_default();
    let stat = read("stat");
    // `TID (NAME) STATE …`, where the name may hold anything.
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?');
    let name = read("comm");
    match read("wchan").as_str() {
        "" | "0" => format!("{} {state}", name.trim_end()),
        place => format!("{} {state} in {place}", name.trim_end()),
    }
}

/// The calls that are executing, with their ages.
pub(super) fn calls(calls: &[Call]) -> String {
    let since = |then: u64| now().saturating_sub(then) as f64 / 1e9;
    let describe = |call: &Call| {
        let Call { trace_id, method, started, progressed, activity, .. } = call;
        let activity = format!("{activity:?}").to_ascii_lowercase();
        format!(
            "{method} {activity} for {:.1} s, last progress {:.1} s ago, trace {}",
            since(*started),
            since(*progressed),
            TraceId(*trace_id)
        )
    };
    let mut said: Vec<_> = calls.iter().take(AUTOPSY_CALLS).map(describe).collect();
    said.extend(more(calls.len(), AUTOPSY_CALLS));
    if said.is_empty() { "none".to_owned() } else { said.join("; ") }
}

fn more(all: usize, shown: usize) -> Option<String> {
    all.checked_sub(shown).filter(|more| *more > 0).map(|more| format!("and {more} more"))
}

/// The resident memory of a process, in bytes; 0 if it is gone.
pub(super) fn resident(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_described_by_its_threads_and_memory() {
        let (ready, wait) = std::sync::mpsc::channel();
        let (keep, park) = std::sync::mpsc::channel::<()>();
        let sleeper = std::thread::Builder::new().name("odd) R (name".into());
        let sleeper = sleeper.spawn(move || {
            ready.send(()).unwrap();
            let _ = park.recv();
        });
        wait.recv().unwrap();
        let said = threads(std::process::id());
        assert!(said.contains("odd) R (name "), "{said}");
        assert!(resident(std::process::id()) > 100_000);
        assert_eq!((threads(u32::MAX), resident(u32::MAX)), ("gone".into(), 0));
        drop(keep);
        sleeper.unwrap().join().unwrap();
    }
}
