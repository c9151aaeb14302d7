//! What the user wrote, before it is checked against a bundle. Unknown keys are errors.

use serde::Deserialize;

use crate::types::Mode;

/// Which hardware runs the pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA, with the dense network on the CPU's ONNX engine.
    Cuda,
    /// CUDA, with the dense network on TensorRT.
    Tensorrt,
}

impl BackendChoice {
    /// Lower-case name, as the user writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Tensorrt => "tensorrt",
        }
    }
}

/// Which library runs ONNX on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnnxEngine {
    /// rten, pure Rust.
    #[default]
    Rten,
    /// onnxruntime, loaded at run time.
    Ort,
}

impl OnnxEngine {
    /// Lower-case name, as the user writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rten => "rten",
            Self::Ort => "ort",
        }
    }
}

impl std::fmt::Display for OnnxEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The user's settings. What is `None` comes from the bundle or the machine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which hardware runs the pipeline.
    pub backend: BackendChoice,
    /// Which library runs ONNX on the CPU.
    pub onnx_engine: OnnxEngine,
    /// What is computed.
    pub mode: Mode,
    /// Entropy threshold in nats, 0 or more.
    pub alpha: Option<f32>,
    /// Share of a camera's pixels that may be refined, in (0, 1].
    pub max_fraction: Option<f32>,
    /// Time per frame in milliseconds, above 0.
    pub budget_ms: Option<f64>,
    /// CPU threads of all stages together, 1 or more.
    pub threads: Option<usize>,
    /// Frames in flight, 1 to 16.
    pub slots: Option<usize>,
}

/// A setting that cannot be.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{name} is {value}: {allowed}")]
pub struct ConfigError {
    /// Setting, as the user writes it.
    pub name: &'static str,
    /// What was given.
    pub value: String,
    /// What would do.
    pub allowed: &'static str,
}

impl Config {
    /// Checks every value against its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |name, value: String, allowed| Err(ConfigError { name, value, allowed });
        if let Some(alpha) = self.alpha.filter(|alpha| !(alpha.is_finite() && *alpha >= 0.0)) {
            return wrong("alpha", alpha.to_string(), "an entropy in nats, 0 or more");
        }
        if let Some(share) = self.max_fraction.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            return wrong("max_fraction", share.to_string(), "a share of the pixels, above 0 and at most 1");
        }
        if let Some(ms) = self.budget_ms.filter(|ms| !(ms.is_finite() && *ms > 0.0)) {
            return wrong("budget_ms", ms.to_string(), "milliseconds, above 0");
        }
        if let Some(threads) = self.threads.filter(|threads| !(1..=1024).contains(threads)) {
            return wrong("threads", threads.to_string(), "1 to 1024");
        }
        if let Some(slots) = self.slots.filter(|slots| !(1..=16).contains(slots)) {
            return wrong("slots", slots.to_string(), "1 to 16");
        }
        Ok(())
    }

    /// CPU threads to use: as asked for, or all this process may run on.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_kept() {
        assert_eq!(Config::default().check(), Ok(()));
        let cases = [
            Config { alpha: Some(f32::NAN), ..Config::default() },
            Config { alpha: Some(-0.1), ..Config::default() },
            Config { max_fraction: Some(0.0), ..Config::default() },
            Config { max_fraction: Some(1.1), ..Config::default() },
            Config { budget_ms: Some(0.0), ..Config::default() },
            Config { budget_ms: Some(f64::INFINITY), ..Config::default() },
            Config { threads: Some(0), ..Config::default() },
            Config { slots: Some(17), ..Config::default() },
        ];
        for config in cases {
            assert!(config.check().is_err(), "{config:?}");
        }
    }

    #[test]
    fn unknown_keys_are_errors() {
        assert!(toml::from_str::<Config>("alpha = 0.2").is_ok());
        assert!(toml::from_str::<Config>("alhpa = 0.2").is_err());
    }
}
