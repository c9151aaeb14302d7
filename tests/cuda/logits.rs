//! The sparse network and the fusion number by number: 32 bits within 1e-4 of the CPU, tensor cores within their bound,
//! labels equal wherever the CPU's margin exceeds the error.

use sparse_refine::bundle::manifest::Resize;
use sparse_refine::bundle::refiner::{Features, RefinerSpec, RefinerWeights};
use sparse_refine::cpu::bilinear::BilinearResize;
use sparse_refine::cpu::evaluate::{Logits, gather_logits};
use sparse_refine::cpu::features::site_features;
use sparse_refine::cpu::gate::Gate;
use sparse_refine::cpu::pixels::to_rgb8;
use sparse_refine::cpu::resize::AreaResize;
use sparse_refine::cpu::sites::{Pixel, SiteSet};
use sparse_refine::cpu::unet::{Refiner, Workspace};
use sparse_refine::cpu::upsample::Upsampler;
use sparse_refine::cuda::{Inspection, Precision};
use sparse_refine::onnx::Segmenter;
use sparse_refine::pipeline::{Backend, Extras, FrameOutputs, PixelBudget, process};
use sparse_refine::types::{Frame, PixelFormat, Size};

use crate::cases::Case;
use crate::support::recording::scene;
use crate::{cuda, frame};

/// Refined and fused logits of the CPU at the sites a device chose.
fn expected(case: &Case, frame: &Frame<'_>, sites: &[(u16, u16)]) -> (Vec<f32>, Vec<f32>) {
    let (plan, classes) = (&case.plan, case.plan.classes.len());
    let tensors = &plan.segmenter.tensors;
    let geometry = plan.geometry(frame.size).unwrap();
    let mut rgb = vec![0; frame.size.pixels() * 3];
    to_rgb8(frame, &mut rgb);
    let mut input = vec![0.0; 3 * tensors.size.pixels()];
    let normalisation = plan.segmenter.normalisation;
    match plan.segmenter.resize {
        Resize::Area => AreaResize::new(&geometry, normalisation).run(&rgb, &mut input),
        Resize::Bilinear => BilinearResize::new(&geometry, normalisation).run(&rgb, &mut input),
    }
    let segmenter = Segmenter::load(&plan.segmenter.path, tensors, plan.segmenter.engine, 1).unwrap();
    let mut logits = Vec::new();
    segmenter.run(&input, &mut logits).unwrap();
    let grid = plan.selection_grid();
    let mut on_grid = vec![0.0; classes * grid.pixels()];
    Upsampler::new(tensors.logit_size(), grid).run(&logits, &mut on_grid);

    let pixels: Vec<Pixel> = sites.iter().map(|&(row, col)| Pixel { row, col }).collect();
    let geometry = geometry.with_grid(grid);
    let mut coarse = vec![0.0; sites.len() * classes];
    gather_logits(&Logits::new(&on_grid, grid, classes), &geometry, plan.upsample, &pixels, &mut coarse);
    let refiner = plan.refiner.as_ref().unwrap();
    let spec = RefinerSpec {
        classes,
        planes: refiner.planes.clone(),
        blocks: refiner.blocks,
        features: refiner.features,
        bound: refiner.bound,
    };
    let weights = RefinerWeights::load(&refiner.path, &spec).unwrap();
    let mut features = vec![0.0; sites.len() * spec.input_channels()];
    let probabilities = (spec.features == Features::RgbProbabilities).then_some(&coarse[..]);
    site_features(&rgb, frame.size, &refiner.normalisation, &pixels, probabilities, &mut features);
    let mut set = SiteSet::default();
    set.rebuild_from_pixels(geometry.canvas, pixels);
    let refined = Refiner::new(&weights).run(&set, &features, &mut Workspace::default()).to_vec();
    let mut fused = vec![0.0; refined.len()];
    Gate::new(&weights).fuse(&coarse, &refined, &mut fused, None);
    (refined, fused)
}

fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

fn scale(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |scale, value| value.abs().max(scale))
}

/// Index of the largest value, and by how much it is larger than the next.
fn margin(logits: &[f32]) -> (usize, f32) {
    let best = (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best }).unwrap();
    let others = (0..logits.len()).filter(|&i| i != best).map(|i| logits[i]);
    (best, logits[best] - others.fold(f32::NEG_INFINITY, f32::max))
}

#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn logits_are_within_the_bound_of_their_precision_and_clear_labels_are_equal() {
    for case in Case::all().into_iter().filter(|case| case.plan.refiner.is_some()) {
        let classes = case.plan.classes.len();
        for (precision, bound) in [(Precision::Single, 1e-4), (Precision::Half, 1e-2)] {
            let backend = cuda(&case, precision);
            for &size in &case.sizes[..case.sizes.len().min(2)] {
                let rgb = scene(size, 3);
                let frame = frame(size, PixelFormat::Rgb8, size.width as usize * 3, &rgb);
                let mut slot = backend.slot(size).unwrap();
                let budget = PixelBudget(size.pixels() as u32 / 2);
                process(&backend, &mut slot, &frame, case.plan.mode, budget).unwrap();
                let Inspection { sites, refined, fused } = backend.inspect(&mut slot).unwrap();
                let mut outputs = FrameOutputs::default();
                let report = backend.finish(&mut slot, Extras::default(), &mut outputs).unwrap();
                assert!(sites.len() > 100 && sites.len() == report.pixels_refined as usize);

                let want = expected(&case, &frame, &sites);
                // Relative to the largest logit, absolute below 1.
                let (of_refined, of_fused) = (scale(&want.0).max(1.0), scale(&want.1).max(1.0));
                let errors = (worst(&refined, &want.0) / of_refined, worst(&fused, &want.1) / of_fused);
                let name = format!("{} {size} {}", case.name, precision.name());
                println!("{name}: {} sites, errors {:.1e} {:.1e}", sites.len(), errors.0, errors.1);
                assert!(errors.0 < bound && errors.1 < bound, "{name}: {errors:?}");

                let labels = case.plan.label_of_channel();
                for (&(row, column), want) in sites.iter().zip(want.1.chunks(classes)) {
                    let (best, margin) = margin(want);
                    let found = outputs.labels.data[at(size, row, column)];
                    let clear = margin > 2.0 * bound * of_fused;
                    assert!(!clear || found == labels[best], "{name} at {row},{column}: margin {margin}");
                }
            }
        }
    }
}

fn at(size: Size, row: u16, column: u16) -> usize {
    usize::from(row) * size.width as usize + usize::from(column)
}
