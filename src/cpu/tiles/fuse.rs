//! Mixes the scores of the two columns: `s = (1 - g) up(sC) + g sF` at each position of the fine grid.

use crate::tiles::{Layout, Rect};

/// Mixes the positions of a tile into `scores`, which holds the upsampled coarse scores: planar maps of
/// `layout.positions`, as `fine` does. A position takes the gate of the cell it lies in; where that is 0 it keeps the
/// coarse scores, bit for bit.
pub(super) fn fuse_tile(scores: &mut [f32], fine: &[f32], gate: &[f32], layout: &Layout, tile: u32) {
    assert_eq!(scores.len(), fine.len());
    let Rect { x, y, size } = layout.core(tile).on_grid(layout.stride);
    let per_cell = layout.cell / layout.stride;
    let (plane, width) = (layout.positions.pixels(), layout.positions.width);
    for (scores, fine) in scores.chunks_exact_mut(plane).zip(fine.chunks_exact(plane)) {
        for row in y..y + size.height {
            let start = (row * width + x) as usize;
            let gates = &gate[(row / per_cell * layout.cells.width + x / per_cell) as usize..];
            let line = scores[start..][..size.width as usize].iter_mut().zip(&fine[start..]);
            for (position, (score, &fine)) in line.enumerate() {
                let g = gates[position / per_cell as usize];
                if g > 0.0 {
                    *score = (1.0 - g) * *score + g * fine;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Size;

    #[test]
    fn two_by_two_cells_by_hand() {
        let layout = Layout {
            camera: Size::new(32, 32),
            canvas: Size::new(32, 32),
            cells: Size::new(2, 2),
            positions: Size::new(4, 4),
            cell: 16,
            stride: 8,
            tile: 16,
            halo: 0,
        };
        let gate = [0.25, 0.0, 1.0, 0.5];
        let mut scores: Vec<f32> = (0..32).map(|i| i as f32).collect();
        scores[2] = f32::NAN;
        let fine: Vec<f32> = (0..32).map(|i| 100.0 + i as f32).collect();
        for tile in [0, 1, 2] {
            fuse_tile(&mut scores, &fine, &gate, &layout, tile);
        }
        let by_hand =
            [25.0, 26.0, 2.0, 3.0, 29.0, 30.0, 6.0, 7.0, 108.0, 109.0, 10.0, 11.0, 112.0, 113.0, 14.0, 15.0];
        for (position, wanted) in by_hand.into_iter().enumerate().filter(|&(position, _)| position != 2) {
            assert_eq!((scores[position], scores[16 + position]), (wanted, wanted + 16.0), "{position}");
        }
        assert!(scores[2].is_nan(), "a shut gate leaves the coarse score as it is");
        assert_eq!(scores[10], 10.0, "tile 3 was not run");
    }
}
