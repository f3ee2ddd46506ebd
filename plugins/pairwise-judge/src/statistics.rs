//! Means and their uncertainty.

/// 97.5 % of the normal distribution lies below it.
pub(crate) const Z: f64 = 1.959_963_984_540_054;

/// The mean of `values` with its standard error, `sd / sqrt(n)` with the standard deviation over
/// `n - 1`; no standard error for one value, nothing for none.
pub(crate) fn mean(values: &[f64]) -> Option<(f64, Option<f64>)> {
    let n = values.len() as f64;
    if values.is_empty() {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let standard_error = (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
    Some((mean, standard_error))
}

/// The lower end of the 95 % score interval for a proportion (Wilson, 1927), which stays honest
/// where few observations all agree.
pub(crate) fn wilson_lower_bound(proportion: f64, n: usize) -> f64 {
    let n = n as f64;
    let z2 = Z * Z;
    let centre = proportion + z2 / (2.0 * n);
    let margin = Z * (proportion * (1.0 - proportion) / n + z2 / (4.0 * n * n)).sqrt();
    (centre - margin) / (1.0 + z2 / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_has_the_standard_error_of_a_sample() {
        // Python: statistics.stdev([1, 2, 4]) / 3**.5
        let (mean_of_three, error) = mean(&[1.0, 2.0, 4.0]).unwrap();
        assert!((mean_of_three - 7.0 / 3.0).abs() < 1e-12);
        assert!((error.unwrap() - 0.881_917_103_688_197).abs() < 1e-12);
        assert_eq!(mean(&[3.0]), Some((3.0, None)));
        assert_eq!(mean(&[]), None);
    }

    #[test]
    fn few_observations_that_agree_prove_little() {
        // scipy: binomtest(successes, n).proportion_ci(method="wilson").low
        for (proportion, n, bound) in [
            (1.0, 3, 0.438_503),
            (1.0, 4, 0.510_109_2),
            (0.8, 50, 0.669_628_9),
        ] {
            let found = wilson_lower_bound(proportion, n);
            assert!((found - bound).abs() < 1e-6, "{found}");
        }
    }
}
