//! What the sparse network sees at each site.

use rayon::prelude::*;

use super::math::softmax;
use super::sites::Pixel;
use crate::plan::Normalisation;
use crate::types::Size;

/// Fills `out`, `[sites, 3]` or `[sites, 3 + C]`, for camera pixels.
///
/// The first three values are the normalised channels of the packed RGB image `rgb`. With `logits`, `[sites, C]` as
/// [`super::evaluate::gather_logits`] gives them, their softmax follows.
pub fn site_features(
    rgb: &[u8],
    camera: Size,
    normalisation: &Normalisation,
    sites: &[Pixel],
    logits: Option<&[f32]>,
    out: &mut [f32],
) {
    if sites.is_empty() {
        return;
    }
    assert_eq!(rgb.len(), camera.pixels() * 3);
    let classes = logits.map_or(0, |logits| logits.len() / sites.len());
    assert_eq!(out.len(), sites.len() * (3 + classes));
    assert_eq!(logits.map_or(0, <[f32]>::len), sites.len() * classes);
    let sources = normalisation.sources();
    out.par_chunks_mut(3 + classes).enumerate().with_min_len(4096).for_each(|(site, out)| {
        let Pixel { row, col } = sites[site];
        let pixel = (usize::from(row) * camera.width as usize + usize::from(col)) * 3;
        let (channels, probabilities) = out.split_at_mut(3);
        for (plane, out) in channels.iter_mut().enumerate() {
            *out = normalisation.apply(plane, f32::from(rgb[pixel + sources[plane]]));
        }
        if let Some(logits) = logits {
            probabilities.copy_from_slice(&logits[site * classes..][..classes]);
            softmax(probabilities);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::manifest::ChannelOrder;

    const CAMERA: Size = Size::new(5, 4);

    fn image() -> Vec<u8> {
        (0..CAMERA.pixels() * 3).map(|i| (i * 37 % 256) as u8).collect()
    }

    fn normalisation(order: ChannelOrder) -> Normalisation {
        Normalisation { order, mean: [100.0, 110.0, 120.0], std: [50.0, 60.0, 70.0] }
    }

    #[test]
    fn channels_are_normalised_in_the_networks_order() {
        let rgb = image();
        let sites = [(0, 0), (3, 4), (2, 1)].map(|(row, col)| Pixel { row, col });
        for (order, sources) in [(ChannelOrder::Rgb, [0, 1, 2]), (ChannelOrder::Bgr, [2, 1, 0])] {
            let mut out = vec![f32::NAN; 9];
            site_features(&rgb, CAMERA, &normalisation(order), &sites, None, &mut out);
            for (site, &Pixel { row, col }) in sites.iter().enumerate() {
                for plane in 0..3 {
                    let level = f32::from(rgb[(row as usize * 5 + col as usize) * 3 + sources[plane]]);
                    let want = (level - [100.0, 110.0, 120.0][plane]) / [50.0, 60.0, 70.0][plane];
                    assert_eq!(out[site * 3 + plane], want, "{order:?} site {site} plane {plane}");
                }
            }
        }
    }

    #[test]
    fn a_bgr_network_on_swapped_pixels_sees_the_same() {
        let rgb = image();
        let bgr: Vec<u8> = rgb.chunks_exact(3).flat_map(|p| [p[2], p[1], p[0]]).collect();
        let sites: Vec<Pixel> = (0..4).flat_map(|row| (0..5).map(move |col| Pixel { row, col })).collect();
        let (mut a, mut b) = (vec![0.0; 60], vec![1.0; 60]);
        site_features(&rgb, CAMERA, &normalisation(ChannelOrder::Rgb), &sites, None, &mut a);
        site_features(&bgr, CAMERA, &normalisation(ChannelOrder::Bgr), &sites, None, &mut b);
        assert_eq!(a, b);
    }

    #[test]
    fn probabilities_follow_the_channels() {
        let sites = [(1, 1), (2, 2)].map(|(row, col)| Pixel { row, col });
        let logits = [0.0, 0.0, 2.0, 1.0, 1.0, 1.0];
        let mut out = vec![f32::NAN; 12];
        let normalisation = normalisation(ChannelOrder::Rgb);
        site_features(&image(), CAMERA, &normalisation, &sites, Some(&logits), &mut out);
        let total = 2.0 + 2.0_f32.exp();
        assert!((out[3] - 1.0 / total).abs() < 1e-6 && (out[5] - 2.0_f32.exp() / total).abs() < 1e-6);
        assert!((out[9..].iter().sum::<f32>() - 1.0).abs() < 1e-6);
        let mut plain = vec![0.0; 6];
        site_features(&image(), CAMERA, &normalisation, &sites, None, &mut plain);
        assert_eq!((&out[..3], &out[6..9]), (&plain[..3], &plain[3..]));
        site_features(&[], CAMERA, &normalisation, &[], None, &mut []);
    }
}
