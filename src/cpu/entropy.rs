//! Softmax and entropy of a logit vector, METHODS 1.1(2).

use super::math::{exp, ln};

/// Least argument of the logarithm in the entropy.
pub const CLAMP: f32 = 1e-5;

/// `p = softmax(logits)`; answers with the entropy `-sum p ln(max(p, 1e-5))` in nats, `0..=ln C`.
///
/// `ln p` is taken as `logit - ln(sum exp)`: one logarithm for the vector. NaN logits give NaN.
#[inline]
pub fn softmax_entropy(logits: &[f32], probabilities: &mut [f32]) -> f32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for (p, &logit) in probabilities.iter_mut().zip(logits) {
        *p = exp(logit - largest);
    }
    for &p in probabilities.iter() {
        sum += p;
    }
    let (scale, log_sum, least) = (1.0 / sum, ln(sum), ln(CLAMP));
    let mut entropy = 0.0;
    for (p, &logit) in probabilities.iter_mut().zip(logits) {
        *p *= scale;
        entropy -= *p * (logit - largest - log_sum).max(least);
    }
    entropy
}

/// Index of the largest value, the lowest where several are equal. 0 for an empty slice.
#[inline]
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_of_known_vectors() {
        let mut p = [0.0; 19];
        let uniform = softmax_entropy(&[7.5; 19], &mut p);
        assert!((uniform - 2.944_439).abs() < 1e-5, "uniform {uniform}");
        assert!(p.iter().all(|p| (p - 1.0 / 19.0).abs() < 1e-7));
        let mut logits = [-60.0; 19];
        logits[3] = 40.0;
        let certain = softmax_entropy(&logits, &mut p);
        assert!((0.0..1e-6).contains(&certain) && p[3] == 1.0, "one-hot {certain}");
        let two = softmax_entropy(&[0.0, 3f32.ln()], &mut p[..2]);
        assert!((two - 0.562_335_1).abs() < 1e-6, "1/4, 3/4: {two}");
        assert!(softmax_entropy(&[0.0, f32::NAN], &mut p[..2]).is_nan());
        assert!(softmax_entropy(&[f32::INFINITY, 0.0], &mut p[..2]).is_nan());
    }

    #[test]
    fn the_clamp_is_inside_the_logarithm() {
        // p = 1e-7 of class 1: unclamped it would add 1.61e-6, clamped 1.15e-6.
        let mut p = [0.0; 2];
        let entropy = softmax_entropy(&[0.0, 1e-7f32.ln()], &mut p);
        let expected = 1e-7 * (1e5f64).ln() + 1e-7;
        assert!((f64::from(entropy) - expected).abs() < 2e-7, "{entropy}");
        // Many classes far below the clamp, each adding p * 11.5.
        let mut p = [0.0; 200];
        let mut logits = [-16.0; 200];
        logits[0] = 0.0;
        let entropy = f64::from(softmax_entropy(&logits, &mut p));
        let sum = 1.0 + 199.0 * (-16f64).exp();
        let expected = sum.ln() / sum + 199.0 * (-16f64).exp() / sum * 1e5f64.ln();
        let unclamped = sum.ln() / sum + 199.0 * (-16f64).exp() / sum * (16.0 + sum.ln());
        assert!(
            (entropy - expected).abs() < 2e-6 && (entropy - unclamped).abs() > 5e-5,
            "{entropy} {expected}"
        );
    }

    #[test]
    fn argmax_takes_the_lowest_of_equals() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(argmax(&[-1.0]), 0);
        assert_eq!(argmax(&[]), 0);
    }
}
