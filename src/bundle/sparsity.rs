//! `[fine]` of `model.toml`: the full-resolution column of the method `spatial_sparsity`. Described in `docs/bundle.md`.

use serde::Deserialize;

use super::manifest::{Fit, Manifest, Method, SelectorKind};

/// How the two columns go together. The names are the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Configuration {
    /// Coarse-to-fine fusion: the fine column sees the whole image, the weight map only mixes.
    Ctf,
    /// The fine column runs on the tiles that the weight map selects.
    Sctf,
    /// As `Sctf`, and the fine column also reads features of the coarse one.
    Isctf,
}

impl Configuration {
    /// Lower-case name, as in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ctf => "ctf",
            Self::Sctf => "sctf",
            Self::Isctf => "isctf",
        }
    }
}

/// `[fine]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FineEntry {
    /// How the two columns go together.
    pub configuration: Configuration,
    /// ONNX file of the fine column.
    pub file: String,
    /// Its SHA-256, lower-case hex.
    pub sha256: String,
    /// Its image input, `[n, 3, height, width]`.
    #[serde(default = "image")]
    pub input: String,
    /// Its output, `[n, channels, height / stride, width / stride]`.
    #[serde(default = "scores")]
    pub output: String,
    /// Width and height of the whole image it was trained for: a whole multiple of `segmenter.size`.
    pub size: [u32; 2],
    /// Image pixels per score, along each axis.
    pub stride: u32,
    /// Output of the coarse column that holds the weight map, `[1, 1, h, w]` on its grid of scores.
    #[serde(default = "weights")]
    pub weights: String,
    /// With `isctf`: the output of the coarse column and the input of the fine one that hold the features.
    #[serde(default = "features")]
    pub features: String,
    /// With `isctf`: channels of the features.
    #[serde(default)]
    pub feature_channels: usize,
    /// Side of a tile in pixels.
    #[serde(default = "tile")]
    pub tile: u32,
    /// Pixels around a tile that the fine column sees and whose scores are not used.
    #[serde(default = "halo")]
    pub halo: u32,
    /// Numbers of windows that are run at once, rising.
    #[serde(default = "batch")]
    pub batch: Vec<usize>,
}

fn image() -> String {
    "image".to_owned()
}

fn scores() -> String {
    "scores".to_owned()
}

fn weights() -> String {
    "weights".to_owned()
}

fn features() -> String {
    "features".to_owned()
}

fn tile() -> u32 {
    128
}

fn halo() -> u32 {
    32
}

fn batch() -> Vec<usize> {
    vec![1, 2, 4, 8]
}

/// What the two methods allow of `[fine]`, `[refiner]` and `[selector]`; the error is one sentence.
pub(super) fn check(manifest: &Manifest) -> Result<(), String> {
    let weights = manifest.selector.kind == SelectorKind::Weights;
    match (manifest.method, &manifest.fine) {
        (Method::SparseRefine, Some(_)) => Err("[fine] goes with method = \"spatial_sparsity\"".to_owned()),
        (Method::SparseRefine, None) if weights => {
            Err("selector.kind = \"weights\" goes with method = \"spatial_sparsity\"".to_owned())
        }
        (Method::SparseRefine, None) => Ok(()),
        (Method::SpatialSparsity, _) if manifest.refiner.is_some() => {
            Err("[refiner] goes with method = \"sparse_refine\"".to_owned())
        }
        (Method::SpatialSparsity, None) => {
            Err("method = \"spatial_sparsity\" needs the section [fine]".to_owned())
        }
        (Method::SpatialSparsity, Some(_)) if !weights => {
            Err("method = \"spatial_sparsity\" needs selector.kind = \"weights\"".to_owned())
        }
        (Method::SpatialSparsity, Some(fine)) => check_fine(manifest, fine),
    }
}

fn check_fine(manifest: &Manifest, fine: &FineEntry) -> Result<(), String> {
    let segmenter = &manifest.segmenter;
    if segmenter.fit != Fit::Pad {
        return Err("method = \"spatial_sparsity\" needs segmenter.fit = \"pad\"".to_owned());
    }
    if manifest.selector.alpha > 1.0 {
        return Err(format!("selector.alpha is {}, a weight is 0 to 1", manifest.selector.alpha));
    }
    let [width, height] = segmenter.size;
    let stride = segmenter.logit_stride;
    if width % stride != 0 || height % stride != 0 {
        return Err(format!("segmenter.size is {width}x{height}, not whole cells of {stride} pixels"));
    }
    let [fine_width, fine_height] = fine.size;
    let ratio = fine_width / width;
    if ratio == 0 || [width * ratio, height * ratio] != fine.size {
        return Err(format!(
            "fine.size is {fine_width}x{fine_height}, not a whole multiple of segmenter.size {width}x{height}"
        ));
    }
    let cell = ratio * stride;
    if fine.stride == 0 || !cell.is_multiple_of(fine.stride) {
        return Err(format!("fine.stride is {}, it must divide a cell of {cell} pixels", fine.stride));
    }
    for (name, length, least) in [("tile", fine.tile, 1), ("halo", fine.halo, 0)] {
        if !length.is_multiple_of(cell) || length < least || length > 4096 {
            return Err(format!("fine.{name} is {length}, it must be a multiple of a cell of {cell} pixels"));
        }
    }
    if fine.batch.is_empty() || fine.batch[0] == 0 || !fine.batch.is_sorted_by(|a, b| a < b) {
        return Err(format!("fine.batch is {:?}, it must rise from 1 or more", fine.batch));
    }
    if fine.batch.last().is_some_and(|&largest| largest > 1024) {
        return Err(format!("fine.batch is {:?}, at most 1024 windows are possible", fine.batch));
    }
    match (fine.configuration, fine.feature_channels) {
        (Configuration::Isctf, 0) => Err("configuration = \"isctf\" needs fine.feature_channels".to_owned()),
        (Configuration::Isctf, 4097..) => {
            Err(format!("fine.feature_channels is {}, 1 to 4096 are possible", fine.feature_channels))
        }
        (Configuration::Isctf, _) | (_, 0) => Ok(()),
        _ => Err("fine.feature_channels goes with configuration = \"isctf\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_COLUMNS: &str = r#"
schema = 1
name = "tiny"
method = "spatial_sparsity"
classes = [{ name = "a", colour = [0, 0, 0] }, { name = "b", colour = [1, 1, 1] }]
[segmenter]
file = "coarse.onnx"
sha256 = "00"
size = [64, 32]
fit = "pad"
logit_stride = 8
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
[selector]
kind = "weights"
alpha = 0.5
[fine]
configuration = "sctf"
file = "fine.onnx"
sha256 = "00"
size = [128, 64]
stride = 8
tile = 32
halo = 16
"#;

    #[test]
    fn defaults_are_those_of_the_document() {
        let fine = Manifest::parse(TWO_COLUMNS).unwrap().fine.unwrap();
        assert_eq!((fine.input.as_str(), fine.output.as_str()), ("image", "scores"));
        assert_eq!((fine.weights.as_str(), fine.features.as_str()), ("weights", "features"));
        assert_eq!((fine.batch, fine.feature_channels), (vec![1, 2, 4, 8], 0));
        let text = TWO_COLUMNS.replace("tile = 32\nhalo = 16\n", "");
        let fine = Manifest::parse(&text).unwrap().fine.unwrap();
        assert_eq!((fine.tile, fine.halo), (128, 32));
    }

    #[test]
    fn each_wrong_manifest_gets_its_reason() {
        let cases = [
            ("fit = \"pad\"", "fit = \"stretch\"", "fit = \"pad\""),
            ("kind = \"weights\"", "kind = \"entropy\"", "needs selector.kind"),
            ("alpha = 0.5", "alpha = 1.5", "a weight is 0 to 1"),
            ("size = [64, 32]", "size = [60, 32]", "whole cells of 8"),
            ("size = [128, 64]", "size = [128, 96]", "not a whole multiple"),
            ("size = [128, 64]", "size = [32, 16]", "not a whole multiple"),
            ("stride = 8\ntile", "stride = 5\ntile", "divide a cell of 16"),
            ("stride = 8\ntile", "stride = 0\ntile", "divide a cell of 16"),
            ("tile = 32", "tile = 24", "fine.tile is 24"),
            ("tile = 32", "tile = 0", "fine.tile is 0"),
            ("halo = 16", "halo = 8", "fine.halo is 8"),
            ("halo = 16", "halo = 16\nbatch = [4, 2]", "must rise"),
            ("halo = 16", "halo = 16\nbatch = []", "must rise"),
            ("\"sctf\"", "\"isctf\"", "feature_channels"),
            ("halo = 16", "halo = 16\nfeature_channels = 3", "goes with configuration"),
            ("\"sctf\"", "\"sctff\"", "sctff"),
            ("halo = 16", "hallo = 16", "hallo"),
            ("spatial_sparsity", "sparse_refine", "[fine] goes with"),
        ];
        for (old, new, said) in cases {
            let error = Manifest::parse(&TWO_COLUMNS.replace(old, new)).unwrap_err();
            assert!(error.contains(said), "{new}: {error}");
            assert!(!error.contains('\n'), "one line: {error}");
        }
        let without = TWO_COLUMNS.split("[fine]").next().unwrap();
        assert!(Manifest::parse(without).unwrap_err().contains("needs the section [fine]"));
        let refiner = format!("{TWO_COLUMNS}[refiner]\nfile = \"r\"\nsha256 = \"\"\nplanes = [8]\n");
        assert!(Manifest::parse(&refiner).unwrap_err().contains("[refiner] goes with"));
        let weights = without.replace("spatial_sparsity", "sparse_refine");
        assert!(Manifest::parse(&weights).unwrap_err().contains("kind = \"weights\" goes with"));
    }
}
