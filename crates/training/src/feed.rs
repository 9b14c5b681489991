//! The batches of an epoch, cut into the parts that devices and gradient accumulation take.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

use burn::tensor::Device;

use crate::{
    SourceError, TrainingError,
    guard::message,
    source::{Plan, Rows, Source},
};

/// Batches that each worker may be ahead.
const AHEAD: usize = 2;

/// A source that several threads take batches from.
pub(crate) type SharedSource<B> = Arc<dyn Source<Batch = B>>;

/// The samples of one epoch, and where its batches begin and end.
#[derive(Clone)]
pub(crate) struct Epoch {
    rows: Arc<[usize]>,
    plan: Plan,
    /// From 1; 0 in evaluations.
    number: usize,
}

impl Epoch {
    /// Of a source with `count` samples.
    pub(crate) fn new(plan: Plan, number: usize, count: usize) -> Self {
        Self { rows: plan.rows(number, count).into(), plan, number }
    }

    /// Number of batches.
    pub(crate) fn batches(&self) -> usize {
        self.rows.len().div_ceil(self.plan.batch_size)
    }

    /// Number of samples.
    pub(crate) fn samples(&self) -> usize {
        self.rows.len()
    }

    /// Where the batch of this index is in the epoch.
    pub(crate) fn range(&self, batch: usize) -> Range<usize> {
        self.plan.range(batch, self.rows.len())
    }

    /// Makes the samples at `range` of the epoch into a batch.
    pub(crate) fn make<B>(
        &self,
        source: &dyn Source<Batch = B>,
        range: Range<usize>,
        device: &Device,
    ) -> Result<B, SourceError> {
        source.batch(&Rows::part(&self.rows, range, self.number), device)
    }

    /// The parts `parts` out of `of` of a batch, without those that get nothing. Neighbouring parts meet, and the first get
    /// what is left over.
    pub(crate) fn parts(&self, batch: usize, parts: Range<usize>, of: usize) -> Vec<Range<usize>> {
        let Range { start, end } = self.range(batch);
        let at = |part: usize| start + ((end - start) * part).div_ceil(of);
        parts.map(|part| at(part)..at(part + 1)).filter(|range| !range.is_empty()).collect()
    }
}

/// The first device's parts of an epoch's batches, one batch after the other.
pub(crate) enum Feed<B> {
    /// Made when they are asked for.
    Inline { make: Box<dyn Fn(usize) -> Result<Vec<B>, SourceError>>, next: usize },
    /// Made ahead by threads that take turns.
    Threads { workers: Vec<Receiver<Result<Vec<B>, SourceError>>>, next: usize },
}

impl<B: Send + 'static> Feed<B> {
    /// Begins with the batch of index `first`; the first `parts` of `of` are the device's. With `workers`, threads make
    /// batches ahead.
    pub(crate) fn new(
        source: &SharedSource<B>,
        epoch: &Epoch,
        first: usize,
        (parts, of): (usize, usize),
        device: &Device,
        workers: usize,
    ) -> Self {
        let make = {
            let (source, epoch, device) = (source.clone(), epoch.clone(), device.clone());
            move |batch: usize| -> Result<Vec<B>, SourceError> {
                let ranges = epoch.parts(batch, 0..parts, of).into_iter();
                ranges.map(|range| epoch.make(&*source, range, &device)).collect()
            }
        };
        if workers == 0 {
            return Self::Inline { make: Box::new(make), next: first };
        }
        let count = epoch.batches();
        let spawn = |worker: usize| {
            let (sender, receiver) = sync_channel(AHEAD);
            let make = make.clone();
            thread::spawn(move || {
                for batch in (first + worker..count).step_by(workers) {
                    let parts = catch_unwind(AssertUnwindSafe(|| make(batch)));
                    let parts = parts.unwrap_or_else(|panic| Err(message(&*panic).into()));
                    // Nobody waits for it where the epoch was left.
                    if sender.send(parts).is_err() {
                        break;
                    }
                }
            });
            receiver
        };
        Self::Threads { workers: (0..workers).map(spawn).collect(), next: 0 }
    }

    /// The parts of the next batch, which there must be.
    pub(crate) fn next(&mut self) -> Result<Vec<B>, TrainingError> {
        let made = match self {
            Self::Inline { make, next } => {
                *next += 1;
                make(*next - 1)
            }
            Self::Threads { workers, next } => {
                *next += 1;
                workers[(*next - 1) % workers.len()].recv().map_err(TrainingError::backend)?
            }
        };
        made.map_err(TrainingError::Source)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Order;

    /// Samples that are their numbers; the thirteenth cannot be read.
    struct Numbers(usize);

    impl Source for Numbers {
        type Batch = Vec<usize>;

        fn len(&self) -> usize {
            self.0
        }

        fn digest(&self) -> String {
            self.0.to_string()
        }

        fn batch(&self, rows: &Rows<'_>, _device: &Device) -> Result<Vec<usize>, SourceError> {
            if rows.contains(&13) && self.0 == 20 { Err("13 is missing".into()) } else { Ok(rows.to_vec()) }
        }
    }

    fn epoch(count: usize, batch_size: usize) -> Epoch {
        Epoch::new(Plan { batch_size, limit: None, order: Order::Shuffled { seed: 5 } }, 2, count)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn parts_share_every_batch_among_them(
            count in 1_usize..90, batch_size in 1_usize..40, of in 1_usize..6, cut in 0_usize..6,
        ) {
            let (epoch, cut) = (epoch(count, batch_size), cut.min(of));
            for batch in 0..epoch.batches() {
                let parts = [epoch.parts(batch, 0..cut, of), epoch.parts(batch, cut..of, of)].concat();
                let joined: Vec<usize> = parts.iter().cloned().flatten().collect();
                prop_assert_eq!(joined, epoch.range(batch).collect::<Vec<_>>());
                prop_assert!(parts.len() <= of && epoch.parts(batch, 0..1, of).len() == 1);
            }
        }

        #[test]
        fn workers_give_the_batches_of_the_epoch_in_its_order(
            count in 21_usize..90, batch_size in 1_usize..40, first in 0_usize..3, workers in 1_usize..5,
        ) {
            let (epoch, source) = (epoch(count, batch_size), Arc::new(Numbers(count)) as SharedSource<_>);
            let device = Device::flex();
            let first = first.min(epoch.batches());
            let mut inline = Feed::new(&source, &epoch, first, (1, 2), &device, 0);
            let mut ahead = Feed::new(&source, &epoch, first, (1, 2), &device, workers);
            for _ in first..epoch.batches() {
                prop_assert_eq!(inline.next().unwrap(), ahead.next().unwrap());
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error_of_its_batch_with_workers_as_without() {
        let (epoch, source) = (epoch(20, 4), Arc::new(Numbers(20)) as SharedSource<_>);
        for workers in [0, 2] {
            let mut feed = Feed::new(&source, &epoch, 0, (1, 1), &Device::flex(), workers);
            let results: Vec<_> = (0..5).map(|_| feed.next()).collect();
            assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
            let error = results.into_iter().find_map(Result::err).unwrap().to_string();
            assert_eq!(error, "a batch cannot be made: 13 is missing");
        }
    }
}
