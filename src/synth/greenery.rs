//! Street trees, and the trees and bushes of gardens.

use super::rng::Rng;
use super::shadow::Caster;
use super::sprites::Board;
use super::sprites::tree::Tree;
use super::street::KERB_HEIGHT;
use super::world::Builder;

impl Builder<'_> {
    /// Street trees, and gardens on empty lots.
    pub(super) fn greenery(&mut self, block: i32, side: f32) {
        let street = self.street;
        let mut rng = self.rng(13, block, side);
        let (start, end) =
            (block as f32 * street.period + street.cross + 3.0, (block + 1) as f32 * street.period - 3.0);
        if rng.chance(0.55) {
            let pitch = rng.range(7.0, 16.0);
            let u = if street.verge > 0.0 {
                street.half + street.sidewalk + 0.5 * street.verge
            } else {
                street.half + 1.1
            };
            let height = rng.range(5.0, 11.0);
            let mut s = start + rng.range(1.0, 5.0);
            while s < end {
                let own = height * rng.range(0.8, 1.2);
                let mut seeds = Rng::keyed(rng.next(), &[]);
                if rng.chance(0.85) {
                    self.tree(&mut seeds, side * u, s, own);
                }
                s += pitch;
            }
        }
        let line = street.lot_line();
        let mut s = start;
        while s < end {
            let mut seeds = Rng::keyed(rng.next(), &[]);
            if self.lots.at(side, s).is_none() && self.lots.at(side, s + 1.5).is_none() {
                if seeds.chance(0.75) {
                    let u = side * (line + 0.7);
                    let (width, height) = (seeds.range(1.6, 3.2), seeds.range(0.8, 1.9));
                    self.bush(&mut seeds, u, s + 0.5, width, height);
                }
                if seeds.chance(0.4) {
                    let (u, height) = (side * (line + seeds.range(3.0, 14.0)), seeds.range(4.0, 12.0));
                    self.tree(&mut seeds, u, s + 0.9, height);
                }
            }
            s += 2.2;
        }
        // Behind the houses, so that gaps do not open on nothing.
        let mut s = start - street.cross;
        while s < end {
            let mut seeds = Rng::keyed(rng.next(), &[]);
            let (u, height) = (side * (line + seeds.range(19.0, 34.0)), seeds.range(6.0, 14.0));
            if !street.crossing(s) {
                self.tree(&mut seeds, u, s, height);
            }
            s += 9.0;
        }
    }

    fn tree(&mut self, rng: &mut Rng, u: f32, s: f32, height: f32) {
        let Some(depth) = self.depth(s) else { return };
        let board = Board::new(self.camera, u, depth, KERB_HEIGHT, self.sunlit(u, s, height * 0.6));
        self.world.sprites.push(Tree::tree(rng, self.look, board, height));
        self.shadow(u, s, Caster::Crown { height: height * 0.66, radius: height * 0.3 });
        self.shadow(u, s, Caster::Post { height: height * 0.5, width: height * 0.045 });
    }

    fn bush(&mut self, rng: &mut Rng, u: f32, s: f32, width: f32, height: f32) {
        if let Some(board) = self.board(u, s, KERB_HEIGHT) {
            self.world.sprites.push(Tree::bush(rng, self.look, board, width, height));
            self.shadow(u, s, Caster::Crown { height: height * 0.5, radius: width * 0.5 });
        }
    }
}
