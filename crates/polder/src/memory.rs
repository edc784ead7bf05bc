//! Settings of the C library's allocator, which only a call can make.
#![allow(unsafe_code)]

/// Sets up the allocator. To be called before there are threads.
///
/// Few heaps bound the memory of a process whose threads take turns to hold a large buffer: glibc gives each thread a
/// heap of its own, and every heap keeps what the largest buffer took (the service's peak in `bench/run.py large` falls
/// from some 300 MiB to 130). By itself it keeps up to eight a core.
///
/// The thresholds keep ranges of packs (4 MiB) in the heaps and whole packs (32 MiB) out of them. By itself glibc moves
/// the first threshold up to whatever was given back last and cuts its heaps down at twice that, so that each range
/// came in fresh pages: a quarter of the processor time of a download of large files.
#[cfg(target_env = "gnu")]
pub fn set_up() {
    const HEAPS_MAX: i32 = 2;
    const MMAP_THRESHOLD_BYTES: i32 = 8 << 20;
    const TRIM_THRESHOLD_BYTES: i32 = 32 << 20;
    let settings = [
        (libc::M_ARENA_MAX, HEAPS_MAX),
        (libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
    ];
    for (name, value) in settings {
        // SAFETY: mallopt sets a number in the allocator; no other thread exists yet that could read it meanwhile. Where
        // it refuses, the number stays as it was, which is sound too.
        unsafe { libc::mallopt(name, value) };
    }
}

/// Other allocators are left as they are.
#[cfg(not(target_env = "gnu"))]
pub fn set_up() {}
