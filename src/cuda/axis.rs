//! Tables of an axis, made once per slot: where lattice positions lie in the image, and what interpolation reads.

use crate::bundle::manifest::Upsample;
use crate::plan::Geometry;
use crate::types::Size;

/// `Tap` of `common.cuh` as three words: low, high, bits of the weight. Formula: `cpu::upsample`.
pub(super) fn taps(count: u32, outputs: u32, inputs: u32) -> Vec<u32> {
    let [outputs, inputs] = [outputs, inputs].map(i64::from);
    let denominator = 2 * outputs;
    (0..i64::from(count))
        .flat_map(|index| {
            let position = ((2 * index + 1) * inputs - outputs).clamp(0, (inputs - 1) * denominator);
            let low = position / denominator;
            let weight = (position % denominator) as f32 / denominator as f32;
            [low as u32, (low + 1).min(inputs - 1) as u32, weight.to_bits()]
        })
        .collect()
}

/// How the positions that selection works on lie on the camera image.
#[derive(Debug)]
pub(super) struct Lattice {
    pub(super) size: Size,
    /// First camera row of each lattice row, then the camera's height; and columns.
    pub(super) starts: [Vec<u32>; 2],
    /// Lattice row of each camera row; and columns.
    pub(super) cells: [Vec<u32>; 2],
}

impl Lattice {
    pub(super) fn new(geometry: &Geometry, upsample: Upsample) -> Self {
        let Geometry { camera, grid, .. } = *geometry;
        match upsample {
            Upsample::Nearest => Self {
                size: grid,
                starts: [
                    (0..=grid.height).map(|row| geometry.first_row(row)).collect(),
                    (0..=grid.width).map(|column| geometry.first_column(column)).collect(),
                ],
                cells: [
                    (0..camera.height).map(|row| geometry.cell_row(row)).collect(),
                    (0..camera.width).map(|column| geometry.cell_column(column)).collect(),
                ],
            },
            Upsample::Bilinear => Self {
                size: camera,
                starts: [(0..=camera.height).collect(), (0..=camera.width).collect()],
                cells: [(0..camera.height).collect(), (0..camera.width).collect()],
            },
        }
    }
}

/// Lengths of a cell and of a pixel on one axis in lowest terms: `Axis` of `cpu::resize`.
pub(super) fn overlap_units(canvas: u32, cells: u32) -> (u32, u32) {
    let divisor = gcd(canvas, cells);
    (canvas / divisor, cells / divisor)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::upsample::Tap;

    #[test]
    fn taps_are_those_of_the_cpu() {
        for (outputs, inputs) in [(10, 3), (3, 10), (640, 40), (5, 1)] {
            for (index, tap) in taps(outputs, outputs, inputs).chunks(3).enumerate() {
                let want = Tap::new(index as u32, outputs, inputs);
                assert_eq!((tap[0], tap[1], f32::from_bits(tap[2])), (want.low, want.high, want.weight));
            }
        }
    }

    #[test]
    fn lattice_tables_agree_with_each_other() {
        let geometry = Geometry::pad(Size::new(100, 70), Size::new(32, 24));
        for upsample in [Upsample::Nearest, Upsample::Bilinear] {
            let lattice = Lattice::new(&geometry, upsample);
            for axis in 0..2 {
                let (starts, cells) = (&lattice.starts[axis], &lattice.cells[axis]);
                for (pixel, &cell) in cells.iter().enumerate() {
                    let within = starts[cell as usize]..starts[cell as usize + 1];
                    assert!(within.contains(&(pixel as u32)), "{upsample:?} axis {axis} pixel {pixel}");
                }
            }
        }
    }
}
