//! Exit statuses, and one line on standard error for each failure.

use std::fmt;

use sparse_refine::bundle::BundleError;
use sparse_refine::pipeline::BackendError;
use sparse_refine::plan::PlanError;

/// Wrong usage or configuration.
pub(crate) const USAGE: u8 = 2;
/// Unreadable model or bag, or output that cannot be written.
pub(crate) const FILES: u8 = 3;
/// The backend asked for is not available.
pub(crate) const BACKEND: u8 = 4;
/// Device lost while running.
pub(crate) const DEVICE: u8 = 5;

/// Why the program ends, and with which status.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string().replace('\n', " ") }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::new(USAGE, error)
    }
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        Self::new(FILES, error)
    }
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        let code = match error {
            BackendError::Model(_) => FILES,
            BackendError::NotAvailable { .. } | BackendError::Resources(_) => BACKEND,
        };
        Self::new(code, error)
    }
}
