//! Walls of buildings: brick, panels, windows, doors, balconies, shops, roofs.

use super::colour::Rgb;
use super::look::Look;
use super::rng::{cell, fract, fractal, noise};
use super::street::{Building, Style};

/// A point of a wall, in metres along it and above the ground, and the metres a pixel covers there.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallPoint {
    pub(super) a: f32,
    pub(super) h: f32,
    pub(super) pixel_a: f32,
    pub(super) pixel_h: f32,
}

/// What a wall shows: paint to be lit, or glass that mirrors the sky.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallColour {
    pub(super) albedo: Rgb,
    /// Light that needs no sun: mirrored sky, lit rooms.
    pub(super) glow: Rgb,
}

const GROUND_FLOOR: f32 = 3.6;

/// Height of the silhouette at `a` metres along the wall: the roof's edge with chimneys and lift heads.
pub(super) fn roofline(building: &Building, a: f32, front: bool) -> f32 {
    if building.style == Style::House {
        // A mansard: a band of tiles all around.
        let chimney = cell(building.seed, (a * 0.8).floor() as i32, 3) > 0.93;
        return building.height + 2.2 + if chimney && !front { 0.9 } else { 0.0 };
    }
    let box_on_roof = cell(building.seed, (a * 0.35).floor() as i32, 4);
    building.height + if box_on_roof > 0.86 { 1.1 } else { 0.0 }
}

/// Colour of a point of the wall.
pub(super) fn wall(look: &Look, building: &Building, p: WallPoint) -> WallColour {
    if p.h > building.height {
        return plain(roof(building, p));
    }
    let cornice = building.height - p.h;
    if cornice < 0.45 {
        return plain(building.trim * if (0.08..=0.37).contains(&cornice) { 1.0 } else { 0.6 });
    }
    let surface = surface(building, p);
    if p.h < GROUND_FLOOR && building.style != Style::House {
        return ground_floor(look, building, p, surface);
    }
    let base = if building.style == Style::House { 0.3 } else { GROUND_FLOOR };
    storeys(look, building, p, base, surface)
}

fn plain(albedo: Rgb) -> WallColour {
    WallColour { albedo, glow: Rgb::default() }
}

fn roof(building: &Building, p: WallPoint) -> Rgb {
    if building.style != Style::House {
        return Rgb::grey(0.22);
    }
    let tile = fract(p.h / 0.22) < 0.18 || fract(p.a / 0.3 + 0.5 * (p.h / 0.22).floor()) < 0.1;
    let albedo = Rgb(0.26, 0.09, 0.06).towards(Rgb::grey(0.1), cell(building.seed, 1, 2));
    albedo
        * (1.0 - 0.35 * fade(p, 0.15) * f32::from(u8::from(tile)))
        * (0.85 + 0.3 * noise(building.seed, p.a * 2.0, p.h * 2.0))
}

/// Bare wall.
fn surface(building: &Building, p: WallPoint) -> Rgb {
    let dirt = 0.82 + 0.36 * fractal(building.seed, p.a * 0.35, p.h * 0.22, 3);
    let streak = 0.93 + 0.14 * noise(building.seed ^ 2, p.a * 3.0, p.h * 0.3);
    let fine = 1.0 + vary(0.16 * fade(p, 0.03), || noise(building.seed ^ 3, p.a * 28.0, p.h * 28.0));
    let tone = dirt * streak * fine;
    match building.style {
        Style::Brick => {
            let course = (p.h / 0.085).floor();
            let brick = p.a / 0.26 + 0.5 * course;
            let joint = fract(p.h / 0.085) < 0.16 || fract(brick) < 0.06;
            let shown = fade(p, 0.05);
            let own =
                1.0 + 0.5 * fade(p, 0.12) * (cell(building.seed, brick.floor() as i32, course as i32) - 0.5);
            let wall = building.wall * (tone * own);
            if joint { wall.towards(Rgb(0.42, 0.4, 0.37), 0.6 * shown) } else { wall }
        }
        Style::Panels | Style::Glass => {
            let joint =
                fract(p.h / building.storey) * building.storey < 0.05 || fract(p.a / building.bay) < 0.02;
            building.wall * (tone * (1.0 - 0.5 * fade(p, 0.05) * f32::from(u8::from(joint))))
        }
        Style::Stucco | Style::House => building.wall * tone,
    }
}

fn storeys(look: &Look, building: &Building, p: WallPoint, base: f32, surface: Rgb) -> WallColour {
    let floor = ((p.h - base) / building.storey).floor();
    let h = p.h - base - floor * building.storey;
    let column = (p.a / building.bay).floor();
    let a = p.a - column * building.bay;
    let (margin, sill, head) = match building.style {
        Style::Glass => (0.06, 0.25, building.storey - 0.1),
        Style::Panels => (0.25, 0.85, 2.35),
        _ => (building.bay * 0.26, 0.8, 2.3),
    };
    let has_balcony = building.style != Style::Glass
        && cell(building.seed ^ 7, column as i32, 0) > 0.72
        && p.h > GROUND_FLOOR + 0.5
        && building.style != Style::House;
    if has_balcony {
        if h < 0.14 {
            return plain(building.trim * 0.7);
        }
        if h < 1.05 {
            let bar = fract(p.a / 0.14) < 0.3 || h > 0.97;
            let shown = 0.35 + 0.65 * fade(p, 0.14);
            if bar {
                return plain(Rgb::grey(0.06).towards(surface, 1.0 - shown));
            }
        }
    }
    let sill = if has_balcony { 0.1 } else { sill };
    let inside = a > margin && a < building.bay - margin && h > sill && h < head;
    if !inside {
        let ledge = a > margin - 0.1 && a < building.bay - margin + 0.1 && h > sill - 0.12 && h <= sill;
        if ledge && building.style != Style::Glass {
            return plain(building.trim * 1.1);
        }
        // Window heads shade the wall under storey bands.
        let band = building.style != Style::House && h > building.storey - 0.14;
        return plain(surface * if band { 1.15 } else { 1.0 });
    }
    let (wa, wh) = (a - margin, h - sill);
    let (width, height) = (building.bay - 2.0 * margin, head - sill);
    let frame =
        wa < 0.07 || width - wa < 0.07 || wh < 0.07 || height - wh < 0.07 || (wa - 0.5 * width).abs() < 0.035;
    if frame {
        return plain(if building.style == Style::Glass { Rgb::grey(0.12) } else { building.trim });
    }
    glass(look, building, column as i32, floor as i32, p, wh / height)
}

/// Glass of the window in a column and storey; `up` is the share of its height.
fn glass(look: &Look, building: &Building, column: i32, floor: i32, p: WallPoint, up: f32) -> WallColour {
    let roll = cell(building.seed ^ 8, column, floor);
    if look.dusk && roll > 0.62 {
        return WallColour { albedo: Rgb::grey(0.1), glow: Rgb(1.3, 0.92, 0.45) * (0.3 + 0.8 * roll) };
    }
    let curtain = cell(building.seed ^ 9, column, floor);
    if curtain > 0.6 && up > 1.9 - 1.6 * curtain {
        return plain(Rgb(0.42, 0.4, 0.36) * (0.7 + 0.5 * roll));
    }
    let mirror = 0.05 + 0.32 * roll * (0.6 + 0.4 * noise(building.seed ^ 10, p.a * 0.8, p.h * 0.5));
    let sky = look.horizon.towards(look.zenith, 0.25 + 0.5 * up);
    WallColour { albedo: Rgb(0.02, 0.025, 0.03), glow: sky * mirror }
}

fn ground_floor(look: &Look, building: &Building, p: WallPoint, surface: Rgb) -> WallColour {
    let bay = building.bay * 1.7;
    let column = (p.a / bay).floor();
    let a = p.a - column * bay;
    let roll = cell(building.seed ^ 11, column as i32, 0);
    if p.h < 0.35 {
        return plain(Rgb::grey(0.16));
    }
    let shop = cell(building.seed ^ 12, 0, 0) > 0.4;
    if shop && p.h > 2.75 {
        // Fascia with a row of letters, or an awning's stripes.
        let letters = p.h > 2.95 && p.h < 3.3 && a > 0.2 * bay && a < 0.8 * bay;
        let ink =
            letters && cell(building.seed ^ 13, (p.a / 0.16).floor() as i32, (p.h / 0.12) as i32) > 0.45;
        let stripe = roll > 0.6 && fract(p.a / 0.5) < 0.5;
        let albedo = if ink || stripe { Rgb::grey(0.7) } else { building.accent };
        return plain(albedo);
    }
    let door = roll < 0.3;
    let (margin, sill) = if door {
        (bay * 0.5 - 0.55, 0.0)
    } else if shop {
        (0.22, 0.6)
    } else {
        (bay * 0.3, 1.0)
    };
    if a < margin || a > bay - margin || p.h < sill || p.h > 2.6 {
        return plain(surface * 0.92);
    }
    if a < margin + 0.08 || a > bay - margin - 0.08 || p.h > 2.5 || p.h < sill + 0.08 {
        return plain(building.trim * 0.8);
    }
    if door && !shop {
        let panel = fract(a / 0.4) < 0.12 || fract(p.h / 0.8) < 0.08;
        return plain(building.accent * if panel { 0.35 } else { 0.6 });
    }
    if shop && !door {
        // Things in the window.
        let (shelf, item) = ((p.h / 0.55).floor() as i32, (p.a / 0.34).floor() as i32);
        let goods = cell(building.seed ^ 14, item, shelf)
            * (0.4 + 0.6 * f32::from(u8::from(fract(p.h / 0.55) < 0.7)));
        let hue = cell(building.seed ^ 16, item, shelf);
        let lit = if look.dusk { Rgb(1.1, 0.9, 0.6) } else { Rgb::default() };
        let sky = look.horizon * (0.06 + 0.1 * noise(building.seed ^ 15, p.a * 0.7, p.h));
        return WallColour {
            albedo: Rgb(0.26 * hue, 0.16, 0.24 - 0.2 * hue) * goods,
            glow: sky + lit * (goods * 0.7),
        };
    }
    glass(look, building, column as i32, -1, p, p.h * 0.4)
}

/// How much of a texture of this size, in metres, a pixel can show.
fn fade(p: WallPoint, size: f32) -> f32 {
    (1.6 - p.pixel_a.max(p.pixel_h) / size).clamp(0.0, 1.0)
}

/// `amount` of a texture, centred on 0; a texture too fine to show is not computed.
fn vary(amount: f32, texture: impl FnOnce() -> f32) -> f32 {
    if amount > 0.0 { amount * (texture() - 0.5) } else { 0.0 }
}
