//! What will run: the user's settings and the bundle, checked against each other. After [`Plan::new`] nothing fails
//! for configuration reasons.

use std::path::PathBuf;

use crate::bundle::Bundle;
use crate::bundle::manifest::{ChannelOrder, Fit, Resize, Upsample};
use crate::bundle::refiner::{Bound, Features};
use crate::bundle::sparsity::{Configuration, FineEntry};
use crate::config::{Config, ConfigError, OnnxEngine};
use crate::types::{ClassInfo, FrameError, Mode, Size};

/// Largest camera image, pixels a side: site coordinates are 16 bits.
pub const MAX_SIDE: u32 = 32_768;

/// Normalisation of a colour image: `x = (pixel - mean) / std`, in `order`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Order of the three channels.
    pub order: ChannelOrder,
    /// Per channel, in `order`, pixels `0..=255`.
    pub mean: [f32; 3],
    /// Per channel, in `order`.
    pub std: [f32; 3],
}

impl Normalisation {
    /// Which of the bytes R, G, B feeds each plane.
    pub fn sources(&self) -> [usize; 3] {
        match self.order {
            ChannelOrder::Rgb => [0, 1, 2],
            ChannelOrder::Bgr => [2, 1, 0],
        }
    }

    /// The normalised value of a level `0..=255` in a plane.
    #[inline(always)]
    pub fn apply(&self, plane: usize, level: f32) -> f32 {
        (level - self.mean[plane]) / self.std[plane]
    }
}

/// What a manifest says of a network's tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Input tensor; the model's only input unless given.
    pub input: Option<String>,
    /// Output tensor; the model's first output unless given.
    pub output: Option<String>,
    /// Size of the input, `[1, 3, height, width]`.
    pub size: Size,
    /// Channels of the output, `[1, channels, ceil(height / stride), ceil(width / stride)]`.
    pub channels: usize,
    /// The first of them, which are kept.
    pub classes: usize,
    /// Input pixels per logit, along each axis.
    pub logit_stride: u32,
}

impl TensorSpec {
    /// Size of the output.
    pub fn logit_size(&self) -> Size {
        Size::new(self.size.width.div_ceil(self.logit_stride), self.size.height.div_ceil(self.logit_stride))
    }
}

/// The dense network of a run.
#[derive(Clone, Debug)]
pub struct SegmenterPlan {
    /// ONNX file.
    pub path: PathBuf,
    /// Library that runs it.
    pub engine: OnnxEngine,
    /// Its input and output.
    pub tensors: TensorSpec,
    /// How the image becomes the input.
    pub fit: Fit,
    /// How its pixels become cells.
    pub resize: Resize,
    /// How their levels become values.
    pub normalisation: Normalisation,
}

/// The sparse network of a run.
#[derive(Clone, Debug)]
pub struct RefinerPlan {
    /// Weights.
    pub path: PathBuf,
    /// Channels per level.
    pub planes: Vec<usize>,
    /// Residual blocks before and after each level.
    pub blocks: usize,
    /// What the network sees.
    pub features: Features,
    /// How far the strided levels reach.
    pub bound: Bound,
    /// How pixels become features.
    pub normalisation: Normalisation,
}

/// The two columns of a run of `spatial_sparsity`.
#[derive(Clone, Debug)]
pub struct ColumnsPlan {
    /// How they go together.
    pub configuration: Configuration,
    /// Output of the coarse column that holds the weight map.
    pub weights: String,
    /// Name and channels of the features that go from the coarse column to the fine one.
    pub features: Option<(String, usize)>,
    /// Image pixels per score of the fine column, along each axis; coarse scores are upsampled to it.
    pub stride: u32,
    /// The fine column, in mode refined.
    pub fine: Option<FinePlan>,
}

/// The fine column of a run.
#[derive(Clone, Debug)]
pub struct FinePlan {
    /// ONNX file.
    pub path: PathBuf,
    /// Its image input.
    pub input: String,
    /// Its output.
    pub output: String,
    /// The whole image it was trained for.
    pub size: Size,
    /// Side of a tile in pixels.
    pub tile: u32,
    /// Pixels around a tile that are seen and not used.
    pub halo: u32,
    /// Numbers of windows that are run at once, rising.
    pub batch: Vec<usize>,
}

impl ColumnsPlan {
    /// The threshold on the weight map where `alpha` is in force; `ctf` has none.
    pub fn threshold(&self, alpha: f32) -> Option<f32> {
        (self.configuration != Configuration::Ctf).then_some(alpha)
    }

    fn new(fine: &FineEntry, bundle: &Bundle, mode: Mode) -> Self {
        let cross_column = fine.configuration == Configuration::Isctf;
        Self {
            configuration: fine.configuration,
            weights: fine.weights.clone(),
            features: cross_column.then(|| (fine.features.clone(), fine.feature_channels)),
            stride: fine.stride,
            fine: (mode == Mode::Refined).then(|| FinePlan {
                path: bundle.path(&fine.file),
                input: fine.input.clone(),
                output: fine.output.clone(),
                size: Size::new(fine.size[0], fine.size[1]),
                tile: fine.tile,
                halo: fine.halo,
                batch: fine.batch.clone(),
            }),
        }
    }
}

/// Why settings and bundle do not go together.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum PlanError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("mode refined needs a [refiner], this bundle has none; use --mode coarse: {bundle}")]
    NoRefiner { bundle: PathBuf },
    #[error(
        "alpha is a threshold on the weight map, and the configuration ctf of this bundle has none; leave it out: \
         {bundle}"
    )]
    NoThreshold { bundle: PathBuf },
    #[error("alpha is {alpha}, the weights of this bundle are 0 to 1: {bundle}")]
    NotAWeight { alpha: f32, bundle: PathBuf },
    #[error(
        "mode dense needs a [dense] network, this bundle has none; use --mode coarse or refined: {bundle}"
    )]
    NoDense { bundle: PathBuf },
}

/// Everything a backend needs to know to build itself.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is computed.
    pub mode: Mode,
    /// One per output channel of the network.
    pub classes: Vec<ClassInfo>,
    /// The dense network.
    pub segmenter: SegmenterPlan,
    /// The sparse network, in mode refined.
    pub refiner: Option<RefinerPlan>,
    /// The two columns of `spatial_sparsity`, unless the mode is dense.
    pub columns: Option<ColumnsPlan>,
    /// Entropy threshold in nats, or that of the weight map; infinite where nothing is refined.
    pub alpha: f32,
    /// How cells become pixels.
    pub upsample: Upsample,
    /// Share of the pixels that may be refined.
    pub max_fraction: f32,
    /// CPU threads of all stages together.
    pub threads: usize,
}

impl Plan {
    /// Checks the settings, picks from the bundle what the mode needs.
    pub fn new(config: &Config, bundle: &Bundle) -> Result<Self, PlanError> {
        config.check()?;
        let manifest = &bundle.manifest;
        let entry = &manifest.segmenter;
        let normalisation = Normalisation { order: entry.channel_order, mean: entry.mean, std: entry.std };
        let mut segmenter = SegmenterPlan {
            path: bundle.path(&entry.file),
            engine: config.onnx_engine,
            tensors: TensorSpec {
                input: entry.input.clone(),
                output: entry.output.clone(),
                size: Size::new(entry.size[0], entry.size[1]),
                channels: manifest.channels(),
                classes: manifest.classes.len(),
                logit_stride: entry.logit_stride,
            },
            fit: entry.fit,
            resize: entry.resize,
            normalisation,
        };
        let mut upsample = manifest.selector.upsample;
        if config.mode == Mode::Dense {
            let no_dense = || PlanError::NoDense { bundle: bundle.dir.clone() };
            let dense = manifest.dense.as_ref().ok_or_else(no_dense)?;
            segmenter.path = bundle.path(&dense.file);
            segmenter.tensors.size = Size::new(dense.size[0], dense.size[1]);
            segmenter.tensors.logit_stride = dense.logit_stride;
            upsample = Upsample::Bilinear;
        }
        let refiner = match &manifest.refiner {
            Some(refiner) if config.mode == Mode::Refined => Some(RefinerPlan {
                path: bundle.path(&refiner.file),
                planes: refiner.planes.clone(),
                blocks: refiner.blocks,
                features: refiner.features,
                bound: refiner.bound,
                normalisation: Normalisation {
                    order: refiner.channel_order.unwrap_or(entry.channel_order),
                    mean: refiner.mean.unwrap_or(entry.mean),
                    std: refiner.std.unwrap_or(entry.std),
                },
            }),
            None if config.mode == Mode::Refined && manifest.fine.is_none() => {
                return Err(PlanError::NoRefiner { bundle: bundle.dir.clone() });
            }
            _ => None,
        };
        let columns = match &manifest.fine {
            Some(fine) if config.mode != Mode::Dense => {
                if let Some(alpha) = config.alpha {
                    let bundle = bundle.dir.clone();
                    if fine.configuration == Configuration::Ctf {
                        return Err(PlanError::NoThreshold { bundle });
                    } else if alpha > 1.0 {
                        return Err(PlanError::NotAWeight { alpha, bundle });
                    }
                }
                upsample = Upsample::Bilinear;
                Some(ColumnsPlan::new(fine, bundle, config.mode))
            }
            _ => None,
        };
        let alpha = config.alpha.unwrap_or(manifest.selector.alpha);
        Ok(Self {
            mode: config.mode,
            classes: manifest.class_infos(),
            segmenter,
            refiner,
            columns,
            alpha: if config.mode == Mode::Dense { f32::INFINITY } else { alpha },
            upsample,
            max_fraction: config.max_fraction.unwrap_or(manifest.selector.max_fraction),
            threads: config.threads(),
        })
    }

    /// Resolution of the grid on which pixels are selected: the segmenter's input, or for a dense network, whose
    /// full-resolution logits nobody wants to store, its logits.
    pub fn selection_grid(&self) -> Size {
        let tensors = &self.segmenter.tensors;
        if self.mode == Mode::Dense { tensors.logit_size() } else { tensors.size }
    }

    /// How images of a camera map to the segmenter's input.
    pub fn geometry(&self, camera: Size) -> Result<Geometry, FrameError> {
        if camera.width == 0 || camera.height == 0 {
            return Err(FrameError::ZeroSize { size: camera });
        }
        if camera.width > MAX_SIDE || camera.height > MAX_SIDE {
            return Err(FrameError::TooLarge { size: camera, limit: MAX_SIDE });
        }
        let geometry = match self.segmenter.fit {
            Fit::Pad => Geometry::pad(camera, self.segmenter.tensors.size),
            Fit::Stretch => Geometry::stretch(camera, self.segmenter.tensors.size),
        };
        if geometry.canvas.width > 2 * MAX_SIDE || geometry.canvas.height > 2 * MAX_SIDE {
            return Err(FrameError::TooLarge { size: geometry.canvas, limit: 2 * MAX_SIDE });
        }
        Ok(geometry)
    }

    /// The largest value there can be of what decides about refinement: ln of the number of classes, or a weight of 1.
    pub fn highest_measure(&self) -> f32 {
        if self.columns.is_some() { 1.0 } else { (self.classes.len() as f32).ln() }
    }

    /// Most pixels of a camera image that may be refined.
    pub fn capacity(&self, camera: Size) -> u32 {
        (camera.pixels() as f64 * f64::from(self.max_fraction)) as u32
    }

    /// The label value of each output channel.
    pub fn label_of_channel(&self) -> Vec<u8> {
        self.classes.iter().map(|class| class.label).collect()
    }
}

/// How the camera's pixels map to the segmenter's grid of cells.
///
/// The *canvas* is the camera image as the methods see it: the image itself (`stretch`), or the image with rows and
/// columns of padding below and to the right (`pad`), so that every cell is a square block of pixels. The refiner's
/// level sizes follow from the canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Camera resolution; nothing outside it is ever selected or written.
    pub camera: Size,
    /// Camera resolution with padding.
    pub canvas: Size,
    /// The segmenter's input resolution, one cell per input pixel.
    pub grid: Size,
}

impl Geometry {
    /// The canvas is the camera image; cells may be any shape.
    pub fn stretch(camera: Size, grid: Size) -> Self {
        Self { camera, canvas: camera, grid }
    }

    /// The canvas is the smallest whole multiple of the grid that holds the camera image.
    pub fn pad(camera: Size, grid: Size) -> Self {
        let ratio = camera.width.div_ceil(grid.width).max(camera.height.div_ceil(grid.height));
        Self { camera, canvas: Size::new(grid.width * ratio, grid.height * ratio), grid }
    }

    /// The same canvas with another grid on it.
    pub fn with_grid(self, grid: Size) -> Self {
        Self { grid, ..self }
    }

    /// The cell row of a pixel row: `floor(r * h / H)`, METHODS 1.1(1).
    pub fn cell_row(&self, row: u32) -> u32 {
        (u64::from(row) * u64::from(self.grid.height) / u64::from(self.canvas.height)) as u32
    }

    /// The cell column of a pixel column.
    pub fn cell_column(&self, column: u32) -> u32 {
        (u64::from(column) * u64::from(self.grid.width) / u64::from(self.canvas.width)) as u32
    }

    /// First pixel row of a cell row: the smallest `r` with `cell_row(r) == cell`, cut at the camera's height.
    pub fn first_row(&self, cell: u32) -> u32 {
        first_pixel(cell, self.canvas.height, self.grid.height).min(self.camera.height)
    }

    /// First pixel column of a cell column, cut at the camera's width.
    pub fn first_column(&self, cell: u32) -> u32 {
        first_pixel(cell, self.canvas.width, self.grid.width).min(self.camera.width)
    }
}

fn first_pixel(cell: u32, pixels: u32, cells: u32) -> u32 {
    (u64::from(cell) * u64::from(pixels)).div_ceil(u64::from(cells)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Manifest;

    fn bundle(extra: &str) -> Bundle {
        let text = format!(
            r#"
schema = 1
name = "tiny"
method = "sparse_refine"
classes = [{{ name = "a", colour = [0, 0, 0] }}, {{ name = "b", colour = [1, 1, 1], label = 9 }}]
[segmenter]
file = "segmenter.onnx"
sha256 = ""
size = [64, 32]
logit_stride = 8
mean = [1.0, 2.0, 3.0]
std = [1.0, 1.0, 1.0]
{extra}"#
        );
        Bundle { dir: "tiny".into(), manifest: Manifest::parse(&text).unwrap(), sha256: String::new() }
    }

    #[test]
    fn modes_need_their_networks() {
        let config = |mode| Config { mode, ..Config::default() };
        let error = Plan::new(&config(Mode::Refined), &bundle("")).unwrap_err();
        assert!(matches!(error, PlanError::NoRefiner { .. }));
        let error = Plan::new(&config(Mode::Dense), &bundle("")).unwrap_err();
        assert!(matches!(error, PlanError::NoDense { .. }));
        let plan = Plan::new(&config(Mode::Coarse), &bundle("")).unwrap();
        assert_eq!(plan.selection_grid(), Size::new(64, 32));
        assert_eq!(plan.label_of_channel(), [0, 9]);
    }

    #[test]
    fn a_dense_plan_selects_nothing_and_upsamples_its_logits() {
        let dense = "[dense]\nfile = \"dense.onnx\"\nsha256 = \"\"\nsize = [256, 128]\nlogit_stride = 4\n";
        let plan = Plan::new(&Config { mode: Mode::Dense, ..Config::default() }, &bundle(dense)).unwrap();
        assert_eq!(plan.selection_grid(), Size::new(64, 32));
        assert_eq!((plan.alpha, plan.upsample), (f32::INFINITY, Upsample::Bilinear));
    }

    #[test]
    fn two_columns_are_planned_and_their_threshold_is_a_weight() {
        let plan_of = |configuration: &str, config: Config| {
            let text = format!(
                "fit = \"pad\"\n[selector]\nkind = \"weights\"\nalpha = 0.5\n[fine]\nfile = \"fine.onnx\"\nsha256 = \"\"\n\
                 size = [128, 64]\nstride = 8\ntile = 32\nhalo = 16\n{configuration}\n"
            );
            let mut bundle = bundle("");
            let base = r#"
schema = 1
name = "tiny"
method = "spatial_sparsity"
classes = [{ name = "a", colour = [0, 0, 0] }, { name = "b", colour = [1, 1, 1] }]
[segmenter]
file = "coarse.onnx"
sha256 = ""
size = [64, 32]
logit_stride = 8
mean = [1.0, 2.0, 3.0]
std = [1.0, 1.0, 1.0]
"#;
            bundle.manifest = Manifest::parse(&format!("{base}{text}")).unwrap();
            Plan::new(&config, &bundle)
        };
        let sctf = plan_of("configuration = \"sctf\"", Config::default()).unwrap();
        let columns = sctf.columns.as_ref().unwrap();
        assert!(columns.features.is_none() && columns.fine.is_some() && sctf.refiner.is_none());
        assert_eq!((sctf.alpha, sctf.highest_measure()), (0.5, 1.0));
        let coarse = Config { mode: Mode::Coarse, alpha: Some(0.25), ..Config::default() };
        let coarse = plan_of("configuration = \"sctf\"", coarse).unwrap();
        assert!(coarse.columns.as_ref().unwrap().fine.is_none());
        assert_eq!(coarse.alpha, 0.25);
        let isctf = plan_of("configuration = \"isctf\"\nfeature_channels = 24", Config::default()).unwrap();
        assert_eq!(isctf.columns.unwrap().features, Some(("features".to_owned(), 24)));
        let alpha = |alpha| Config { alpha: Some(alpha), ..Config::default() };
        let error = plan_of("configuration = \"ctf\"", alpha(0.5)).unwrap_err().to_string();
        assert!(error.contains("has none"), "{error}");
        let error = plan_of("configuration = \"sctf\"", alpha(1.5)).unwrap_err().to_string();
        assert!(error.contains("0 to 1"), "{error}");
    }

    #[test]
    fn settings_go_over_the_bundle_and_sizes_are_bounded() {
        let config =
            Config { mode: Mode::Coarse, alpha: Some(0.7), max_fraction: Some(0.5), ..Config::default() };
        let plan = Plan::new(&config, &bundle("")).unwrap();
        assert_eq!((plan.alpha, plan.capacity(Size::new(100, 10))), (0.7, 500));
        assert!(plan.geometry(Size::new(0, 5)).is_err());
        assert!(plan.geometry(Size::new(MAX_SIDE + 1, 5)).is_err());
    }

    #[test]
    fn eight_megapixels_pad_to_whole_cells() {
        let geometry = Geometry::pad(Size::new(3840, 2160), Size::new(960, 544));
        assert_eq!(geometry.canvas, Size::new(3840, 2176));
        assert_eq!((geometry.cell_row(2159), geometry.cell_column(3839)), (539, 959));
        assert_eq!((geometry.first_row(540), geometry.first_row(543)), (2160, 2160));
    }

    #[test]
    fn first_pixels_are_the_inverse_of_cells_at_uneven_ratios() {
        for (camera, grid) in [(1280, 800), (1024, 640), (100, 63), (7, 7), (5, 9)] {
            let geometry = Geometry::stretch(Size::new(camera, camera), Size::new(grid, grid));
            for cell in 0..grid {
                let brute = (0..camera).find(|&r| geometry.cell_row(r) >= cell).unwrap_or(camera);
                assert_eq!(geometry.first_row(cell), brute, "{camera}/{grid} cell {cell}");
                assert_eq!(geometry.first_column(cell), brute);
            }
        }
    }
}
