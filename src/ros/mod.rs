//! The ROS 2 node: cameras in, labels and timing out.
//!
//! ```text
//! node thread   owns the r2r node: takes messages, services, parameters, diagnostics; never computes
//!     | mailboxes: one frame per camera, the newest wins
//! workers       decode and compute, one per slot
//!     | in the order taken
//! engine thread publishes label, camera_info, timing, extras; a further thread compresses
//! ```

mod camera;
mod class_info;
mod diagnostics;
mod engine;
mod inputs;
mod lifecycle;
mod names;
mod node;
mod notify;
mod outputs;
mod parameters;
mod received;
mod report;
mod services;

pub use node::run;

use crate::bundle::BundleError;
use crate::pipeline::BackendError;
use crate::plan::PlanError;

/// Why the node cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Parameters or arguments that cannot be.
    #[error("{0}")]
    Configuration(String),
    /// A model bundle that cannot be used.
    #[error("{0}")]
    Model(String),
    /// The backend asked for is not available.
    #[error("{0}")]
    Backend(String),
    /// The device is gone, or a thread died.
    #[error("{0}")]
    Device(String),
    /// ROS 2 itself refused.
    #[error("ROS 2: {what}: {why}")]
    Ros {
        /// What was tried.
        what: &'static str,
        /// r2r's own words.
        why: r2r::Error,
    },
}

impl NodeError {
    /// Exit status of the process: 2, 3 and 4 do not go away by starting again, 5 may.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) | Self::Ros { .. } => 2,
            Self::Model(_) => 3,
            Self::Backend(_) => 4,
            Self::Device(_) => 5,
        }
    }

    fn ros(what: &'static str) -> impl FnOnce(r2r::Error) -> Self {
        move |why| Self::Ros { what, why }
    }
}

impl From<PlanError> for NodeError {
    fn from(error: PlanError) -> Self {
        Self::Configuration(error.to_string())
    }
}

impl From<BundleError> for NodeError {
    fn from(error: BundleError) -> Self {
        Self::Model(error.to_string())
    }
}

impl From<BackendError> for NodeError {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Model(_) => Self::Model(error.to_string()),
            BackendError::NotAvailable { .. } | BackendError::Resources(_) => {
                Self::Backend(error.to_string())
            }
        }
    }
}
