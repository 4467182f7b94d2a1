//! libFuzzer calls [`task_fuzz::hello`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| task_fuzz::count(task_fuzz::hello(data)));
