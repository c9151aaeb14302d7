//! Lens and sensor: a small blur and noise.

use rayon::prelude::*;

use super::look::Look;
use super::rng::mix;

/// Blurs over the four neighbours and adds noise that depends on the pixel and `seed` only.
pub(super) fn lens_and_sensor(sharp: &[u8], width: usize, look: &Look, seed: u32) -> Vec<u8> {
    let [bx, by] = look.blur;
    let weights = [(bx * 256.0) as i32, (by * 256.0) as i32];
    // A sum of four uniform bytes has a standard deviation of 147.8.
    let gain = (look.grain * 65536.0 / 147.8) as i32;
    let stride = width * 3;
    let rows = sharp.len() / stride;
    let mut image = vec![0; sharp.len()];
    image.par_chunks_mut(stride).enumerate().for_each_init(
        || vec![0_i32; stride],
        |column, (y, out)| {
            let row = |y: usize| &sharp[y * stride..(y + 1) * stride];
            let (above, here, below) = (row(y.saturating_sub(1)), row(y), row((y + 1).min(rows - 1)));
            let middle = 256 - 2 * weights[1];
            for (sum, ((a, h), b)) in column.iter_mut().zip(above.iter().zip(here).zip(below)) {
                *sum = weights[1] * (i32::from(*a) + i32::from(*b)) + middle * i32::from(*h);
            }
            let centre = 256 - 2 * weights[0];
            for x in 0..width {
                let (left, right) = (x.saturating_sub(1), (x + 1).min(width - 1));
                let mut bits = mix(seed ^ mix((y as u32).wrapping_mul(0x9E37_79B1).wrapping_add(x as u32)));
                let luma = centred(bits);
                for channel in 0..3 {
                    bits = mix(bits.wrapping_add(0x9E37_79B9));
                    let blurred = weights[0] * (column[3 * left + channel] + column[3 * right + channel])
                        + centre * column[3 * x + channel];
                    // Half of the noise is common to the channels, as demosaicing leaves it.
                    let noise = gain * (centred(bits) + luma) * 11 / 16;
                    out[3 * x + channel] = ((blurred + noise + 32768) >> 16).clamp(0, 255) as u8;
                }
            }
        },
    );
    image
}

/// The sum of a word's bytes less its mean.
fn centred(bits: u32) -> i32 {
    bits.to_le_bytes().iter().map(|b| i32::from(*b)).sum::<i32>() - 510
}
