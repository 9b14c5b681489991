//! Data-parallel training: every device computes the gradients of its share of a batch.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use burn::{
    data::dataloader::DataLoaderIterator,
    module::Module,
    optim::GradientsAccumulator,
    tensor::Device,
    train::{TrainOutput, TrainStep},
};
use kindling_data::ImageBatch;

use crate::{BatchFigures, BatchOutput, Classifier, TrainingError, run::message};

/// The devices beside the first, each with a thread of its own that lives as long as the training.
///
/// Burn's own multi-device step gives back what the devices computed in the order in which they finished, so that
/// sums come out differently from run to run, and lets their batch norms write into the same running statistics. Here
/// the order is the devices', and the running statistics are those of the first device, as in PyTorch's
/// `DistributedDataParallel`.
pub(crate) struct Replicas {
    main: Device,
    others: Vec<Replica>,
}

struct Replica {
    work: Sender<(Classifier, ImageBatch)>,
    results: Receiver<Result<TrainOutput<BatchOutput>, String>>,
    device: Device,
}

/// One batch, shared among the devices in their order.
pub(crate) struct Shares {
    first: ImageBatch,
    others: Vec<Option<ImageBatch>>,
}

/// One step's gradients and figures.
pub(crate) struct Step {
    /// Of the mean loss over the whole batch, on the first device.
    pub(crate) gradients: burn::optim::GradientsParams,
    pub(crate) figures: BatchFigures,
}

impl Replicas {
    /// `others` with a thread for each; all have autodiff.
    pub(crate) fn new(main: Device, others: &[Device]) -> Self {
        Self { main, others: others.iter().map(Replica::new).collect() }
    }

    /// Every device's share of the next batch; nothing when the epoch is over.
    ///
    /// A last batch with fewer images than devices leaves some without a share, but never the first.
    pub(crate) fn next_batches(
        iterators: &mut [Box<dyn DataLoaderIterator<ImageBatch> + '_>],
    ) -> Result<Option<Shares>, TrainingError> {
        let mut shares = iterators.iter_mut().map(|shares| shares.next().transpose().map_err(TrainingError::backend));
        let Some(first) = shares.next().transpose()?.flatten() else { return Ok(None) };
        Ok(Some(Shares { first, others: shares.collect::<Result<_, _>>()? }))
    }

    /// Gradients and figures of one batch.
    pub(crate) fn step(&self, model: &Classifier, Shares { first, others }: Shares) -> Result<Step, TrainingError> {
        let shares = self.others.iter().zip(others);
        let busy: Vec<_> = shares.filter_map(|(replica, batch)| Some(replica.start(model, batch?))).collect();
        let output = TrainStep::step(model, first);
        let mut figures = output.item.read().map_err(TrainingError::backend)?;
        if busy.is_empty() {
            return Ok(Step { gradients: output.grads, figures });
        }
        let mut sum = GradientsAccumulator::new();
        sum.accumulate(model, output.grads);
        for replica in busy {
            let output = replica.finish()?;
            figures.add(&output.item.read().map_err(TrainingError::backend)?);
            sum.accumulate(model, output.grads.to_device(&self.main, model));
        }
        Ok(Step { gradients: sum.grads(), figures })
    }
}

impl Replica {
    fn new(device: &Device) -> Self {
        let (work, tasks) = channel::<(Classifier, ImageBatch)>();
        let (sender, results) = channel();
        thread::spawn(move || {
            while let Ok((model, batch)) = tasks.recv() {
                // Burn panics where a backend fails; the thread that trains turns it into an error of the run.
                let output = catch_unwind(AssertUnwindSafe(|| TrainStep::step(&model, batch)));
                if sender.send(output.map_err(|panic| message(&*panic).to_owned())).is_err() {
                    break;
                }
            }
        });
        Self { work, results, device: device.clone() }
    }

    fn start(&self, model: &Classifier, batch: ImageBatch) -> &Self {
        // A copy with running statistics of its own: `fork` alone would share them.
        let copy = model.valid().train().fork(&self.device);
        // Where the thread is gone, `finish` says so.
        let _ = self.work.send((copy, batch));
        self
    }

    fn finish(&self) -> Result<TrainOutput<BatchOutput>, TrainingError> {
        let output = self.results.recv().map_err(TrainingError::backend)?;
        output.map_err(|message| TrainingError::Backend(format!("on {:?}: {message}", self.device)))
    }
}
