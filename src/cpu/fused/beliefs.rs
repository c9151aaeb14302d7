//! Coarse logits as the fused kernels read them: sixteen cells or pixels side by side, their softmax and entropy.

use super::super::entropy::CLAMP;
use super::super::evaluate::Logits;
use super::super::math::ln;
use super::super::sites::Pixel;
use super::super::upsample::{Tap, lerp};
use super::isa::{Isa, LANES, Lanes};
use crate::bundle::manifest::Upsample;
use crate::plan::Geometry;

/// Coarse logits and how the camera's pixels map to them.
#[derive(Clone, Copy)]
pub(crate) struct Coarse<'a> {
    pub(crate) logits: Logits<'a>,
    pub(crate) geometry: &'a Geometry,
    pub(crate) upsample: Upsample,
}

impl Coarse<'_> {
    /// Logits of up to sixteen neighbouring cells of a row, from column `16 * group` on, class by class.
    pub(super) fn cells(&self, row: u32, group: usize, out: &mut [Lanes]) {
        let first = group * LANES;
        let count = (self.logits.size().width as usize - first).min(LANES);
        for (class, out) in out.iter_mut().enumerate() {
            out.0[..count].copy_from_slice(&self.logits.row(class, row)[first..first + count]);
        }
    }

    /// Logits of up to sixteen pixels, class by class.
    pub(super) fn pixels(&self, pixels: &[Pixel], out: &mut [Lanes]) {
        let (canvas, size) = (self.geometry.canvas, self.logits.size());
        for (lane, pixel) in pixels.iter().enumerate() {
            let (row, column) = (u32::from(pixel.row), u32::from(pixel.col));
            match self.upsample {
                Upsample::Nearest => {
                    let (row, column) = (self.geometry.cell_row(row), self.geometry.cell_column(column));
                    for (class, out) in out.iter_mut().enumerate() {
                        out.0[lane] = self.logits.row(class, row)[column as usize];
                    }
                }
                Upsample::Bilinear => {
                    let row = Tap::new(row, canvas.height, size.height);
                    let column = Tap::new(column, canvas.width, size.width);
                    for (class, out) in out.iter_mut().enumerate() {
                        let (top, bottom) =
                            (self.logits.row(class, row.low), self.logits.row(class, row.high));
                        let [low, high] = [column.low, column.high]
                            .map(|x| lerp(top[x as usize], bottom[x as usize], row.weight));
                        out.0[lane] = lerp(low, high, column.weight);
                    }
                }
            }
        }
    }
}

/// Softmax of sixteen logit vectors into `beliefs`, class by class; the entropy follows in one more vector.
#[inline(always)]
pub(super) fn softmax_entropy<I: Isa>(isa: I, logits: &[Lanes], beliefs: &mut [Lanes]) {
    let zero = isa.splat(0.0);
    let mut top = isa.splat(f32::NEG_INFINITY);
    for z in logits {
        top = isa.max(top, isa.load(z));
    }
    let (beliefs, entropy) = beliefs.split_at_mut(logits.len());
    let mut total = zero;
    for (p, z) in beliefs.iter_mut().zip(logits) {
        let q = isa.exp(isa.sub(isa.load(z), top));
        total = isa.add(total, q);
        isa.store(q, p);
    }
    let mut ln_total = Lanes::ZERO;
    isa.store(total, &mut ln_total);
    for value in &mut ln_total.0 {
        *value = ln(*value);
    }
    let offset = isa.add(top, isa.load(&ln_total));
    let (scale, least) = (isa.div(isa.splat(1.0), total), isa.splat(ln(CLAMP)));
    let mut sum = zero;
    for (p, z) in beliefs.iter_mut().zip(logits) {
        let share = isa.mul_add(isa.load(p), scale, zero);
        sum = isa.mul_add(share, isa.max(isa.sub(isa.load(z), offset), least), sum);
        isa.store(share, p);
    }
    isa.store(isa.sub(zero, sum), &mut entropy[0]);
}
