//! Weights of the sparse refiner: their names, shapes and `refiner.safetensors`.
//!
//! [`RefinerWeights::assemble`] is the only place that knows the tensors; loading, counting and test weights follow it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::types::MAX_LEVELS;

/// Most classes a label image can tell apart: 255 is "unlabelled".
pub const MAX_CLASSES: usize = 255;

/// Hidden width of the gate and of the fuser, METHODS 1.1(7, 8).
pub const HIDDEN: usize = 64;

/// What the refiner sees at a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Features {
    /// The three normalised channels of the pixel.
    #[default]
    #[serde(rename = "rgb")]
    Rgb,
    /// The three channels, then the softmax of the coarse logits at the site.
    #[serde(rename = "rgb+probabilities")]
    RgbProbabilities,
}

/// How far a coarser level reaches, METHODS 1.2 and 1.6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// As far as the size of the level allows: a site's result is independent of far-away sites.
    #[default]
    Image,
    /// As far as the largest active row and column allow: the released rule.
    Active,
}

/// The architecture of a refiner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefinerSpec {
    /// Classes, the length of a logit vector.
    pub classes: usize,
    /// Channels of each level, finest first.
    pub planes: Vec<usize>,
    /// Residual blocks before and after each level.
    pub blocks: usize,
    /// Input of the stem.
    pub features: Features,
    /// Extent of the coarser levels.
    pub bound: Bound,
}

impl RefinerSpec {
    /// Channels of the stem's input.
    pub fn input_channels(&self) -> usize {
        match self.features {
            Features::Rgb => 3,
            Features::RgbProbabilities => 3 + self.classes,
        }
    }

    /// Every tensor of the file with its shape.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        let Ok(_) = RefinerWeights::assemble::<Infallible>(self, |name, shape| {
            tensors.push((name.to_owned(), shape.to_vec()));
            Ok(Vec::new())
        });
        tensors
    }

    /// Trainable parameters; the running statistics of the normalisations are not.
    pub fn parameter_count(&self) -> usize {
        let trainable = |name: &str| !name.ends_with(".running_mean") && !name.ends_with(".running_var");
        self.tensors()
            .iter()
            .filter(|(name, _)| trainable(name))
            .map(|(_, s)| s.iter().product::<usize>())
            .sum()
    }

    /// Refuses what no refiner can be.
    pub fn check(&self) -> Result<(), RefinerError> {
        let wrong = |what: &'static str, found: usize, allowed: &'static str| {
            Err(RefinerError::Spec { what, found, allowed })
        };
        if !(1..=MAX_CLASSES).contains(&self.classes) {
            return wrong("number of classes", self.classes, "1 to 255");
        }
        if !(1..=MAX_LEVELS).contains(&self.planes.len()) {
            return wrong("number of planes", self.planes.len(), "1 to 8");
        }
        if let Some(&plane) = self.planes.iter().find(|&&plane| !(1..=4096).contains(&plane)) {
            return wrong("channels in planes", plane, "1 to 4096");
        }
        if !(1..=16).contains(&self.blocks) {
            return wrong("blocks", self.blocks, "1 to 16");
        }
        Ok(())
    }
}

/// Why a refiner's weights were refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum RefinerError {
    #[error("the refiner's {what} is {found}, allowed is {allowed}")]
    Spec { what: &'static str, found: usize, allowed: &'static str },
    #[error("cannot read the refiner's weights: {source}: {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("not a safetensors file: {source}: {}", path.display())]
    Format { path: PathBuf, source: safetensors::SafeTensorError },
    #[error("tensor `{tensor}` {expected:?} is missing; do planes, blocks and features match the file? {}", path.display())]
    Missing { tensor: String, expected: Vec<usize>, path: PathBuf },
    #[error("tensor `{tensor}` is not part of this refiner; do planes and blocks match the file? {}", path.display())]
    Unexpected { tensor: String, path: PathBuf },
    #[error("tensor `{tensor}` is {found:?}, expected F32: {}", path.display())]
    Type { tensor: String, found: Dtype, path: PathBuf },
    #[error("tensor `{tensor}` has shape {found:?}, expected {expected:?}: {}", path.display())]
    Shape { tensor: String, expected: Vec<usize>, found: Vec<usize>, path: PathBuf },
    #[error("tensor `{tensor}` holds {found} at element {index}, expected finite numbers: {}", path.display())]
    Value { tensor: String, index: usize, found: f32, path: PathBuf },
    #[error("tensor `{tensor}` holds {found} at element {index}, a variance cannot be negative: {}", path.display())]
    Variance { tensor: String, index: usize, found: f32, path: PathBuf },
}

/// A convolution kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Channels it reads.
    pub inputs: usize,
    /// Channels it writes.
    pub outputs: usize,
    /// `[tap, in, out]` with `tap = dr + 3*dc`, or `[in, out]` for a projection.
    pub values: Vec<f32>,
}

/// A linear layer.
#[derive(Clone, Debug)]
pub struct Linear {
    /// Channels it reads.
    pub inputs: usize,
    /// Channels it writes.
    pub outputs: usize,
    /// `[out, in]`.
    pub weight: Vec<f32>,
    /// `[out]`.
    pub bias: Vec<f32>,
}

/// A batch normalisation in inference, eps 1e-5.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "PyTorch's names")]
pub struct BatchNorm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub running_mean: Vec<f32>,
    pub running_var: Vec<f32>,
}

/// A pre-activation residual block.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "names of docs/bundle.md")]
pub struct Residual {
    /// 1x1 on the raw input where the channel counts differ.
    pub projection: Option<Kernel>,
    pub bn1: BatchNorm,
    pub conv1: Kernel,
    pub bn2: BatchNorm,
    pub conv2: Kernel,
}

/// A normalisation with ReLU and the strided convolution after it.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "names of docs/bundle.md")]
pub struct Strided {
    pub bn: BatchNorm,
    pub kernel: Kernel,
}

/// The way from one level to the next coarser one and back.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "names of docs/bundle.md")]
pub struct Descent {
    pub down: Strided,
    pub up: Strided,
    pub post: Vec<Residual>,
}

/// One level of the U-Net.
#[derive(Clone, Debug)]
pub struct Level {
    /// Blocks before the descent.
    pub pre: Vec<Residual>,
    /// Absent at the coarsest level.
    pub descent: Option<Descent>,
}

/// All weights of a refiner, checked against its spec.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "names of docs/bundle.md")]
pub struct RefinerWeights {
    pub spec: RefinerSpec,
    pub stem: Kernel,
    pub levels: Vec<Level>,
    pub head: BatchNorm,
    pub classifier: Linear,
    pub gate: [Linear; 2],
    pub fuser: [Linear; 2],
}

impl RefinerWeights {
    /// Reads `refiner.safetensors`; everything in it must be part of `spec`, and the other way round.
    pub fn load(path: &Path, spec: &RefinerSpec) -> Result<Self, RefinerError> {
        spec.check()?;
        let bytes =
            std::fs::read(path).map_err(|source| RefinerError::Read { path: path.to_owned(), source })?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|source| RefinerError::Format { path: path.to_owned(), source })?;
        let mut unread: BTreeSet<&str> = file.names().into_iter().collect();
        let weights = Self::assemble(spec, |name, shape| {
            unread.remove(name);
            read_tensor(&file, name, shape, path)
        })?;
        match unread.first() {
            Some(&tensor) => {
                Err(RefinerError::Unexpected { tensor: tensor.to_owned(), path: path.to_owned() })
            }
            None => Ok(weights),
        }
    }

    /// Builds the weights from a source of tensors, called once per tensor with its name and shape. The source answers
    /// with as many values as the shape has elements.
    pub fn assemble<E>(
        spec: &RefinerSpec,
        mut tensor: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let classes = spec.classes;
        let mut source = Source(&mut tensor);
        let stem = source.kernel("stem.weight", spec.input_channels(), spec.planes[0])?;
        let mut levels = Vec::with_capacity(spec.planes.len());
        for (i, &a) in spec.planes.iter().enumerate() {
            let level = format!("levels.{i}");
            let pre = (0..spec.blocks)
                .map(|k| source.residual(&format!("{level}.pre.{k}"), a, a))
                .collect::<Result<_, E>>()?;
            let descent = match spec.planes.get(i + 1) {
                Some(&b) => Some(Descent {
                    down: source.strided(&format!("{level}.down"), a, b)?,
                    up: source.strided(&format!("{level}.up"), b, a)?,
                    post: (0..spec.blocks)
                        .map(|k| {
                            source.residual(&format!("{level}.post.{k}"), if k == 0 { 2 * a } else { a }, a)
                        })
                        .collect::<Result<_, E>>()?,
                }),
                None => None,
            };
            levels.push(Level { pre, descent });
        }
        Ok(Self {
            spec: spec.clone(),
            stem,
            levels,
            head: source.batch_norm("head.bn", spec.planes[0])?,
            classifier: source.linear("classifier", spec.planes[0], classes)?,
            gate: [source.linear("gate.0", 2 * classes + 2, HIDDEN)?, source.linear("gate.2", HIDDEN, 2)?],
            fuser: [source.linear("fuser.0", classes, HIDDEN)?, source.linear("fuser.2", HIDDEN, classes)?],
        })
    }
}

/// Names and shapes of the parts, in terms of single tensors.
struct Source<'a, F>(&'a mut F);

impl<E, F: FnMut(&str, &[usize]) -> Result<Vec<f32>, E>> Source<'_, F> {
    fn kernel(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Kernel, E> {
        Ok(Kernel { inputs, outputs, values: (self.0)(name, &[9, inputs, outputs])? })
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, E> {
        let weight = (self.0)(&format!("{name}.weight"), &[outputs, inputs])?;
        Ok(Linear { inputs, outputs, weight, bias: (self.0)(&format!("{name}.bias"), &[outputs])? })
    }

    fn batch_norm(&mut self, name: &str, channels: usize) -> Result<BatchNorm, E> {
        let mut vector = |part: &str| (self.0)(&format!("{name}.{part}"), &[channels]);
        Ok(BatchNorm {
            weight: vector("weight")?,
            bias: vector("bias")?,
            running_mean: vector("running_mean")?,
            running_var: vector("running_var")?,
        })
    }

    fn strided(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Strided, E> {
        Ok(Strided {
            bn: self.batch_norm(&format!("{name}.bn"), inputs)?,
            kernel: self.kernel(&format!("{name}.weight"), inputs, outputs)?,
        })
    }

    fn residual(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Residual, E> {
        let projection = if inputs == outputs {
            None
        } else {
            let values = (self.0)(&format!("{name}.projection"), &[inputs, outputs])?;
            Some(Kernel { inputs, outputs, values })
        };
        Ok(Residual {
            projection,
            bn1: self.batch_norm(&format!("{name}.bn1"), inputs)?,
            conv1: self.kernel(&format!("{name}.conv1.weight"), inputs, outputs)?,
            bn2: self.batch_norm(&format!("{name}.bn2"), outputs)?,
            conv2: self.kernel(&format!("{name}.conv2.weight"), outputs, outputs)?,
        })
    }
}

fn read_tensor(
    file: &SafeTensors<'_>,
    name: &str,
    shape: &[usize],
    path: &Path,
) -> Result<Vec<f32>, RefinerError> {
    let (tensor, path) = (|| name.to_owned(), || path.to_owned());
    let view = file.tensor(name).map_err(|_| RefinerError::Missing {
        tensor: tensor(),
        expected: shape.to_vec(),
        path: path(),
    })?;
    if view.dtype() != Dtype::F32 {
        return Err(RefinerError::Type { tensor: tensor(), found: view.dtype(), path: path() });
    }
    if view.shape() != shape {
        let (expected, found) = (shape.to_vec(), view.shape().to_vec());
        return Err(RefinerError::Shape { tensor: tensor(), expected, found, path: path() });
    }
    let (chunks, _) = view.data().as_chunks::<4>();
    let values: Vec<f32> = chunks.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        return Err(RefinerError::Value { tensor: tensor(), index, found: values[index], path: path() });
    }
    if name.ends_with(".running_var")
        && let Some(index) = values.iter().position(|&value| value < 0.0)
    {
        return Err(RefinerError::Variance { tensor: tensor(), index, found: values[index], path: path() });
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use safetensors::tensor::TensorView;

    use super::*;

    fn released() -> RefinerSpec {
        RefinerSpec {
            classes: 19,
            planes: vec![32, 64, 128, 256, 512, 1024],
            blocks: 2,
            features: Features::Rgb,
            bound: Bound::Active,
        }
    }

    fn small() -> RefinerSpec {
        RefinerSpec {
            classes: 2,
            planes: vec![2, 3],
            blocks: 1,
            features: Features::RgbProbabilities,
            bound: Bound::Image,
        }
    }

    #[test]
    fn released_refiner_has_the_released_number_of_parameters() {
        let spec = released();
        assert_eq!(spec.parameter_count(), 79_340_456);
        let part = |prefix: &str| -> usize {
            let trainable = |name: &str| name.starts_with(prefix) && !name.contains(".running_");
            spec.tensors()
                .iter()
                .filter(|(n, _)| trainable(n))
                .map(|(_, s)| s.iter().product::<usize>())
                .sum()
        };
        assert_eq!((part("classifier"), part("gate"), part("fuser")), (627, 2_754, 2_515));
        assert_eq!(part("stem") + part("levels") + part("head"), 79_334_560);
    }

    #[test]
    fn tensors_follow_the_documented_table() {
        let tensors: BTreeMap<_, _> = small().tensors().into_iter().collect();
        for (name, shape) in [
            ("stem.weight", &[9, 5, 2][..]),
            ("levels.0.pre.0.bn1.running_var", &[2]),
            ("levels.0.down.bn.weight", &[2]),
            ("levels.0.down.weight", &[9, 2, 3]),
            ("levels.0.up.bn.bias", &[3]),
            ("levels.0.up.weight", &[9, 3, 2]),
            ("levels.0.post.0.projection", &[4, 2]),
            ("levels.0.post.0.bn1.weight", &[4]),
            ("levels.0.post.0.conv1.weight", &[9, 4, 2]),
            ("levels.1.pre.0.conv2.weight", &[9, 3, 3]),
            ("gate.0.weight", &[64, 6]),
            ("fuser.2.bias", &[2]),
        ] {
            assert_eq!(tensors.get(name).map(Vec::as_slice), Some(shape), "{name}");
        }
        assert!(!tensors.contains_key("levels.1.down.weight"), "the coarsest level has no descent");
    }

    /// One tensor as it will be written: shape, type and bytes.
    type Entry = (Vec<usize>, Dtype, Vec<u8>);
    type Change = Box<dyn FnOnce(&mut BTreeMap<String, Entry>)>;

    /// Writes the small refiner after `change`, loads it, and answers with the error's text (empty: loaded).
    fn load_after(label: &str, change: impl FnOnce(&mut BTreeMap<String, Entry>)) -> String {
        let mut entries: BTreeMap<String, Entry> = small()
            .tensors()
            .into_iter()
            .map(|(name, shape)| {
                let bytes = 0.5f32.to_le_bytes().repeat(shape.iter().product());
                (name, (shape, Dtype::F32, bytes))
            })
            .collect();
        change(&mut entries);
        let views = entries.iter().map(|(name, (shape, dtype, bytes))| {
            (name, TensorView::new(*dtype, shape.clone(), bytes).expect("bytes match the shape"))
        });
        let path = std::env::temp_dir().join(format!("refiner_{label}_{}.safetensors", std::process::id()));
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let result = RefinerWeights::load(&path, &small());
        std::fs::remove_file(&path).unwrap();
        match result {
            Ok(weights) => {
                assert_eq!(weights.levels[0].descent.as_ref().unwrap().post[0].conv1.values.len(), 72);
                String::new()
            }
            Err(error) => {
                let text = error.to_string();
                assert!(matches!(error, RefinerError::Spec { .. }) || text.contains("refiner_"), "{text}");
                text
            }
        }
    }

    #[test]
    fn a_complete_file_loads() {
        assert_eq!(load_after("good", |_| ()), "");
    }

    #[test]
    fn damaged_files_are_refused_with_the_tensor_named() {
        let number = |value: f32| value.to_le_bytes();
        let cases: [(&str, &str, Change); 7] = [
            ("missing", "`head.bn.bias` [2] is missing", Box::new(|e| drop(e.remove("head.bn.bias")))),
            ("extra", "`stem.bias` is not part", {
                Box::new(|e| drop(e.insert("stem.bias".into(), (vec![1], Dtype::F32, vec![0; 4]))))
            }),
            ("type", "`gate.2.bias` is F16, expected F32", {
                Box::new(|e| drop(e.insert("gate.2.bias".into(), (vec![2], Dtype::F16, vec![0; 4]))))
            }),
            ("shape", "`gate.2.bias` has shape [1, 2], expected [2]", {
                Box::new(|e| e.get_mut("gate.2.bias").unwrap().0 = vec![1, 2])
            }),
            ("nan", "`stem.weight` holds NaN at element 3", {
                Box::new(move |e| {
                    e.get_mut("stem.weight").unwrap().2[12..16].copy_from_slice(&number(f32::NAN));
                })
            }),
            ("inf", "`fuser.0.bias` holds -inf at element 0", {
                Box::new(move |e| {
                    e.get_mut("fuser.0.bias").unwrap().2[..4].copy_from_slice(&number(f32::NEG_INFINITY));
                })
            }),
            ("variance", "`head.bn.running_var` holds -1 at element 1, a variance", {
                Box::new(move |e| {
                    e.get_mut("head.bn.running_var").unwrap().2[4..].copy_from_slice(&number(-1.0));
                })
            }),
        ];
        for (label, expected, change) in cases {
            let text = load_after(label, change);
            assert!(text.contains(expected), "{label}: {text}");
        }
    }

    #[test]
    fn unreadable_files_and_impossible_specs_are_errors() {
        let missing = RefinerWeights::load(Path::new("no/such/refiner.safetensors"), &small()).unwrap_err();
        assert!(matches!(missing, RefinerError::Read { .. }), "{missing}");
        let path = std::env::temp_dir().join(format!("refiner_text_{}.safetensors", std::process::id()));
        std::fs::write(&path, "not a tensor").unwrap();
        let text = RefinerWeights::load(&path, &small()).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(text, RefinerError::Format { .. }), "{text}");
        for spec in [
            RefinerSpec { classes: 0, ..small() },
            RefinerSpec { planes: vec![], ..small() },
            RefinerSpec { planes: vec![16, 0], ..small() },
            RefinerSpec { planes: vec![4; 9], ..small() },
            RefinerSpec { blocks: 0, ..small() },
        ] {
            assert!(matches!(spec.check(), Err(RefinerError::Spec { .. })), "{spec:?}");
        }
    }
}
