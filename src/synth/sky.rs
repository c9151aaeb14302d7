//! Sky, clouds, and what closes the view where the street ends.

use super::classes::Class;
use super::colour::Rgb;
use super::look::Look;
use super::rng::{cell, fractal, noise, smoothstep};

/// Light from the sky along a ray: `right` and `up` per metre of depth.
pub(super) fn sky(look: &Look, right: f32, up: f32) -> Rgb {
    let up = up.max(0.0);
    let height = up / (up + 0.28);
    let clear = look.horizon.towards(look.zenith, height);
    // Clouds lie on a plane overhead, so they flatten towards the horizon.
    let reach = 1.0 / (up + 0.12);
    let density = fractal(look.seed, right * reach * 1.3, reach * 2.1, 5);
    let edge = 0.74 - 0.5 * look.cover;
    let cloud = smoothstep(edge, edge + 0.2, density) * smoothstep(0.0, 0.1, up + 0.02) * 0.9;
    let shade = 0.72 + 0.28 * smoothstep(edge + 0.35, edge, density);
    clear.towards(look.cloud * shade, cloud)
}

/// No skyline rises more than this per metre of depth.
const HIGHEST: f32 = 0.065;

/// Trees or roofs on the horizon, where the ray meets them; `up` is the ray's rise per metre of depth.
pub(super) fn skyline(look: &Look, right: f32, up: f32) -> Option<(Class, Rgb)> {
    if up > HIGHEST {
        return None;
    }
    let green = noise(look.seed ^ 1, right * 5.0, 0.5) > 0.45;
    if green {
        let top = 0.012 + 0.035 * fractal(look.seed ^ 2, right * 18.0, 0.5, 2);
        let ragged = 0.012 * (fractal(look.seed ^ 3, right * 260.0, up * 260.0, 3) - 0.5);
        let leaf = 0.6 + 0.8 * noise(look.seed ^ 4, right * 380.0, up * 380.0);
        (up < top + ragged).then(|| {
            let albedo = Rgb(0.07, 0.12, 0.04) * leaf;
            (Class::Vegetation, look.haze(albedo * look.light([0.0, 0.5, -0.86], 0.7), 420.0))
        })
    } else {
        let roof = 0.01 + 0.05 * noise(look.seed ^ 5, (right * 45.0).floor(), 0.25);
        let own = cell(look.seed ^ 6, (right * 45.0).floor() as i32, 0);
        let window = cell(look.seed ^ 7, (right * 1400.0).floor() as i32, (up * 900.0).floor() as i32) > 0.55;
        let albedo = Rgb(0.24 + 0.2 * own, 0.3, 0.32 - 0.1 * own) * if window { 0.6 } else { 1.1 };
        (up < roof).then(|| (Class::Building, look.haze(albedo * look.light([0.0, 0.2, -0.98], 0.6), 420.0)))
    }
}
