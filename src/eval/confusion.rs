//! Counts of (truth, prediction) label pairs, and the scores that follow from them.

use rayon::prelude::*;

use crate::types::{LabelImage, Size, UNLABELLED};

const VALUES: usize = 256;
/// Pixels counted by one task: its 32-bit bins cannot overflow, and zeroing them costs little beside the counting.
const CHUNK: usize = 1 << 20;

/// Why two images were not compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum ScoreError {
    #[error("the ground truth is {truth}, the labels are {labels}: only images of one size can be compared")]
    Size { truth: Size, labels: Size },
    #[error("an image of {size} needs {} values, {what} has {got}", size.pixels())]
    Length { what: &'static str, got: usize, size: Size },
}

/// How often each label value of the truth met each label value of the prediction.
///
/// The table covers every value of a byte, so label values that no class of the model has are counted, not lost.
/// [`UNLABELLED`] in the truth is ignored. `UNLABELLED` in the prediction is a miss of the class that is there: it
/// lowers that class's IoU and the pixel accuracy, and is a false positive of none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// `counts[truth * 256 + prediction]`.
    counts: Vec<u64>,
}

impl Default for Confusion {
    fn default() -> Self {
        Self { counts: vec![0; VALUES * VALUES] }
    }
}

impl Confusion {
    /// Whether two images can be compared: the same size, and as many values as the size says.
    pub fn check(truth: &LabelImage, prediction: &LabelImage) -> Result<(), ScoreError> {
        if prediction.size != truth.size {
            return Err(ScoreError::Size { truth: truth.size, labels: prediction.size });
        }
        check_length("the array of ground truth", truth.data.len(), truth.size)?;
        check_length("the array of labels", prediction.data.len(), truth.size)
    }

    /// Adds every pixel of a pair of images, or those where `mask` (one byte a pixel, 0 or 1) is 1.
    pub fn add(
        &mut self,
        truth: &LabelImage,
        prediction: &LabelImage,
        mask: Option<&[u8]>,
    ) -> Result<(), ScoreError> {
        Self::check(truth, prediction)?;
        if let Some(mask) = mask {
            check_length("the mask", mask.len(), truth.size)?;
        }
        let chunks = truth.data.par_chunks(CHUNK).zip(prediction.data.par_chunks(CHUNK)).enumerate();
        let bins: Vec<_> = chunks
            .map(|(i, (truth, prediction))| {
                let mut bins = vec![0u32; VALUES * VALUES];
                match mask {
                    None => count(truth, prediction, &mut bins),
                    Some(mask) => {
                        count_masked(truth, prediction, &mask[i * CHUNK..][..truth.len()], &mut bins);
                    }
                }
                bins
            })
            .collect();
        for bins in bins {
            self.counts.iter_mut().zip(bins).for_each(|(sum, n)| *sum += u64::from(n));
        }
        Ok(())
    }

    /// Adds the counts of another table.
    pub fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, n)| *sum += n);
    }

    /// Pixels of the truth that have this label.
    pub fn truth_pixels(&self, label: u8) -> u64 {
        self.row(label).iter().sum()
    }

    /// Label values that occur in the truth, ascending, [`UNLABELLED`] aside.
    pub fn labels(&self) -> impl Iterator<Item = u8> + '_ {
        (0..UNLABELLED).filter(|&label| self.row(label).iter().any(|&n| n > 0))
    }

    /// TP / (TP + FP + FN) over the labelled pixels; `None` for a label that does not occur in the truth.
    pub fn iou(&self, label: u8) -> Option<f64> {
        let truth = self.truth_pixels(label);
        if label == UNLABELLED || truth == 0 {
            return None;
        }
        let predicted: u64 = (0..UNLABELLED).map(|t| self.row(t)[usize::from(label)]).sum();
        let hits = self.row(label)[usize::from(label)];
        Some(hits as f64 / (truth + predicted - hits) as f64)
    }

    /// Mean IoU over the labels that occur in the truth; `None` where nothing is labelled.
    pub fn miou(&self) -> Option<f64> {
        let ious: Vec<_> = self.labels().filter_map(|label| self.iou(label)).collect();
        (!ious.is_empty()).then(|| ious.iter().sum::<f64>() / ious.len() as f64)
    }

    /// Share of the labelled pixels that are right; `None` where nothing is labelled.
    pub fn accuracy(&self) -> Option<f64> {
        let total: u64 = (0..UNLABELLED).map(|label| self.truth_pixels(label)).sum();
        let right: u64 = (0..UNLABELLED).map(|label| self.row(label)[usize::from(label)]).sum();
        (total > 0).then(|| right as f64 / total as f64)
    }

    fn row(&self, truth: u8) -> &[u64] {
        &self.counts[usize::from(truth) * VALUES..][..VALUES]
    }
}

fn check_length(what: &'static str, got: usize, size: Size) -> Result<(), ScoreError> {
    if got == size.pixels() { Ok(()) } else { Err(ScoreError::Length { what, got, size }) }
}

fn bin(truth: u8, prediction: u8) -> usize {
    usize::from(truth) << 8 | usize::from(prediction)
}

/// Label images are flat over long runs, where one addition stands for eight pixels. Adding them one by one to the
/// same bin would wait each time for the last store.
fn count(truth: &[u8], prediction: &[u8], bins: &mut [u32]) {
    let (truth, truth_rest) = truth.as_chunks::<8>();
    let (prediction, prediction_rest) = prediction.as_chunks::<8>();
    for (t, p) in truth.iter().zip(prediction) {
        if *t == [t[0]; 8] && *p == [p[0]; 8] {
            bins[bin(t[0], p[0])] += 8;
        } else {
            t.iter().zip(p).for_each(|(&t, &p)| bins[bin(t, p)] += 1);
        }
    }
    truth_rest.iter().zip(prediction_rest).for_each(|(&t, &p)| bins[bin(t, p)] += 1);
}

fn count_masked(truth: &[u8], prediction: &[u8], mask: &[u8], bins: &mut [u32]) {
    const STEP: usize = 8;
    let chunks = truth.chunks(STEP).zip(prediction.chunks(STEP)).zip(mask.chunks(STEP));
    for ((t, p), m) in chunks {
        if m != &[0; STEP][..m.len()] {
            t.iter().zip(p).zip(m).for_each(|((&t, &p), &m)| bins[bin(t, p)] += u32::from(m));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: u32, data: &[u8]) -> LabelImage {
        LabelImage { size: Size::new(width, data.len() as u32 / width), data: data.to_vec() }
    }

    fn confusion(truth: &[u8], prediction: &[u8]) -> Confusion {
        let mut confusion = Confusion::default();
        let width = truth.len() as u32;
        confusion.add(&image(width, truth), &image(width, prediction), None).unwrap();
        confusion
    }

    #[test]
    fn scores_of_a_case_done_by_hand() {
        // Class 0: 2 hits, 1 miss, 1 false positive: 2/4. Class 1: 1 hit, 1 miss, 1 false positive: 1/3.
        let c = confusion(&[0, 0, 0, 1, 1, 255, 255], &[0, 0, 1, 1, 0, 0, 7]);
        assert_eq!((c.iou(0), c.iou(1)), (Some(0.5), Some(1.0 / 3.0)));
        assert_eq!(c.iou(7), None, "predicted only where the truth is unlabelled");
        assert_eq!(c.miou(), Some((0.5 + 1.0 / 3.0) / 2.0));
        assert_eq!(c.accuracy(), Some(0.6));
        assert_eq!(c.labels().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn unlabelled_predictions_are_misses() {
        let c = confusion(&[3, 3, 3, 4], &[3, 255, 255, 4]);
        assert_eq!((c.iou(3), c.iou(4), c.iou(255)), (Some(1.0 / 3.0), Some(1.0), None));
        assert_eq!(c.accuracy(), Some(0.5));
    }

    #[test]
    fn classes_that_are_only_predicted_hurt_others_but_are_not_averaged() {
        let c = confusion(&[0, 0, 0, 0], &[0, 0, 0, 9]);
        assert_eq!((c.miou(), c.iou(9)), (Some(0.75), None));
    }

    #[test]
    fn nothing_labelled_has_no_score() {
        let c = confusion(&[255, 255], &[0, 1]);
        assert_eq!((c.miou(), c.accuracy()), (None, None));
    }

    #[test]
    fn many_chunks_masks_and_merging_equal_a_plain_loop() {
        let size = Size::new(1237, 1801);
        let mut seed = 1u32;
        let mut noisy = |classes: u32| {
            let data = (0..size.pixels()).map(|i| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Flat runs with noise between, so that both branches of the counting run.
                if i / 50 % 3 == 0 { (seed >> 16) % classes } else { i as u32 / 700 % classes }
            });
            LabelImage { size, data: data.map(|v| if v == 5 { 255 } else { v as u8 }).collect() }
        };
        let (truth, prediction, mask) = (noisy(6), noisy(7), noisy(2).data);
        let (mut plain, mut plain_masked) = (Confusion::default(), Confusion::default());
        for ((&t, &p), &m) in truth.data.iter().zip(&prediction.data).zip(&mask) {
            plain.counts[bin(t, p)] += 1;
            plain_masked.counts[bin(t, p)] += u64::from(m);
        }
        let (mut all, mut masked) = (Confusion::default(), Confusion::default());
        all.add(&truth, &prediction, None).unwrap();
        masked.add(&truth, &prediction, Some(&mask)).unwrap();
        assert_eq!(all, plain);
        assert_eq!(masked, plain_masked);
        all.merge(&masked);
        assert_eq!(all.truth_pixels(1), plain.truth_pixels(1) + plain_masked.truth_pixels(1));
    }

    #[test]
    fn images_that_do_not_fit_are_refused_and_leave_no_trace() {
        let mut c = Confusion::default();
        let truth = image(2, &[0, 0, 1, 1]);
        let wrong = c.add(&truth, &image(4, &[0, 0, 1, 1]), None).unwrap_err();
        assert_eq!(wrong, ScoreError::Size { truth: Size::new(2, 2), labels: Size::new(4, 1) });
        let short = LabelImage { size: truth.size, data: vec![0; 3] };
        let wrong = c.add(&truth, &short, None).unwrap_err();
        assert_eq!(wrong.to_string(), "an image of 2x2 needs 4 values, the array of labels has 3");
        assert!(c.add(&truth, &truth, Some(&[1; 5])).is_err());
        assert_eq!(c, Confusion::default());
    }
}
