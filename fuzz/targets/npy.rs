//! libFuzzer calls [`task_fuzz::npy`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| task_fuzz::count(task_fuzz::npy(data)));
