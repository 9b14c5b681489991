use std::fmt;

/// Figures of the same thing from several runs: their mean, how far they spread, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The mean.
    pub mean: f64,
    /// The standard deviation with divisor n - 1; none for a single figure.
    pub deviation: Option<f64>,
    /// How many figures.
    pub n: usize,
}

impl Sample {
    /// Of `figures`; nothing where there are none.
    #[must_use]
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let figures: Vec<f64> = figures.into_iter().collect();
        let n = figures.len();
        if n == 0 {
            return None;
        }
        let mean = figures.iter().sum::<f64>() / n as f64;
        let squares: f64 = figures.iter().map(|figure| (figure - mean).powi(2)).sum();
        Some(Self { mean, deviation: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()), n })
    }

    /// As in `0.8743 ± 0.0031 (n = 3)`, with the given number of decimals.
    #[must_use]
    pub fn fixed(&self, decimals: usize) -> String {
        let n = self.n;
        match self.deviation {
            Some(deviation) => format!("{:.decimals$} ± {deviation:.decimals$} (n = {n})", self.mean),
            None => format!("{:.decimals$} (n = 1)", self.mean),
        }
    }

    /// Fractions as percentages: `87.43 ± 0.31 % (n = 3)`.
    #[must_use]
    pub fn percent(&self) -> String {
        let scaled = Self { mean: self.mean * 100.0, deviation: self.deviation.map(|d| d * 100.0), n: self.n };
        match scaled.deviation {
            Some(deviation) => format!("{:.2} ± {deviation:.2} % (n = {})", scaled.mean, self.n),
            None => format!("{:.2} % (n = 1)", scaled.mean),
        }
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
        assert!((sample.deviation.unwrap() - 2.138_089_935_299_395).abs() < 1e-12);
        assert_eq!((sample.mean, sample.n), (5.0, 8));
    }

    #[test]
    fn a_single_figure_has_no_deviation_and_says_so() {
        let sample = Sample::of([0.875]).unwrap();
        assert_eq!((sample.fixed(3), sample.percent()), ("0.875 (n = 1)".to_owned(), "87.50 % (n = 1)".to_owned()));
        assert_eq!(Sample::of([]), None);
    }
}
