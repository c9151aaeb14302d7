//! Inputs of the benchmarks, the same on every machine.

use sparse_refine::bundle::refiner::{Bound, Features, RefinerSpec, RefinerWeights};
use sparse_refine::cpu::sites::SiteSet;
use sparse_refine::types::Size;

pub(crate) const CLASSES: usize = 13;

/// Blocks of 4x4 pixels along diagonal bands, `of` of every 100 in a row of blocks.
pub(crate) fn bands(size: Size, of: u32) -> SiteSet {
    let mut sites = SiteSet::default();
    sites.rebuild_from_rows(size, |row, words| {
        for col in 0..size.width {
            if (col / 4 + row / 4 * 3 / 4) % 100 < of {
                words[col as usize / 64] |= 1 << (col % 64);
            }
        }
    });
    sites
}

/// Values between -1 and 1 that look random.
pub(crate) fn values(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

pub(crate) fn weights(planes: &[usize]) -> RefinerWeights {
    let spec = RefinerSpec {
        classes: CLASSES,
        planes: planes.to_vec(),
        blocks: 1,
        features: Features::RgbProbabilities,
        bound: Bound::Image,
    };
    let Ok(weights) = RefinerWeights::assemble::<std::convert::Infallible>(&spec, |name, shape| {
        let len = shape.iter().product();
        let positive = name.ends_with("running_var") || name.contains("bn") && name.ends_with("weight");
        Ok(values(len).into_iter().map(|x| if positive { 1.0 } else { x / 8.0 }).collect())
    });
    weights
}

/// Smooth logits with soft edges, as an upsampled segmentation has them: one class ahead by up to `sharpness` nats.
pub(crate) fn smooth_logits(grid: Size, sharpness: f32) -> Vec<f32> {
    let wave = |x: u32, period: f32, phase: f32| (x as f32 * std::f32::consts::TAU / period + phase).sin();
    let mut logits = Vec::with_capacity(grid.pixels() * CLASSES);
    for class in 0..CLASSES {
        let phase = class as f32 * 2.4;
        for row in 0..grid.height {
            for column in 0..grid.width {
                let coarse = wave(column, 97.0, phase) + wave(row, 61.0, 1.7 * phase);
                logits.push(sharpness * coarse);
            }
        }
    }
    logits
}
