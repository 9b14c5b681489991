use std::fmt;

use serde::{Deserialize, Serialize};

/// Values of the same metric from several runs: their mean, how far they spread, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The mean.
    pub mean: f64,
    /// The standard deviation with divisor n - 1; none for a single value.
    pub std: Option<f64>,
    /// How many values.
    pub n: usize,
}

impl Sample {
    /// Of `values`; nothing where there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self { mean, std: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()), n })
    }

    /// As in `0.8743 ± 0.0031 (n = 3)`, with the given number of decimals.
    #[must_use]
    pub fn fixed(&self, decimals: usize) -> String {
        let n = self.n;
        match self.std {
            Some(std) => format!("{:.decimals$} ± {std:.decimals$} (n = {n})", self.mean),
            None => format!("{:.decimals$} (n = 1)", self.mean),
        }
    }

    /// Fractions as percentages: `87.43 ± 0.31 % (n = 3)`.
    #[must_use]
    pub fn percent(&self) -> String {
        let scaled = Self { mean: self.mean * 100.0, std: self.std.map(|d| d * 100.0), n: self.n };
        match scaled.std {
            Some(std) => format!("{:.2} ± {std:.2} % (n = {})", scaled.mean, self.n),
            None => format!("{:.2} % (n = 1)", scaled.mean),
        }
    }
}

/// The median; NaN of no values.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.fixed(4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        // statistics.stdev([2, 4, 4, 4, 5, 5, 7, 9]) in Python.
        let sample = Sample::of([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert!((sample.std.unwrap() - 2.138_089_935_299_395).abs() < 1e-12);
        assert_eq!((sample.mean, sample.n), (5.0, 8));
    }

    #[test]
    fn a_single_value_has_no_deviation_and_says_so() {
        let sample = Sample::of([0.875]).unwrap();
        assert_eq!((sample.fixed(3), sample.percent()), ("0.875 (n = 1)".to_owned(), "87.50 % (n = 1)".to_owned()));
        assert_eq!(Sample::of([]), None);
    }

    #[test]
    fn the_median_is_the_middle_one_or_the_mean_of_two() {
        let close = |found: f64, expected: f64| (found - expected).abs() < 1e-12;
        assert!(close(median([3.0, 1.0, 2.0]), 2.0));
        assert!(close(median([4.0, 1.0, 2.0, 3.0]), 2.5));
        assert!(median([]).is_nan());
    }
}
