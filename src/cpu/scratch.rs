//! Per-thread work memory that is allocated once and kept.

use std::cell::RefCell;

thread_local! {
    static FLOATS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static SUMS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Lends `work` at least `len` floats of this thread, with whatever the last user left in them.
/// `work` must not hand over to rayon, which could come back here on the same thread.
pub(crate) fn with_floats<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    FLOATS.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        work(&mut buffer[..len])
    })
}

/// The same for integer sums.
pub(crate) fn with_sums<R>(len: usize, work: impl FnOnce(&mut [u32]) -> R) -> R {
    SUMS.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        work(&mut buffer[..len])
    })
}
