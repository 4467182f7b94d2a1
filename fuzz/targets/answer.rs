//! libFuzzer calls [`task_fuzz::answer`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| task_fuzz::count(task_fuzz::answer(data)));
