//! One setting of the C library's allocator, which only a call can make.
#![allow(unsafe_code)]

/// Heaps that glibc may keep side by side; by itself it keeps up to eight a core.
#[cfg(target_env = "gnu")]
const HEAPS_MAX: i32 = 2;

/// Bounds the memory of a process whose threads take turns to hold a large buffer: glibc gives each thread a heap of
/// its own, and every heap keeps what the largest buffer took (the service's peak in `bench/run.py large` falls from
/// some 300 MiB to 130). To be called before there are threads.
pub fn few_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt sets a number in the allocator; no other thread exists yet that could read it meanwhile. Where
    // it refuses, the number stays as it was, which is sound too.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS_MAX);
    }
}
