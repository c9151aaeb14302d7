//! `model.toml`: what a bundle says of itself. Described for users in `docs/bundle.md`.

use serde::Deserialize;

use super::refiner::{Bound, Features};
use super::sparsity::{self, FineEntry};
use crate::types::{ClassInfo, Size, UNLABELLED};

/// The only manifest version this build reads.
pub const SCHEMA: u32 = 1;

/// A whole `model.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the file format, [`SCHEMA`].
    pub schema: u32,
    /// Name of the bundle.
    pub name: String,
    /// How refinement works.
    pub method: Method,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// Where data and weights come from, for people.
    #[serde(default)]
    pub provenance: toml::Table,
    /// One entry per output channel of the segmenter.
    pub classes: Vec<ClassEntry>,
    /// The dense low-resolution network.
    pub segmenter: SegmenterEntry,
    /// How uncertain pixels are found.
    #[serde(default)]
    pub selector: SelectorEntry,
    /// The sparse network; without it the bundle labels coarsely only.
    pub refiner: Option<RefinerEntry>,
    /// The full-resolution column of `spatial_sparsity`.
    pub fine: Option<FineEntry>,
    /// The segmenter's architecture at full resolution, for comparison.
    pub dense: Option<DenseEntry>,
}

/// How refinement works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Entropy selector, sparse U-Net, gated ensembler.
    SparseRefine,
    /// Learned weight map, fine column on tiles, fusion by the map.
    SpatialSparsity,
}

/// One output channel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassEntry {
    /// Name for people.
    pub name: String,
    /// RGB for pictures.
    pub colour: [u8; 3],
    /// Value in the label image; the channel's index unless given.
    pub label: Option<u8>,
}

/// How an image becomes the segmenter's input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Cells are square blocks of pixels; the image is padded below and to the right.
    Pad,
    /// The whole image is resized, whatever its aspect.
    #[default]
    Stretch,
}

/// How pixels become cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// The mean of the area a cell covers, exact.
    #[default]
    Area,
    /// Antialiased bilinear, as Pillow resizes.
    Bilinear,
}

/// Order of the colour planes a network wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum ChannelOrder {
    #[default]
    Rgb,
    Bgr,
}

/// `[segmenter]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmenterEntry {
    /// ONNX file.
    pub file: String,
    /// Its SHA-256, lower-case hex.
    pub sha256: String,
    /// Input tensor, if the model has several.
    pub input: Option<String>,
    /// Output tensor, if the model has several.
    pub output: Option<String>,
    /// Width and height of the input.
    pub size: [u32; 2],
    /// How the image becomes the input.
    #[serde(default)]
    pub fit: Fit,
    /// How pixels become cells.
    #[serde(default)]
    pub resize: Resize,
    /// Order of the input's planes.
    #[serde(default)]
    pub channel_order: ChannelOrder,
    /// Subtracted from the pixel, `0..=255`, in `channel_order`.
    pub mean: [f32; 3],
    /// Divides after that.
    pub std: [f32; 3],
    /// Input pixels per logit, along each axis.
    #[serde(default = "one")]
    pub logit_stride: u32,
    /// Channels of the output; those beyond the classes are dropped.
    pub channels: Option<usize>,
}

/// `[dense]`: what it does not say is as in `[segmenter]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseEntry {
    /// ONNX file.
    pub file: String,
    /// Its SHA-256, lower-case hex.
    pub sha256: String,
    /// Width and height of the input.
    pub size: [u32; 2],
    /// Input pixels per logit, along each axis.
    #[serde(default = "one")]
    pub logit_stride: u32,
}

fn one() -> u32 {
    1
}

/// How cells become pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Upsample {
    /// Every pixel takes its cell's logits.
    #[default]
    Nearest,
    /// Half-pixel bilinear interpolation of the logits at every pixel.
    Bilinear,
}

/// What makes a pixel uncertain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SelectorKind {
    /// The entropy of the coarse softmax, in nats.
    #[default]
    Entropy,
    /// The learned weight map of the coarse column, 0 to 1.
    Weights,
}

/// `[selector]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelectorEntry {
    /// What makes a pixel uncertain.
    pub kind: SelectorKind,
    /// Pixels with entropy above this many nats, or tiles with a weight above it, are refined.
    pub alpha: f32,
    /// How cells become pixels.
    pub upsample: Upsample,
    /// At most this share of a camera's pixels is refined.
    pub max_fraction: f32,
}

impl Default for SelectorEntry {
    fn default() -> Self {
        Self { kind: SelectorKind::Entropy, alpha: 0.3, upsample: Upsample::Nearest, max_fraction: 0.25 }
    }
}

/// `[refiner]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefinerEntry {
    /// Weights.
    pub file: String,
    /// Their SHA-256, lower-case hex.
    pub sha256: String,
    /// Channels per level, finest first.
    pub planes: Vec<usize>,
    /// Residual blocks before and after each level.
    #[serde(default = "two")]
    pub blocks: usize,
    /// What the network sees.
    #[serde(default)]
    pub features: Features,
    /// How far the strided levels reach.
    #[serde(default)]
    pub bound: Bound,
    /// As in `[segmenter]`, unless given.
    pub channel_order: Option<ChannelOrder>,
    /// As in `[segmenter]`, unless given.
    pub mean: Option<[f32; 3]>,
    /// As in `[segmenter]`, unless given.
    pub std: Option<[f32; 3]>,
}

fn two() -> usize {
    2
}

impl Manifest {
    /// Reads and checks the text of a `model.toml`; the error is one sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(text).map_err(|error| {
            let place = error.span().map(|span| {
                let line = text[..span.start.min(text.len())].lines().count().max(1);
                format!("line {line}: ")
            });
            format!("{}{}", place.unwrap_or_default(), error.message().replace('\n', " "))
        })?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!("schema is {}, this build reads {SCHEMA}", self.schema));
        }
        if self.classes.len() < 2 || self.classes.len() > usize::from(UNLABELLED) {
            return Err(format!("{} classes, 2 to 255 are possible", self.classes.len()));
        }
        if let Some(class) = self.classes.iter().find(|class| class.label == Some(UNLABELLED)) {
            return Err(format!("class `{}` has label 255, which means unlabelled", class.name));
        }
        let segmenter = &self.segmenter;
        let channels = self.channels();
        if channels < self.classes.len() {
            return Err(format!("{} classes but segmenter.channels is {channels}", self.classes.len()));
        }
        check_input("segmenter", segmenter.size, segmenter.logit_stride)?;
        check_normalisation("segmenter", segmenter.mean, segmenter.std)?;
        if segmenter.fit == Fit::Pad && segmenter.resize == Resize::Bilinear {
            return Err("segmenter.resize = \"bilinear\" goes with fit = \"stretch\", not \"pad\"".to_owned());
        }
        if let Some(dense) = &self.dense {
            check_input("dense", dense.size, dense.logit_stride)?;
        }
        let selector = &self.selector;
        if !(selector.alpha.is_finite() && selector.alpha >= 0.0) {
            return Err(format!("selector.alpha is {}, it must be 0 or more", selector.alpha));
        }
        if !(selector.max_fraction > 0.0 && selector.max_fraction <= 1.0) {
            return Err(format!("selector.max_fraction is {}, it must be in (0, 1]", selector.max_fraction));
        }
        if let Some(refiner) = &self.refiner {
            let levels = refiner.planes.len();
            if levels == 0 || levels > crate::types::MAX_LEVELS {
                return Err(format!("refiner.planes has {levels} levels, 1 to 8 are possible"));
            }
            if let Some(planes) = refiner.planes.iter().find(|&&planes| planes == 0 || planes > 4096) {
                return Err(format!("refiner.planes holds {planes}, 1 to 4096 are possible"));
            }
            if refiner.blocks == 0 || refiner.blocks > 8 {
                return Err(format!("refiner.blocks is {}, 1 to 8 are possible", refiner.blocks));
            }
            check_normalisation(
                "refiner",
                refiner.mean.unwrap_or(segmenter.mean),
                refiner.std.unwrap_or(segmenter.std),
            )?;
        }
        sparsity::check(self)
    }

    /// Whether the bundle holds what refines.
    pub fn refines(&self) -> bool {
        self.refiner.is_some() || self.fine.is_some()
    }

    /// Output channels of the segmenter, of which the first `classes.len()` are used.
    pub fn channels(&self) -> usize {
        self.segmenter.channels.unwrap_or(self.classes.len())
    }

    /// Name, colour and label value of every output channel.
    pub fn class_infos(&self) -> Vec<ClassInfo> {
        self.classes
            .iter()
            .enumerate()
            .map(|(channel, class)| ClassInfo {
                name: class.name.clone(),
                colour: class.colour,
                label: class.label.unwrap_or(channel as u8),
            })
            .collect()
    }
}

fn check_input(section: &str, [width, height]: [u32; 2], stride: u32) -> Result<(), String> {
    const LIMIT: u32 = 16_384;
    if width == 0 || height == 0 || width > LIMIT || height > LIMIT {
        return Err(format!(
            "{section}.size is {}, 1 to {LIMIT} a side are possible",
            Size::new(width, height)
        ));
    }
    if stride == 0 || stride > width.min(height) {
        return Err(format!("{section}.logit_stride is {stride}, it must be 1 or more and fit the input"));
    }
    Ok(())
}

fn check_normalisation(section: &str, mean: [f32; 3], std: [f32; 3]) -> Result<(), String> {
    if mean.iter().any(|m| !m.is_finite()) || std.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
        return Err(format!(
            "{section}.mean and std must be finite and std above 0, got {mean:?} and {std:?}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) const MINIMAL: &str = r#"
schema = 1
name = "tiny"
method = "sparse_refine"
[[classes]]
name = "road"
colour = [1, 2, 3]
[[classes]]
name = "sky"
colour = [4, 5, 6]
label = 7
[segmenter]
file = "segmenter.onnx"
sha256 = "00"
size = [64, 32]
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
[refiner]
file = "refiner.safetensors"
sha256 = "00"
planes = [8, 16]
"#;

    #[test]
    fn defaults_are_those_of_the_document() {
        let manifest = Manifest::parse(MINIMAL).unwrap();
        assert_eq!(manifest.segmenter.fit, Fit::Stretch);
        assert_eq!(manifest.segmenter.logit_stride, 1);
        assert_eq!(manifest.channels(), 2);
        assert_eq!(manifest.selector.alpha, 0.3);
        assert_eq!(manifest.refiner.as_ref().unwrap().blocks, 2);
        let labels: Vec<u8> = manifest.class_infos().iter().map(|class| class.label).collect();
        assert_eq!(labels, [0, 7]);
    }

    #[test]
    fn each_wrong_manifest_gets_its_reason() {
        let cases = [
            ("schema = 1", "schema = 2", "schema is 2"),
            ("label = 7", "label = 255", "255"),
            ("label = 7", "labels = 7", "labels"),
            ("planes = [8, 16]", "planes = []", "0 levels"),
            ("planes = [8, 16]", "planes = [8, 0]", "holds 0"),
            ("size = [64, 32]", "size = [0, 32]", "0x32"),
            ("std = [1.0, 1.0, 1.0]", "std = [1.0, 0.0, 1.0]", "std"),
            ("size = [64, 32]", "size = [64, 32]\nchannels = 1", "channels is 1"),
            ("method = \"sparse_refine\"", "method = \"magic\"", "magic"),
            ("size = [64, 32]", "size = [64, 32]\nlogit_stride = 33", "logit_stride is 33"),
            ("size = [64, 32]", "size = [64, 32]\nfit = \"pad\"\nresize = \"bilinear\"", "stretch"),
            ("[refiner]", "[selector]\nalpha = -1.0\n[refiner]", "alpha is -1"),
            ("[refiner]", "[selector]\nmax_fraction = 0.0\n[refiner]", "max_fraction is 0"),
        ];
        for (old, new, said) in cases {
            let error = Manifest::parse(&MINIMAL.replace(old, new)).unwrap_err();
            assert!(error.contains(said), "{new}: {error}");
            assert!(!error.contains('\n'), "one line: {error}");
        }
    }

    #[test]
    fn syntax_errors_name_the_line() {
        let error = Manifest::parse("schema = 1\nname = [").unwrap_err();
        assert!(error.starts_with("line 2"), "{error}");
    }
}
