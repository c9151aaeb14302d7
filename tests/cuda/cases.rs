//! Bundles and images that every backend must treat alike.

use sparse_refine::bundle::Bundle;
use sparse_refine::bundle::refiner::{Bound, Features, RefinerSpec};
use sparse_refine::config::Config;
use sparse_refine::cpu::CpuBackend;
use sparse_refine::cuda::CudaBackend;
use sparse_refine::plan::Plan;
use sparse_refine::types::{Mode, PixelFormat, Size};

use crate::support::TinyBundle;

/// A plan and the camera sizes to run it on.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) plan: Plan,
    pub(crate) sizes: Vec<Size>,
    /// All pixel formats, or one for each size.
    pub(crate) every_format: bool,
    _dir: tempfile::TempDir,
}

fn spec(planes: &[usize], blocks: usize, features: Features, bound: Bound) -> RefinerSpec {
    RefinerSpec { classes: 4, planes: planes.to_vec(), blocks, features, bound }
}

impl Case {
    /// The shared tiny bundle: cells of 2x2 pixels, two levels, logits at half the grid.
    pub(crate) fn tiny() -> Self {
        Self::with_bundle("tiny", |bundle| bundle)
    }

    pub(crate) fn with_bundle(name: &'static str, change: impl FnOnce(TinyBundle) -> TinyBundle) -> Self {
        Self::new(name, Mode::Refined, &[Size::new(64, 48)], change)
    }

    fn new(
        name: &'static str,
        mode: Mode,
        sizes: &[Size],
        change: impl FnOnce(TinyBundle) -> TinyBundle,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bundle = change(TinyBundle::write(&dir.path().join("model")));
        let bundle = Bundle::load(&bundle.dir).unwrap();
        let config = Config { mode, threads: Some(1), ..Config::default() };
        let plan = Plan::new(&config, &bundle).unwrap();
        Self { name, plan, sizes: sizes.to_vec(), every_format: false, _dir: dir }
    }

    /// Selection on the camera's pixels, four levels.
    fn selecting_pixels(sizes: &[Size]) -> Self {
        Self::new("bilinear selection", Mode::Refined, sizes, |bundle| {
            let spec = spec(&[4, 8, 8, 8], 1, Features::RgbProbabilities, Bound::Image);
            let bilinear = "[selector]\nupsample = \"bilinear\"";
            bundle.with_refiner(&spec, |manifest| manifest.replace("[selector]", bilinear))
        })
    }

    /// The same for one size of image.
    pub(crate) fn bilinear(size: Size) -> Self {
        Self::selecting_pixels(&[size])
    }

    /// Every way through the kernels.
    pub(crate) fn all() -> Vec<Self> {
        let sizes = [Size::new(64, 48), Size::new(70, 50), Size::new(66, 90)];
        let mut tiny = Self::tiny();
        tiny.every_format = true;
        vec![
            tiny,
            Self::new("three levels, active bound", Mode::Refined, &sizes, |bundle| {
                let spec = spec(&[16, 12, 8], 1, Features::Rgb, Bound::Active);
                bundle.with_refiner(&spec, |manifest| manifest.replace("fit = \"pad\"", "fit = \"stretch\""))
            }),
            Self::new("two blocks, BGR", Mode::Refined, &sizes[..2], |bundle| {
                let spec = spec(&[8, 16], 2, Features::RgbProbabilities, Bound::Image);
                let bgr = "fit = \"pad\"\nchannel_order = \"bgr\"";
                bundle.with_refiner(&spec, |manifest| manifest.replace("fit = \"pad\"", bgr))
            }),
            Self::selecting_pixels(&sizes),
            Self::new("bilinear resize", Mode::Refined, &[Size::new(131, 77), Size::new(64, 48)], |bundle| {
                bundle.save(|manifest| {
                    manifest.replace("fit = \"pad\"", "fit = \"stretch\"\nresize = \"bilinear\"")
                });
                bundle
            }),
            Self::new("coarse", Mode::Coarse, &sizes[..1], |bundle| bundle),
        ]
    }

    pub(crate) fn backends(&self) -> (CpuBackend, CudaBackend) {
        crate::backends(self)
    }
}

/// Reproducible bytes.
pub(crate) struct Noise(pub(crate) u32);

impl Noise {
    fn next(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 24) as u8
    }

    /// An image in any format: noise that varies slowly, so that some cells are sure and others are not.
    pub(crate) fn image(&mut self, size: Size, format: PixelFormat, step: usize) -> Vec<u8> {
        let rows = format.rows(size.height);
        let mut data = Vec::with_capacity(step * rows);
        for row in 0..rows {
            for byte in 0..step {
                let smooth = ((row / 5 * 37 + byte / 12 * 61) % 256) as u8;
                data.push(smooth.wrapping_add(self.next() % 40));
            }
        }
        // The last row may come without its padding.
        data.truncate(step * (rows - 1) + format.row_bytes(size.width));
        data
    }
}
