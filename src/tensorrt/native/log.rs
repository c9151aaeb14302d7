//! What TensorRT says, on whatever thread it says it: the newest errors are kept for our own messages.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_void};
use std::panic::catch_unwind;
use std::sync::{Mutex, PoisonError};

use super::ffi;

/// Lines kept, and characters of each.
const LINES: usize = 6;
const LINE_CHARS: usize = 300;

#[derive(Default)]
struct Lines(Mutex<VecDeque<String>>);

impl Lines {
    fn push(&self, text: &str) {
        let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = line.chars().take(LINE_CHARS).collect();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.back() != Some(&line) {
            lines.push_back(line);
        }
        if lines.len() > LINES {
            lines.pop_front();
        }
    }

    fn take(&self) -> String {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = lines.drain(..).collect::<Vec<_>>().join("; ");
        if text.is_empty() { "TensorRT gave no reason".to_owned() } else { text }
    }
}

/// A logger that TensorRT may call from its threads.
pub(super) struct Log {
    handle: *mut c_void,
    lines: Box<Lines>,
}

// SAFETY: the handle is an immutable object whose one method TensorRT itself calls from several threads.
unsafe impl Send for Log {}
// SAFETY: as above; the lines are behind a mutex.
unsafe impl Sync for Log {}

impl Log {
    pub(super) fn new() -> Self {
        let lines = Box::<Lines>::default();
        let user = std::ptr::from_ref(&*lines).cast_mut().cast();
        // SAFETY: `user` stays where it is, in its box, until after `shim_logger_free`.
        let handle = unsafe { ffi::shim_logger_new(write, user) };
        Self { handle, lines }
    }

    /// What the shim calls a logger.
    pub(super) fn handle(&self) -> *mut c_void {
        self.handle
    }

    /// The errors since the last call, as one line.
    pub(super) fn take(&self) -> String {
        self.lines.take()
    }

    /// Forgets what earlier calls left.
    pub(super) fn clear(&self) {
        self.lines.take();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // SAFETY: made by `shim_logger_new`; whoever logs through it holds the `Log`.
        unsafe { ffi::shim_logger_free(self.handle) }
    }
}

/// Severities of TensorRT: 0 internal error, 1 error, 2 warning, 3 information, 4 verbose.
extern "C" fn write(user: *mut c_void, severity: i32, text: *const c_char) {
    if severity > 2 || text.is_null() {
        return;
    }
    // A panic must not pass through TensorRT's frames; a line that cannot be kept is lost.
    let _ = catch_unwind(|| {
        // SAFETY: `user` is the `Lines` given to `shim_logger_new`, `text` a C string for the time of this call.
        let (lines, text) = unsafe { (&*user.cast::<Lines>(), CStr::from_ptr(text)) };
        let text = text.to_string_lossy();
        if severity < 2 {
            lines.push(&text);
        }
        tracing::debug!(severity, "TensorRT: {text}");
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_errors_are_kept_on_one_line_and_bounded() {
        let log = Log::new();
        let user: *mut c_void = std::ptr::from_ref(&*log.lines).cast_mut().cast();
        assert_eq!(log.take(), "TensorRT gave no reason");
        for number in 0..LINES + 3 {
            let text = format!("error\n  number {number}\0");
            write(user, 1, text.as_ptr().cast());
        }
        write(user, 2, c"a warning".as_ptr());
        write(user, 1, std::ptr::null());
        write(user, 0, format!("{}\0", "x".repeat(10 * LINE_CHARS)).as_ptr().cast());
        let text = log.take();
        assert!(!text.contains("number 3") && text.contains("error number 4; error number 5"), "{text}");
        assert!(text.len() < LINES * (LINE_CHARS + 2) && !text.contains("warning"), "{text}");
        assert_eq!(log.take(), "TensorRT gave no reason");
    }
}
