//! The street a seed lays out: an endless road with crossings at regular intervals and lots on both sides.

use super::colour::Rgb;
use super::rng::Rng;

/// Height of the kerb, metres.
pub(super) const KERB_HEIGHT: f32 = 0.13;
/// Width of the kerb stones, metres.
pub(super) const KERB_WIDTH: f32 = 0.22;
/// Farthest depth at which anything stands.
pub(super) const FAR: f32 = 420.0;

/// What holds along the whole street.
#[derive(Clone, Debug)]
pub(super) struct Street {
    pub(super) seed: u64,
    /// Lanes in each direction.
    pub(super) lanes: u32,
    pub(super) lane_width: f32,
    /// Whether cars park along the kerb.
    pub(super) parking: bool,
    /// Half the width of the carriageway.
    pub(super) half: f32,
    /// Width of each sidewalk, kerb included.
    pub(super) sidewalk: f32,
    /// Width of the grass between sidewalk and lots, 0 where there is none.
    pub(super) verge: f32,
    /// Distance from one crossing to the next.
    pub(super) period: f32,
    /// Width of the crossing streets.
    pub(super) cross: f32,
    pub(super) curve: f32,
    /// Metres the camera moves in a frame.
    pub(super) speed: f32,
    /// Yellow centre line.
    pub(super) yellow: bool,
    /// How much of everything stands and moves there, 0..=1.
    pub(super) density: f32,
    /// Share of lots that are gardens.
    pub(super) green: f32,
    /// Typical storeys.
    pub(super) storeys: f32,
}

/// How a facade is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Brick,
    Stucco,
    Panels,
    Glass,
    House,
}

/// A box of a house; its facade is the plane `|u| = u`.
#[derive(Clone, Debug)]
pub(super) struct Building {
    /// -1 left of the road, 1 right.
    pub(super) side: f32,
    pub(super) u: f32,
    pub(super) s0: f32,
    pub(super) s1: f32,
    pub(super) height: f32,
    pub(super) depth: f32,
    pub(super) style: Style,
    pub(super) wall: Rgb,
    pub(super) trim: Rgb,
    pub(super) accent: Rgb,
    pub(super) bay: f32,
    pub(super) storey: f32,
    pub(super) seed: u32,
}

impl Street {
    /// The street of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::keyed(seed, &[3]);
        let lanes = if rng.chance(0.4) { 2 } else { 1 };
        let lane_width = rng.range(2.9, 3.6);
        let parking = rng.chance(0.7);
        Self {
            seed,
            lanes,
            lane_width,
            parking,
            half: lanes as f32 * lane_width + if parking { 2.2 } else { 0.4 },
            sidewalk: rng.range(2.2, 4.8),
            verge: if rng.chance(0.45) { rng.range(0.8, 2.5) } else { 0.0 },
            period: rng.range(65.0, 130.0),
            cross: rng.range(7.0, 13.0),
            curve: if rng.chance(0.3) { 0.0 } else { rng.range(-0.0016, 0.0016) },
            speed: rng.range(0.7, 1.4),
            yellow: rng.chance(0.3),
            density: rng.range(0.35, 1.0),
            green: rng.range(0.05, 0.5),
            storeys: rng.range(1.6, 6.0),
        }
    }

    /// Distance of the lots from the centre line.
    pub(super) fn lot_line(&self) -> f32 {
        self.half + self.sidewalk + self.verge
    }

    /// Index of the block that holds `s`; it begins with its crossing.
    pub(super) fn block(&self, s: f32) -> i32 {
        (s / self.period).floor() as i32
    }

    /// Metres past the start of the crossing that opens the block.
    pub(super) fn past_crossing(&self, s: f32) -> f32 {
        s - self.block(s) as f32 * self.period
    }

    /// Whether `s` lies in a crossing.
    pub(super) fn crossing(&self, s: f32) -> bool {
        self.past_crossing(s) < self.cross
    }

    /// Whether traffic lights stand at the block's crossing.
    pub(super) fn signalled(&self, block: i32) -> bool {
        Rng::keyed(self.seed, &[4, i64::from(block)]).chance(0.55)
    }

    /// Whether zebra stripes are painted at the block's crossing.
    pub(super) fn zebra(&self, block: i32) -> bool {
        Rng::keyed(self.seed, &[5, i64::from(block)]).chance(0.8)
    }

    /// The buildings of one side of a block; lots without one are gardens.
    pub(super) fn buildings(&self, block: i32, side: f32) -> Vec<Building> {
        let mut rng = Rng::keyed(self.seed, &[6, i64::from(block), side as i64]);
        let start = block as f32 * self.period;
        let (mut s, end) = (start + self.cross + 2.8, start + self.period - 2.8);
        let mut buildings = Vec::new();
        while end - s > 7.0 {
            let mut frontage = rng.range(8.0, 24.0).min(end - s);
            if end - s - frontage < 7.0 {
                frontage = end - s;
            }
            let garden = rng.chance(self.green);
            let building = self.building(&mut rng, side, s, s + frontage);
            if !garden {
                buildings.push(building);
            }
            s += frontage + if rng.chance(0.25) { rng.range(0.8, 4.0) } else { 0.0 };
        }
        buildings
    }

    fn building(&self, rng: &mut Rng, side: f32, s0: f32, s1: f32) -> Building {
        let style = rng.pick(&[
            Style::Brick,
            Style::Brick,
            Style::Stucco,
            Style::Stucco,
            Style::Stucco,
            Style::Panels,
            Style::Glass,
            Style::House,
            Style::House,
        ]);
        let storey = rng.range(2.8, 3.5);
        let storeys = match style {
            Style::House => rng.range(2.0, 3.0),
            Style::Glass => self.storeys * rng.range(1.2, 2.4),
            _ => self.storeys * rng.range(0.7, 1.5),
        };
        let wall = match style {
            Style::Brick => rng.pick(&[[142, 78, 62], [120, 66, 54], [164, 108, 82], [150, 132, 108]]),
            Style::Panels => rng.pick(&[[158, 158, 154], [134, 138, 140], [176, 170, 158], [116, 120, 124]]),
            Style::Glass => rng.pick(&[[96, 112, 122], [80, 92, 98], [120, 128, 130]]),
            _ => rng.pick(&[
                [226, 214, 186],
                [214, 180, 134],
                [204, 202, 196],
                [186, 132, 104],
                [152, 172, 178],
                [174, 186, 150],
                [232, 226, 214],
                [206, 158, 146],
            ]),
        };
        let shade = rng.range(0.7, 1.15);
        Building {
            side,
            u: self.lot_line() + if rng.chance(0.5) { 0.0 } else { rng.range(0.0, 2.5) },
            s0,
            s1,
            height: 0.9 + storey * (storeys.floor().max(1.0)) + 0.8,
            depth: rng.range(9.0, 16.0),
            style,
            wall: Rgb::of(wall[0], wall[1], wall[2]) * shade,
            trim: Rgb::grey(rng.range(0.25, 0.75)),
            accent: Rgb(rng.range(0.03, 0.6), rng.range(0.03, 0.4), rng.range(0.03, 0.4)),
            bay: rng.range(1.9, 3.6),
            storey,
            seed: rng.seed32(),
        }
    }
}

/// The buildings around the camera and, per metre and side, which stands there.
#[derive(Clone, Debug)]
pub(super) struct Lots {
    /// Every building in reach.
    pub(super) buildings: Vec<Building>,
    first: f32,
    metres: [Vec<u16>; 2],
}

const NONE: u16 = u16::MAX;

impl Lots {
    /// The lots from `s` on as far as the camera sees.
    pub(super) fn around(street: &Street, s: f32) -> Self {
        let (first, last) = (street.block(s - 60.0), street.block(s + FAR));
        let start = first as f32 * street.period;
        let metres = ((last - first + 1) as f32 * street.period) as usize + 1;
        let mut lots =
            Self { buildings: Vec::new(), first: start, metres: [vec![NONE; metres], vec![NONE; metres]] };
        for block in first..=last {
            for (index, side) in [-1.0, 1.0].into_iter().enumerate() {
                for building in street.buildings(block, side) {
                    let range = (building.s0 - start) as usize..(building.s1 - start) as usize;
                    for metre in lots.metres[index].get_mut(range).into_iter().flatten() {
                        *metre = lots.buildings.len() as u16;
                    }
                    lots.buildings.push(building);
                }
            }
        }
        lots
    }

    /// The building beside `s`, where there is one.
    pub(super) fn at(&self, side: f32, s: f32) -> Option<&Building> {
        let metre = s - self.first;
        if metre < 0.0 {
            return None;
        }
        let index = *self.metres[usize::from(side > 0.0)].get(metre as usize)?;
        self.buildings.get(usize::from(index))
    }

    /// 0 where a building stands between the point and the sun, 1 where none does.
    pub(super) fn sunlit(&self, to_sun: [f32; 3], line: f32, u: f32, s: f32, h: f32) -> f32 {
        let [x, y, z] = to_sun;
        if x == 0.0 {
            return 1.0;
        }
        let side = if x > 0.0 { 1.0 } else { -1.0 };
        let reach = (line + 0.6) - u * side;
        if reach <= 0.0 {
            return 1.0;
        }
        let along = s + reach * z / x.abs();
        let height = h + reach * y / x.abs();
        match self.at(side, along) {
            Some(building) if building.height > height => 0.0,
            _ => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buildings_stand_beside_the_road_and_never_in_crossings() {
        for seed in 0..20 {
            let street = Street::new(seed);
            let lots = Lots::around(&street, 100.0);
            assert!(!lots.buildings.is_empty(), "seed {seed}");
            for building in &lots.buildings {
                assert!(building.u >= street.half + street.sidewalk, "seed {seed}");
                assert!(!street.crossing(building.s0) && !street.crossing(building.s1), "seed {seed}");
                let middle = 0.5 * (building.s0 + building.s1);
                assert_eq!(
                    lots.at(building.side, middle).map(|b| b.seed),
                    Some(building.seed),
                    "seed {seed}"
                );
            }
        }
    }

    #[test]
    fn a_block_is_the_same_from_wherever_it_is_seen() {
        let street = Street::new(9);
        let (near, far) = (Lots::around(&street, 200.0), Lots::around(&street, 150.0));
        for s in 200..400 {
            let seed = |lots: &Lots| lots.at(1.0, s as f32 + 0.5).map(|b| b.seed);
            assert_eq!(seed(&near), seed(&far), "at {s}");
        }
    }
}
