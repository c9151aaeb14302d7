//! Frames to look at: the whole picture side by side in all its maps, and a crop of the place that changed most.

use super::Escaped;
use super::maps::{self, Encoding, Palette, Window};
use crate::plan::Geometry;
use crate::types::{LabelImage, Size};

/// Width of the pictures; a screen with two pixels a point shows them sharp.
const WIDTH: u32 = 960;
/// Size of the crops, which are shown pixel by pixel.
const CROP: Size = Size::new(384, 288);

/// One frame with everything that was computed for it. Maps that do not fit the image are left out.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Heading, such as the topic and the stamp.
    pub title: String,
    /// Camera resolution.
    pub size: Size,
    /// The camera image, 3 bytes a pixel, rows without padding.
    pub rgb: Vec<u8>,
    /// Coarse labels, where the output is not coarse itself.
    pub coarse: Option<LabelImage>,
    /// The labels that the run put out.
    pub refined: LabelImage,
    /// Ground truth.
    pub truth: Option<LabelImage>,
    /// What decided where to refine: how unsure the segmenter was, or its weight map.
    pub entropy: Option<EntropyGrid>,
}

/// Entropy or weight of each cell of the segmenter's grid.
#[derive(Clone, Debug)]
pub struct EntropyGrid {
    /// What the values are.
    pub measure: Measure,
    /// Where the cells lie in the image.
    pub geometry: Geometry,
    /// One value a cell, row-major.
    pub values: Vec<f32>,
    /// The largest value there can be: ln of the number of classes, or a weight of 1.
    pub max: f32,
}

/// What decides where to refine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Entropy of the coarse softmax, in nats.
    Entropy,
    /// A learned weight, 0 to 1.
    Weight,
}

impl Measure {
    fn name(self) -> &'static str {
        match self {
            Self::Entropy => "entropy",
            Self::Weight => "weight map",
        }
    }

    /// Name and meaning of the largest value, for the legend.
    pub(super) fn legend(self) -> (&'static str, &'static str) {
        match self {
            Self::Entropy => ("Entropy", "nats, that of a guess among all classes"),
            Self::Weight => ("Weight map", "the share of the fine column, where it is run"),
        }
    }
}

impl Panel {
    fn fits(&self, labels: &LabelImage) -> bool {
        labels.size == self.size && labels.data.len() == self.size.pixels()
    }

    /// The panel in HTML. `names` are those of the labels before and of the run's own.
    pub(super) fn to_html(&self, palette: &Palette, names: [&str; 2]) -> String {
        let title = Escaped(&self.title);
        if self.size.pixels() == 0 || self.rgb.len() != 3 * self.size.pixels() || !self.fits(&self.refined) {
            return format!(
                "<article><h3>{title}</h3><p>The images of this frame do not fit each other.</p></article>"
            );
        }
        let coarse = self.coarse.as_ref().filter(|labels| self.fits(labels));
        let truth = self.truth.as_ref().filter(|labels| self.fits(labels));
        let crop = coarse.and_then(|coarse| maps::most_changed(coarse, &self.refined, truth, CROP));

        let whole = Window::whole(self.size);
        let mut html = format!("<article><h3>{title} <small>{}</small></h3><div class=\"maps\">", self.size);
        html += &self.figures(palette, names, coarse, truth, whole, crop);
        html += "</div>";
        if let Some(crop) = crop {
            html += &format!(
                "<h4>Where most changed: {} pixels of the camera at ({}, {})</h4><div class=\"crops\">",
                crop.size, crop.x, crop.y
            );
            html += &self.figures(palette, names, coarse, truth, crop, None);
            html += "</div>";
        } else if coarse.is_some() {
            html += "<p class=\"note\">Refinement changed nothing in this frame.</p>";
        }
        html + "</article>"
    }

    /// All maps of a window; `mark` is outlined in the first.
    fn figures(
        &self,
        palette: &Palette,
        [before, output]: [&str; 2],
        coarse: Option<&LabelImage>,
        truth: Option<&LabelImage>,
        window: Window,
        mark: Option<Window>,
    ) -> String {
        let picture = maps::draw(window, WIDTH, maps::camera(self));
        let outline = mark.map_or(String::new(), |mark| outline(mark, self.size));
        let mut html = figure("camera image", &maps::data_uri(&picture, Encoding::Jpeg), &outline);
        let mut map =
            |name: &str, picture| html += &figure(name, &maps::data_uri(&picture, Encoding::Png), "");
        if let Some(coarse) = coarse {
            map(&format!("{before} labels"), maps::draw(window, WIDTH, palette.labels(coarse)));
        }
        map(&format!("{output} labels"), maps::draw(window, WIDTH, palette.labels(&self.refined)));
        if let Some(truth) = truth {
            map("ground truth", maps::draw(window, WIDTH, palette.labels(truth)));
        }
        if let Some(entropy) = self.entropy.as_ref().filter(|e| e.fits(self.size)) {
            map(entropy.measure.name(), maps::draw(window, WIDTH, maps::entropy(entropy)));
        }
        if let Some(coarse) = coarse {
            let name = if truth.is_some() { "errors" } else { "changed pixels" };
            map(name, maps::draw(window, WIDTH, maps::changes(self, coarse, truth)));
        }
        html
    }
}

impl EntropyGrid {
    fn fits(&self, camera: Size) -> bool {
        let Geometry { camera: own, canvas, grid } = self.geometry;
        let covers = canvas.width >= own.width && canvas.height >= own.height;
        own == camera && covers && grid.pixels() > 0 && self.values.len() == grid.pixels()
    }
}

fn figure(caption: &str, uri: &str, over: &str) -> String {
    format!(
        "<figure><div class=\"frame\"><img src=\"{uri}\" alt=\"{caption}\">{over}</div>\
         <figcaption>{caption}</figcaption></figure>\n"
    )
}

fn outline(window: Window, image: Size) -> String {
    let share = |part: u32, of: u32| 100.0 * f64::from(part) / f64::from(of);
    format!(
        "<i class=\"outline\" style=\"left:{:.2}%;top:{:.2}%;width:{:.2}%;height:{:.2}%\"></i>",
        share(window.x, image.width),
        share(window.y, image.height),
        share(window.size.width, image.width),
        share(window.size.height, image.height)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel() -> Panel {
        let size = Size::new(80, 40);
        let labels = |edge: usize| LabelImage {
            size,
            data: (0..size.pixels()).map(|i| u8::from(i % 80 >= edge)).collect(),
        };
        let geometry = Geometry::pad(size, Size::new(10, 6));
        Panel {
            title: "/front <1>".into(),
            size,
            rgb: vec![90; 3 * size.pixels()],
            coarse: Some(labels(40)),
            refined: labels(42),
            truth: Some(labels(43)),
            entropy: Some(EntropyGrid {
                measure: Measure::Entropy,
                geometry,
                values: vec![0.5; 60],
                max: 2.0,
            }),
        }
    }

    fn captions(panel: &Panel) -> Vec<String> {
        let html = panel.to_html(&Palette::new(&[]), ["coarse", "refined"]);
        let captions = html.split("<figcaption>").skip(1);
        captions.map(|rest| rest.split('<').next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn a_full_panel_has_all_maps_twice() {
        let all = ["camera image", "coarse labels", "refined labels", "ground truth", "entropy", "errors"];
        assert_eq!(captions(&panel()), [all, all].concat());
        let html = panel().to_html(&Palette::new(&[]), ["coarse", "refined"]);
        assert!(html.contains("/front &lt;1&gt;") && html.contains("class=\"outline\""));
        assert_eq!(html.matches("src=\"data:image/png;base64,").count(), 10);
    }

    #[test]
    fn what_is_missing_or_does_not_fit_is_left_out() {
        let mut panel = panel();
        panel.truth = Some(LabelImage::unlabelled(Size::new(40, 80)));
        panel.entropy.iter_mut().for_each(|entropy| entropy.values.truncate(3));
        let some = ["camera image", "coarse labels", "refined labels", "changed pixels"];
        assert_eq!(captions(&panel), [some, some].concat());
        let geometry = Geometry { grid: Size::default(), ..Geometry::pad(panel.size, Size::new(1, 1)) };
        panel.entropy = Some(EntropyGrid { measure: Measure::Weight, geometry, values: vec![], max: 1.0 });
        assert_eq!(captions(&panel), [some, some].concat(), "a grid without cells");
        panel.coarse = None;
        assert_eq!(captions(&panel), ["camera image", "refined labels"], "nothing to compare, so no crop");
        panel.rgb.pop();
        assert!(panel.to_html(&Palette::new(&[]), ["coarse", "refined"]).contains("do not fit"));
    }

    #[test]
    fn a_frame_without_changes_says_so() {
        let mut panel = panel();
        panel.coarse = Some(panel.refined.clone());
        assert!(panel.to_html(&Palette::new(&[]), ["coarse", "refined"]).contains("changed nothing"));
    }
}
