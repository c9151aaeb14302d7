//! Plain loops compiled a second time for wider vectors, chosen when they run.
//!
//! Nothing is rounded differently: AVX2 alone has no fused multiply-add, and the compiler never reorders floats.
#![allow(unsafe_code, reason = "calls a function compiled for more than the baseline processor")]

/// Work whose loops vectorise. `run` and all it calls in loops must be `#[inline(always)]`, to be compiled anew.
pub(crate) trait Kernel {
    /// Does the work.
    fn run(self);
}

/// Runs `kernel` with the widest vectors the processor has.
pub(crate) fn run_widest(kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, the line above.
        return unsafe { run_avx2(kernel) };
    }
    kernel.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2(kernel: impl Kernel) {
    kernel.run();
}
