//! Plain loops compiled a second time for wider vectors and instructions on bits, chosen when they run.
//!
//! Nothing is rounded differently: AVX2 alone has no fused multiply-add, and the compiler never reorders floats.
#![allow(unsafe_code, reason = "calls a function compiled for more than the baseline processor")]

/// Work whose loops vectorise. `run` and all it calls in loops must be `#[inline(always)]`, to be compiled anew.
pub(crate) trait Kernel {
    /// Does the work.
    fn run(self);
}

/// Whether the processor has AVX2 and, as all that have it do, instructions that count and find bits.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
}

/// Runs `kernel` with the widest vectors the processor has.
pub(crate) fn run_widest(kernel: impl Kernel) {
    #[cfg(test)]
    if tests::PLAIN.get() {
        return kernel.run();
    }
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the processor has the four features, the line above.
        return unsafe { run_avx2(kernel) };
    }
    kernel.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,popcnt,bmi1,bmi2")]
fn run_avx2(kernel: impl Kernel) {
    kernel.run();
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    thread_local! {
        pub(super) static PLAIN: Cell<bool> = const { Cell::new(false) };
    }

    /// What `work` gives on threads where [`run_widest`] runs the loops as the baseline processor does.
    pub(crate) fn plainly<R: Send>(work: impl FnOnce() -> R + Send) -> R {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(2);
        threads.start_handler(|_| PLAIN.set(true)).build().expect("two threads").install(work)
    }

    #[test]
    fn plain_loops_run_where_they_are_asked_for() {
        assert!(plainly(|| PLAIN.get()));
        assert!(!PLAIN.get());
    }
}
