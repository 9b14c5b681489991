use std::{
    mem,
    time::{Duration, Instant},
};

use burn::tensor::Device;
use kindling_kernels::is_on_host;

use crate::{Sums, Totals, TrainingError, task::read_all};

/// How often steps are read where reading makes the device wait: what is shown follows training by so much.
const PERIOD: Duration = Duration::from_millis(100);
/// The most steps that are read in one go.
const MOST: usize = 64;

/// The sums of steps that are still on their devices, each with a label, to be read in one go.
///
/// To read a tensor waits for all the work that its device was given, and leaves the device without any: steps that are read
/// one by one run no faster than that. The sums are the same whenever they are read.
#[derive(Debug)]
pub struct DeferredSums<L> {
    waiting: Vec<(L, Sums)>,
    /// How many are read in one go.
    steps: usize,
    /// Whether that depends on how long steps take.
    adapts: bool,
    /// When the last were read.
    since: Instant,
}

impl<L> DeferredSums<L> {
    /// Reads as training on `device` does: each step at once where tensors are in the program's own memory, and elsewhere as
    /// many steps as take 100 ms, one at least and 64 at most.
    #[must_use]
    pub fn new(device: &Device) -> Self {
        Self { adapts: !is_on_host(device), ..Self::every(1) }
    }

    /// Reads every `steps` steps, whatever they take.
    #[must_use]
    pub fn every(steps: usize) -> Self {
        Self { waiting: Vec::new(), steps, adapts: false, since: Instant::now() }
    }

    /// Adds the sums of a step.
    pub fn push(&mut self, label: L, sums: Sums) {
        self.waiting.push((label, sums));
    }

    /// How many steps wait to be read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether it is time to [`read`](Self::read).
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.len() >= self.steps
    }

    /// Whether a step is read before the next is taken.
    pub(crate) fn is_immediate(&self) -> bool {
        self.steps <= 1
    }

    /// Waits for the devices and takes out what waits, in order. Where nothing does, it only begins to measure steps anew.
    ///
    /// # Errors
    /// When a device fails.
    pub fn read(&mut self) -> Result<Vec<(L, Totals)>, TrainingError> {
        let (labels, sums): (Vec<_>, Vec<_>) = mem::take(&mut self.waiting).into_iter().unzip();
        let totals = read_all(&sums)?;
        if self.adapts && !labels.is_empty() {
            self.steps = next_steps(self.steps, self.since.elapsed() / labels.len() as u32);
        }
        self.since = Instant::now();
        Ok(labels.into_iter().zip(totals).collect())
    }
}

/// How many steps to read next, after so many that took `each`: at most twice as many, since few tell little.
fn next_steps(steps: usize, each: Duration) -> usize {
    let fitting = (PERIOD.as_secs_f64() / each.as_secs_f64()) as usize;
    fitting.clamp(1, MOST.min(2 * steps))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;

    use super::*;

    #[test]
    fn as_many_steps_are_read_as_take_a_tenth_of_a_second() {
        let after = |steps, microseconds| next_steps(steps, Duration::from_micros(microseconds));
        assert_eq!([1, 2, 4, 32, 64].map(|steps| after(steps, 100)), [2, 4, 8, 64, 64]);
        assert_eq!([1, 2, 64].map(|steps| after(steps, 20_000)), [2, 4, 5]);
        assert_eq!([1, 64].map(|steps| after(steps, 100_001)), [1, 1]);
        assert_eq!(after(8, 0), 16);
    }

    #[test]
    fn what_waits_is_read_in_its_order_and_on_the_host_at_once() {
        let device = Device::flex();
        let sums = |number: f32| Sums::new(2, [Tensor::from_floats([number], &device)]);
        let mut joined = sums(1.0);
        joined.join(sums(4.0));
        let mut deferred = DeferredSums::every(3);
        assert!(deferred.is_empty() && deferred.read().unwrap().is_empty());
        for (label, sums) in [("a", sums(0.5)), ("b", joined), ("c", sums(f32::NAN))] {
            assert!(!deferred.is_due());
            deferred.push(label, sums);
        }
        assert!(deferred.is_due());
        let read = deferred.read().unwrap();
        let found: Vec<_> = read.iter().map(|(label, totals)| (*label, totals.samples, totals.loss())).collect();
        assert_eq!(found[..2], [("a", 2, 0.25), ("b", 4, 1.25)]);
        assert!(found[2].0 == "c" && found[2].2.is_nan());
        let mut immediate = DeferredSums::new(&device);
        immediate.push((), sums(0.5));
        assert!(immediate.is_due() && immediate.read().unwrap().len() == 1 && immediate.is_immediate());
    }
}
