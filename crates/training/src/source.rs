use std::{
    fmt::{self, Write},
    ops::{Deref, Range},
    sync::{Arc, OnceLock},
};

use burn::{
    data::{dataloader::batcher::Batcher, dataset::Dataset},
    tensor::Device,
};
use sha2::{Digest, Sha256};

use crate::{Order, TrainingError, epoch_order, error::SourceError};

/// Where batches come from: samples by number.
///
/// A batch is a function of its rows, so that a run is repeated and resumed exactly, however many threads or devices ask.
pub trait Source: Send + Sync {
    /// The input of a training or evaluation step.
    type Batch;

    /// Number of samples.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A text that differs where the samples do: a resume compares it.
    fn digest(&self) -> String;

    /// Makes the batch of these rows on `device`, which has autodiff in training.
    ///
    /// # Errors
    /// When a sample cannot be read.
    fn batch(&self, rows: &Rows<'_>, device: &Device) -> Result<Self::Batch, SourceError>;
}

impl<S: Source + ?Sized> Source for Arc<S> {
    type Batch = S::Batch;

    fn len(&self) -> usize {
        (**self).len()
    }

    fn digest(&self) -> String {
        (**self).digest()
    }

    fn batch(&self, rows: &Rows<'_>, device: &Device) -> Result<Self::Batch, SourceError> {
        (**self).batch(rows, device)
    }
}

/// Which samples a batch has, by their numbers from 0; it can be read as a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_field_names)] // They are the rows.
pub struct Rows<'a> {
    rows: &'a [usize],
    epoch: usize,
    /// The rows of the whole epoch, and where these begin among them.
    whole: Option<(&'a Arc<[usize]>, usize)>,
}

impl<'a> Rows<'a> {
    /// These samples in epoch `epoch`, from 1; 0 where they are evaluated.
    #[must_use]
    pub fn new(rows: &'a [usize], epoch: usize) -> Self {
        Self { rows, epoch, whole: None }
    }

    /// The samples at `range` of an epoch that has the samples `rows`, in their order; numbered as for [`new`](Self::new).
    ///
    /// # Panics
    /// When the epoch ends before `range` does.
    #[must_use]
    pub fn part(rows: &'a Arc<[usize]>, range: Range<usize>, epoch: usize) -> Self {
        let start = range.start;
        Self { rows: &rows[range], epoch, whole: Some((rows, start)) }
    }

    /// The samples of the whole epoch in their order, and where these begin among them; none where they are no part of one.
    /// A source that gathers on a device may keep the order there for as long as the epoch is the same.
    #[must_use]
    pub fn whole(&self) -> Option<(&'a Arc<[usize]>, usize)> {
        self.whole
    }

    /// The epoch that is trained, from 1; 0 in evaluations. Random changes of a sample are to be functions of it and of the sample's number.
    #[must_use]
    pub fn epoch(&self) -> usize {
        self.epoch
    }

    /// The samples as a range, where each follows the one before.
    #[must_use]
    pub fn range(&self) -> Option<Range<usize>> {
        let start = *self.rows.first()?;
        let is_range = self.rows.iter().enumerate().all(|(index, &row)| row == start + index);
        is_range.then(|| start..start + self.rows.len())
    }
}

impl Deref for Rows<'_> {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        self.rows
    }
}

/// The batches of one epoch of `source` outside the training loop: what an evaluation goes through.
///
/// The last batch holds what is left; `limit` ends the epoch after so many batches.
///
/// # Panics
/// When `batch_size` is zero.
pub fn batches<'a, S: Source + ?Sized>(
    source: &'a S,
    batch_size: usize,
    limit: Option<usize>,
    order: Order,
    epoch: usize,
    device: &'a Device,
) -> impl Iterator<Item = Result<S::Batch, TrainingError>> + use<'a, S> {
    let plan = Plan { batch_size, limit, order };
    let rows: Arc<[usize]> = plan.rows(epoch, source.len()).into();
    let count = rows.len().div_ceil(batch_size);
    (0..count).map(move |index| {
        let rows = Rows::part(&rows, plan.range(index, rows.len()), epoch);
        source.batch(&rows, device).map_err(TrainingError::Source)
    })
}

/// How an epoch is cut into batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) batch_size: usize,
    pub(crate) limit: Option<usize>,
    pub(crate) order: Order,
}

impl Plan {
    /// Samples of an epoch of a source that has so many.
    pub(crate) fn samples(&self, count: usize) -> usize {
        count.min(self.limit.map_or(usize::MAX, |batches| batches.saturating_mul(self.batch_size)))
    }

    /// The samples of an epoch in their order.
    pub(crate) fn rows(&self, epoch: usize, count: usize) -> Vec<usize> {
        let mut rows = epoch_order(self.order, epoch, count);
        rows.truncate(self.samples(count));
        rows
    }

    /// Where the batch of this index, from 0, is in the rows of an epoch.
    pub(crate) fn range(&self, index: usize, rows: usize) -> Range<usize> {
        let start = index.saturating_mul(self.batch_size).min(rows);
        start..start.saturating_add(self.batch_size).min(rows)
    }
}

/// Any of Burn's data sets with a batcher.
///
/// Burn's own loader gives batches in the order in which its workers finish; here their order is the run's, and
/// [`Trainer::workers`](crate::Trainer::workers) decodes ahead.
pub struct DatasetSource<I, O> {
    dataset: Box<dyn Dataset<I>>,
    batcher: Box<dyn Batcher<I, O>>,
    digest: OnceLock<String>,
}

/// The most items whose content goes into a digest.
const DIGESTED: usize = 1000;

impl<I, O> DatasetSource<I, O> {
    /// Creates a source from a data set and a batcher.
    #[must_use]
    pub fn new(dataset: impl Dataset<I> + 'static, batcher: impl Batcher<I, O> + 'static) -> Self {
        Self { dataset: Box::new(dataset), batcher: Box::new(batcher), digest: OnceLock::new() }
    }
}

impl<I: fmt::Debug, O> Source for DatasetSource<I, O> {
    type Batch = O;

    fn len(&self) -> usize {
        self.dataset.len()
    }

    /// SHA-256 over the number of items and the debug text of at most 1,000 of them, evenly spaced.
    fn digest(&self) -> String {
        let digest = || {
            let count = self.dataset.len();
            let mut text = Hashed(Sha256::new_with_prefix(count.to_le_bytes()));
            for place in 0..count.min(DIGESTED) {
                // What cannot be read is an error of its batch.
                let _ = write!(text, "{:?}", self.dataset.get(place * count / count.min(DIGESTED)).ok());
            }
            hexadecimal(&text.0.finalize())
        };
        self.digest.get_or_init(digest).clone()
    }

    fn batch(&self, rows: &Rows<'_>, device: &Device) -> Result<O, SourceError> {
        let items = rows.iter().map(|&row| self.dataset.get(row)).collect::<Result<Vec<_>, _>>()?;
        Ok(self.batcher.batch(items, device))
    }
}

/// A digest's bytes as text.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Hashes what is written to it.
struct Hashed(Sha256);

impl Write for Hashed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use burn::data::dataset::InMemDataset;

    use super::*;

    /// Collects its items.
    #[derive(Clone)]
    struct Collect;

    impl Batcher<f32, Vec<f32>> for Collect {
        fn batch(&self, items: Vec<f32>, _device: &Device) -> Vec<f32> {
            items
        }
    }

    fn source(count: usize) -> DatasetSource<f32, Vec<f32>> {
        DatasetSource::new(InMemDataset::new((0..count).map(|item| item as f32).collect()), Collect)
    }

    #[test]
    fn an_epoch_has_every_sample_once_in_its_order_and_a_limit_ends_it() {
        let (device, order) = (Device::flex(), Order::Shuffled { seed: 3 });
        let epoch = |limit| batches(&source(10), 4, limit, order, 2, &device).map(Result::unwrap).collect::<Vec<_>>();
        let whole = epoch(None);
        assert_eq!(whole.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        let expected: Vec<f32> = epoch_order(order, 2, 10).iter().map(|&row| row as f32).collect();
        assert_eq!(whole.concat(), expected);
        assert_eq!(epoch(Some(2)), whole[..2]);
        assert_eq!(epoch(Some(usize::MAX)), whole);
    }

    #[test]
    fn digests_differ_where_items_do() {
        let other = DatasetSource::<f32, Vec<f32>>::new(InMemDataset::new(vec![0.0, 1.0, 2.5]), Collect);
        assert_eq!(source(3).digest(), source(3).digest());
        assert!(source(3).digest() != source(4).digest() && source(3).digest() != other.digest());
        assert_eq!(source(0).digest().len(), 64);
    }

    #[test]
    fn neighbours_are_a_range() {
        assert_eq!(Rows::new(&[3, 4, 5], 1).range(), Some(3..6));
        assert_eq!(Rows::new(&[3, 5], 1).range(), None);
        assert_eq!(Rows::new(&[], 1).range(), None);
    }
}
