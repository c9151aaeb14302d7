//! What an engine is: the key it is filed under, and the JSON file beside it.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::build_options::Precision;
use super::device::Device;
use super::tensors::NetworkEnds;
use super::version::{Flavour, Version};

/// Version of key and sidecar. Another one is another engine.
pub const FORMAT: u32 = 2;

/// Everything an engine depends on. Two engines with the same key are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineKey {
    /// [`FORMAT`].
    pub format: u32,
    /// Which product built it.
    pub flavour: Flavour,
    /// Its full version.
    pub version: String,
    /// Devices it was compiled for, such as 87 for 8.7. Full TensorRT: the one it was built on. TensorRT-RTX: those
    /// asked for; none: all that it knows.
    pub compute_capabilities: Vec<u32>,
    /// Full TensorRT: the device whose kernels were timed.
    pub device: Option<String>,
    /// Full TensorRT: major CUDA version of the driver.
    pub driver: Option<u32>,
    /// Where the precision comes from.
    pub precision: Precision,
    /// SHA-256 of the ONNX file, lower-case hex.
    pub onnx_sha256: String,
    /// Inputs and outputs: float32, linear.
    pub tensors: NetworkEnds,
    /// Most device memory for intermediate results.
    pub workspace_bytes: u64,
}

/// What an engine is to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// Which product.
    pub flavour: Flavour,
    /// Its version.
    pub version: Version,
    /// The device.
    pub device: Device,
}

/// A reason why an engine does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Field of the key.
    pub field: &'static str,
    /// What the engine has.
    pub engine: String,
    /// What is needed here.
    pub here: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: the engine has {}, here it is {}", self.field, self.engine, self.here)
    }
}

impl EngineKey {
    /// The name it is filed under: the first half of the SHA-256 of its JSON.
    pub fn id(&self) -> String {
        let json = serde_json::to_vec(self).expect("plain data");
        sha256(&json)[..32].to_owned()
    }

    /// What keeps it from running there.
    pub fn differences(&self, here: &Here) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut compare = |field, engine: String, here: String| {
            if engine != here {
                found.push(Difference { field, engine, here });
            }
        };
        compare("format", self.format.to_string(), FORMAT.to_string());
        compare("flavour", self.flavour.to_string(), here.flavour.to_string());
        compare("version", self.version.clone(), here.version.to_string());
        let device = &here.device;
        if let Some(name) = &self.device {
            compare("device", name.clone(), device.name.clone());
        }
        if let Some(driver) = self.driver {
            compare("driver", format!("CUDA {driver}"), format!("CUDA {}", device.driver / 1000));
        }
        let built = &self.compute_capabilities;
        if !built.is_empty() && !built.contains(&device.compute_capability) {
            let text = built.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            compare("compute capability", text, device.compute_capability.to_string());
        }
        found
    }
}

/// The file beside an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    /// What the engine depends on.
    pub key: EngineKey,
    /// Name of the bundle it was built from, for people.
    pub model: String,
    /// SHA-256 of the engine, lower-case hex.
    pub engine_sha256: String,
    /// Its size.
    pub engine_bytes: u64,
    /// Seconds since 1970.
    pub built_at: u64,
    /// How long it took.
    pub build_ms: u64,
    /// Program and version.
    pub built_by: String,
}

/// Lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tensors::TensorEntry;
    use super::*;

    pub(in crate::tensorrt) fn key() -> EngineKey {
        let entry = |name: &str, shape| vec![TensorEntry { name: name.into(), shapes: vec![shape] }];
        EngineKey {
            format: FORMAT,
            flavour: Flavour::Full,
            version: "10.16.1.11".into(),
            compute_capabilities: vec![87],
            device: Some("Orin".into()),
            driver: Some(12),
            precision: Precision::Typed,
            onnx_sha256: sha256(b"onnx"),
            tensors: NetworkEnds {
                inputs: entry("image", [1, 3, 32, 64]),
                outputs: entry("logits", [1, 5, 4, 8]),
            },
            workspace_bytes: 1 << 30,
        }
    }

    fn here() -> Here {
        let device = Device { name: "Orin".into(), compute_capability: 87, driver: 12060 };
        Here { flavour: Flavour::Full, version: Version([10, 16, 1, 11]), device }
    }

    #[test]
    fn every_field_changes_the_name() {
        let mut names = vec![key().id()];
        let changes: [fn(&mut EngineKey); 12] = [
            |key| key.format += 1,
            |key| key.flavour = Flavour::Rtx,
            |key| key.version = "10.16.1.12".into(),
            |key| key.compute_capabilities = vec![86],
            |key| key.device = None,
            |key| key.driver = Some(13),
            |key| key.precision = Precision::Fp16,
            |key| key.onnx_sha256 = sha256(b"other"),
            |key| key.tensors.inputs[0].shapes[0][2] = 48,
            |key| key.tensors.inputs[0].shapes.push([2, 3, 32, 64]),
            |key| key.tensors.outputs[0].name = "other".into(),
            |key| key.workspace_bytes += 1,
        ];
        for change in changes {
            let mut changed = key();
            change(&mut changed);
            names.push(changed.id());
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(names.iter().all(|name| name.len() == 32));
    }

    #[test]
    fn an_engine_of_another_place_names_each_difference() {
        assert_eq!(key().differences(&here()), []);
        let mut other = here();
        other.version = Version([10, 3, 0, 26]);
        other.device = Device { name: "AGX Thor".into(), compute_capability: 101, driver: 13000 };
        let fields: Vec<_> = key().differences(&other).iter().map(|difference| difference.field).collect();
        assert_eq!(fields, ["version", "device", "driver", "compute capability"]);
    }

    #[test]
    fn an_rtx_engine_runs_on_every_device_it_was_compiled_for() {
        let mut rtx = key();
        (rtx.device, rtx.driver, rtx.compute_capabilities) = (None, None, vec![86, 89]);
        (rtx.flavour, rtx.version) = (Flavour::Rtx, "1.7.1.116".into());
        let mut there = Here { flavour: Flavour::Rtx, version: Version([1, 7, 1, 116]), ..here() };
        let difference = rtx.differences(&there).remove(0).to_string();
        assert_eq!(difference, "compute capability: the engine has 86, 89, here it is 87");
        there.device.compute_capability = 89;
        assert_eq!(rtx.differences(&there), []);
        rtx.compute_capabilities.clear();
        there.device.compute_capability = 120;
        assert_eq!(rtx.differences(&there), []);
    }
}
