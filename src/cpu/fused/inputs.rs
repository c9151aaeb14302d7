//! What the fused network sees at the camera's sites: normalised channels, and the coarse probabilities behind them.

use super::super::scratch::{with_floats, with_sums};
use super::super::sites::Pixel;
use super::beliefs::{Coarse, softmax_entropy};
use super::isa::{InstructionSet, Isa, Kernel, LANES, Lanes, dispatch};
use super::network::SiteFeatures;
use crate::bundle::manifest::Upsample;
use crate::bundle::refiner::MAX_CLASSES;
use crate::plan::Normalisation;

/// Normalised values of every level of the three planes.
#[derive(Clone, Debug)]
pub(crate) struct LevelTable {
    sources: [usize; 3],
    values: [[f32; 256]; 3],
}

impl LevelTable {
    /// Tabulates a normalisation.
    pub(crate) fn new(normalisation: &Normalisation) -> Self {
        let plane = |plane: usize| std::array::from_fn(|level| normalisation.apply(plane, level as f32));
        Self { sources: normalisation.sources(), values: [0, 1, 2].map(plane) }
    }
}

/// The features of a frame's sites.
pub(crate) struct CameraFeatures<'a> {
    pub(crate) set: InstructionSet,
    pub(crate) table: &'a LevelTable,
    /// Packed RGB image and its width.
    pub(crate) rgb: &'a [u8],
    pub(crate) width: u32,
    pub(crate) coarse: Coarse<'a>,
    /// Whether the coarse probabilities follow the channels.
    pub(crate) probabilities: bool,
}

impl SiteFeatures for CameraFeatures<'_> {
    fn fill(&self, _: u32, pixels: &[Pixel], width: usize, out: &mut [Lanes]) {
        match self.coarse.upsample {
            _ if !self.probabilities => out.fill(Lanes::ZERO),
            Upsample::Nearest => self.fill_cells(pixels, width, out),
            Upsample::Bilinear => self.fill_pixels(pixels, width, out),
        }
        let Self { table, rgb, width: pitch, .. } = self;
        for (out, &Pixel { row, col }) in out.chunks_exact_mut(width).zip(pixels) {
            let at = (usize::from(row) * *pitch as usize + usize::from(col)) * 3;
            let levels: &[u8; 3] = rgb[at..].first_chunk().expect("three bytes a pixel");
            for plane in 0..3 {
                out[0].0[plane] = table.values[plane][usize::from(levels[table.sources[plane]])];
            }
        }
    }
}

impl CameraFeatures<'_> {
    /// Probabilities by cell: those of sixteen neighbouring cells are computed when the first is met.
    fn fill_cells(&self, pixels: &[Pixel], width: usize, out: &mut [Lanes]) {
        let geometry = self.coarse.geometry;
        let stride = width * LANES;
        let groups = (geometry.grid.width as usize).div_ceil(LANES);
        with_floats(groups * LANES * stride, |cells| {
            with_sums(groups, |computed| {
                computed.fill(u32::MAX);
                let (mut row, mut cell_row) = (u32::MAX, 0);
                let (mut cell, mut end) = (0, 0);
                for (out, pixel) in out.chunks_exact_mut(width).zip(pixels) {
                    if u32::from(pixel.row) != row {
                        row = pixel.row.into();
                        cell_row = geometry.cell_row(row);
                        end = 0;
                    }
                    if u32::from(pixel.col) >= end {
                        cell = geometry.cell_column(pixel.col.into()) as usize;
                        end = geometry.first_column(cell as u32 + 1).max(u32::from(pixel.col) + 1);
                        let group = cell / LANES;
                        if computed[group] != cell_row {
                            computed[group] = cell_row;
                            let cells = &mut cells[group * LANES * stride..][..LANES * stride];
                            self.group(cells, stride, |logits| self.coarse.cells(cell_row, group, logits));
                        }
                    }
                    let (values, _) = cells[cell * stride..][..stride].as_chunks::<LANES>();
                    for (out, values) in out.iter_mut().zip(values) {
                        out.0 = *values;
                    }
                }
            });
        });
    }

    /// Probabilities by pixel, sixteen at a time.
    fn fill_pixels(&self, pixels: &[Pixel], width: usize, out: &mut [Lanes]) {
        let stride = width * LANES;
        with_floats(LANES * stride, |values| {
            for (out, pixels) in out.chunks_mut(LANES * width).zip(pixels.chunks(LANES)) {
                self.group(values, stride, |logits| self.coarse.pixels(pixels, logits));
                for (out, values) in out.iter_mut().zip(values.as_chunks::<LANES>().0) {
                    out.0 = *values;
                }
            }
        });
    }

    /// Softmax of sixteen logit vectors, to rows of `stride` floats, behind room for three channels.
    fn group(&self, rows: &mut [f32], stride: usize, logits: impl FnOnce(&mut [Lanes])) {
        let classes = self.coarse.logits.classes();
        let mut buffer = [Lanes::ZERO; MAX_CLASSES];
        let mut beliefs = [Lanes::ZERO; MAX_CLASSES + 1];
        logits(&mut buffer[..classes]);
        let beliefs = &mut beliefs[..classes + 1];
        dispatch(self.set, Softmax { logits: &buffer[..classes], beliefs });
        rows.fill(0.0);
        for (class, belief) in beliefs[..classes].iter().enumerate() {
            for (row, &p) in rows.chunks_exact_mut(stride).zip(&belief.0) {
                row[3 + class] = p;
            }
        }
    }
}

struct Softmax<'a> {
    logits: &'a [Lanes],
    beliefs: &'a mut [Lanes],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa, const ROWS: usize>(self, isa: I) {
        softmax_entropy(isa, self.logits, self.beliefs);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::dense_reference::Random;
    use super::super::super::evaluate::{Logits, gather_logits};
    use super::super::super::features::site_features;
    use super::super::super::sites::tests::sites_of;
    use super::*;
    use crate::bundle::manifest::ChannelOrder;
    use crate::plan::Geometry;
    use crate::types::Size;

    #[test]
    fn features_are_those_of_the_reference() {
        for (classes, camera, grid) in [
            (13, Size::new(160, 90), Size::new(40, 24)),
            (2, Size::new(70, 50), Size::new(70, 50)),
            (19, Size::new(200, 61), Size::new(33, 20)),
        ] {
            let mut random = Random::new(classes as u64);
            let data = random.vector(classes * grid.pixels(), -3.0, 3.0);
            let logits = Logits::new(&data, grid, classes);
            let rgb: Vec<u8> = (0..camera.pixels() * 3).map(|i| (i * 7919 % 251) as u8).collect();
            let normalisation =
                Normalisation { order: ChannelOrder::Bgr, mean: [1.0, 120.0, 90.0], std: [50.0, 60.0, 70.0] };
            let table = LevelTable::new(&normalisation);
            let geometry = Geometry::pad(camera, grid);
            let sites = sites_of(camera, &(0..camera.pixels()).map(|i| i * 7 % 11 < 5).collect::<Vec<_>>());
            for upsample in [Upsample::Nearest, Upsample::Bilinear] {
                let mut y1 = vec![0.0; sites.len() * classes];
                gather_logits(&logits, &geometry, upsample, sites.pixels(), &mut y1);
                for probabilities in [false, true] {
                    let channels = if probabilities { 3 + classes } else { 3 };
                    let mut expected = vec![0.0; sites.len() * channels];
                    let y1 = probabilities.then_some(&y1[..]);
                    site_features(&rgb, camera, &normalisation, sites.pixels(), y1, &mut expected);
                    for set in InstructionSet::available() {
                        let coarse = Coarse { logits, geometry: &geometry, upsample };
                        let camera_features = CameraFeatures {
                            set,
                            table: &table,
                            rgb: &rgb,
                            width: camera.width,
                            coarse,
                            probabilities,
                        };
                        let width = channels.div_ceil(LANES);
                        let mut out = vec![Lanes([f32::NAN; LANES]); sites.len() * width];
                        camera_features.fill(0, sites.pixels(), width, &mut out);
                        for (row, expected) in out.chunks(width).zip(expected.chunks(channels)) {
                            let row = Lanes::as_floats(row);
                            for (a, b) in row.iter().zip(expected) {
                                assert!((a - b).abs() < 1e-6, "{classes} classes, {}: {a} {b}", set.name());
                            }
                            assert!(row[channels..].iter().all(|&x| x == 0.0), "filled up with zeros");
                        }
                    }
                }
            }
        }
    }
}
