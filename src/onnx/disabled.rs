//! Stands in for an engine that is not in the build.

use super::network::{Input, NetworkSource, Output};
use super::{OnnxError, Source};

/// Never made.
pub(super) enum Session {}

impl Session {
    /// Says how to get the engine.
    pub(super) fn load(source: &Source<'_>) -> Result<Self, OnnxError> {
        Err(OnnxError::NotInBuild { engine: source.engine })
    }

    /// Cannot be called.
    pub(super) fn run(&self, _: &[f32], _: &mut Vec<f32>) -> Result<Vec<usize>, String> {
        match *self {}
    }
}

/// Never made.
pub(super) enum NetworkSession {}

impl NetworkSession {
    /// Says how to get the engine.
    pub(super) fn load(source: &NetworkSource<'_>) -> Result<Self, OnnxError> {
        Err(OnnxError::NotInBuild { engine: source.engine })
    }

    /// Cannot be called.
    pub(super) fn run(&self, _: &[Input<'_>]) -> Result<Vec<Output>, String> {
        match *self {}
    }
}
