//! An emulated CUDA driver: the part of the driver API that cudarc's safe API calls.
//!
//! - [`memory`]: device and pinned allocations are host memory between guard pages.
//! - [`schedule`]: streams are ordered queues; an event is one ticket for each time it is recorded.
//! - [`graphs`]: a stream's operations written down and launched again.
//! - [`kernels`]: CUDA C++ compiled for the CPU (simt.h), found by name and checked against the real PTX.
//! - [`faults`]: failures on demand.
//! - [`api`]: the exported `cu*` functions.
//!
//! Settings come from the environment and are read once: see [`config`].

mod api;
mod config;
mod faults;
mod graphs;
mod kernels;
mod memory;
mod schedule;
mod status;
mod tsan;

use std::sync::{Mutex, MutexGuard};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// One step of xorshift64; `state` must not be zero.
fn xorshift(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}

/// Spreads a small seed over 64 bits; never zero.
fn spread(seed: u64) -> u64 {
    seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1
}
