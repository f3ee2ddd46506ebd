//! Cross-entropy of next-token predictions, with its gradient in place of the logits.

use rayon::prelude::*;

use super::vector::{exp_in_place, max, vectorised};

/// Writes `−ln softmax(logits)[target]` of each row to `losses`, in nats.
///
/// Where `gradient_scale` is given, each row of `logits` (`[targets, vocab]`) is replaced by the
/// gradient of its loss times the scale.
pub(in crate::trainer) fn cross_entropy(
    losses: &mut [f32],
    logits: &mut [f32],
    targets: &[u32],
    gradient_scale: Option<f32>,
) {
    let vocab = logits.len() / targets.len();
    logits
        .par_chunks_exact_mut(vocab)
        .zip(losses)
        .zip(targets)
        .for_each(|((row, loss), &target)| *loss = row_loss(row, target as usize, gradient_scale));
}

vectorised! {
    fn row_loss(row: &mut [f32], target: usize, gradient_scale: Option<f32>) -> f32 {
        let largest = max(row);
        let at_target = row[target];
        let sum = exp_in_place(row, largest);
        if let Some(scale) = gradient_scale {
            let factor = scale / sum;
            for p in row.iter_mut() {
                *p *= factor;
            }
            row[target] -= scale;
        }
        sum.ln() + largest - at_target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_and_gradient_of_three_classes() {
        let mut logits = [1.0f32, 2.0, 3.0];
        let mut loss = [0.0];
        cross_entropy(&mut loss, &mut logits, &[0], Some(2.0));
        // ln(e + e² + e³) − 1 = 2.407605964...
        assert!((loss[0] - 2.407_606).abs() < 1e-6, "{loss:?}");
        let want = [
            2.0 * (0.090_030_57 - 1.0),
            2.0 * 0.244_728_47,
            2.0 * 0.665_240_96,
        ];
        for (got, want) in logits.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-6, "{got} {want}");
        }
    }
}
