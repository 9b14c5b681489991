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

impl Shares {
    /// Number of images in the whole batch.
    pub(crate) fn images(&self) -> usize {
        self.first.whole
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::{
        data::dataloader::{DataLoader, split::split_dataloader},
        module::{ModuleVisitor, Param},
        optim::GradientsParams,
        tensor::{Tensor, TensorData},
    };
    use kindling_data::{BatchLoader, DeviceSplit, Normalization, Order};
    use kindling_models::{ImageShape, MlpConfig, NetworkConfig};

    use super::*;
    use crate::tests::SHAPES;

    fn device() -> Device {
        Device::flex().autodiff()
    }

    fn model() -> Classifier {
        let shape = ImageShape { height: 10, width: 10, classes: 10 };
        let config = NetworkConfig::Mlp(MlpConfig { hidden: vec![8] });
        Classifier::new(config.init(shape, 1, &device()).unwrap(), 0.0)
    }

    /// The steps of an epoch in batches of 25, shared among so many devices.
    fn steps(model: &Classifier, devices: usize) -> Vec<Step> {
        let split = DeviceSplit::new(&SHAPES.train, Normalization::default(), &device(), None);
        let loader: Arc<dyn DataLoader<ImageBatch>> = Arc::new(BatchLoader::new(split, 25, Order::File, &device()));
        let all = vec![device(); devices];
        let slices = split_dataloader(loader, &all);
        let mut iterators: Vec<_> = slices.iter().map(|slice| slice.iter()).collect();
        let replicas = Replicas::new(device(), &all[1..]);
        let mut steps = Vec::new();
        while let Some(shares) = Replicas::next_batches(&mut iterators).unwrap() {
            steps.push(replicas.step(model, shares).unwrap());
        }
        steps
    }

    fn numbers(model: &Classifier, gradients: &GradientsParams) -> Vec<f64> {
        struct All<'a>(&'a GradientsParams, Vec<f64>);
        impl ModuleVisitor for All<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.1.extend(self.0.get::<D>(param.id).unwrap().into_data().iter::<f64>());
            }
        }
        let mut all = All(gradients, Vec::new());
        model.visit(&mut all);
        all.1
    }

    #[test]
    fn shares_of_a_batch_have_its_gradients_and_its_figures() {
        let model = model();
        let whole = steps(&model, 1);
        for devices in [2, 3, 5] {
            let shared = steps(&model, devices);
            // 84 images: three batches of 25, and nine.
            assert_eq!(shared.len(), 4);
            for (shared, whole) in shared.iter().zip(&whole) {
                let (found, wanted) = (shared.figures, whole.figures);
                assert_eq!((found.images, found.correct), (wanted.images, wanted.correct));
                // Sums of 25 numbers in f32, in another order.
                assert!((found.loss_sum / wanted.loss_sum - 1.0).abs() < 1e-5);
                let (found, wanted) = (numbers(&model, &shared.gradients), numbers(&model, &whole.gradients));
                let scale = wanted.iter().fold(0.0_f64, |largest, number| largest.max(number.abs()));
                assert!(found.len() == 898 && found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-5 * scale));
            }
        }
    }

    #[test]
    fn shares_are_added_in_the_devices_order_whichever_is_ready_first() {
        let model = model();
        // The second device takes far longer than the third.
        let [first, second, third] = [2, 4000, 2].map(|images| {
            let pixels: Vec<f32> = (0..images * 100).map(|index| (index * 31 % (images + 997)) as f32 / 5e3).collect();
            let targets: Vec<i32> = (0..images).map(|image| image % 10).collect();
            ImageBatch {
                images: Tensor::from_data(TensorData::new(pixels, [images, 1, 10, 10]), &device()),
                targets: Tensor::from_data(TensorData::new(targets, [images]), &device()),
                whole: 4004,
            }
        });
        let mut sum = GradientsAccumulator::new();
        for share in [&first, &second, &third] {
            sum.accumulate(&model, TrainStep::step(&model, share.clone()).grads);
        }
        let shares = Shares { first, others: vec![Some(second), Some(third)] };
        let step = Replicas::new(device(), &[device(), device()]).step(&model, shares).unwrap();
        assert!(numbers(&model, &step.gradients) == numbers(&model, &sum.grads()));
    }

    #[test]
    fn a_share_that_panics_is_an_error_and_the_next_batch_is_computed() {
        let batch = |targets: usize| ImageBatch {
            images: Tensor::from_data(TensorData::new(vec![0.5_f32; 200], [2, 1, 10, 10]), &device()),
            targets: Tensor::from_data(TensorData::new(vec![3; targets], [targets]), &device()),
            whole: 4,
        };
        let (model, replicas) = (model(), Replicas::new(device(), &[device()]));
        // More targets than images.
        let Err(error) = replicas.step(&model, Shares { first: batch(2), others: vec![Some(batch(3))] }) else {
            panic!("two images were compared with three targets")
        };
        assert!(error.to_string().starts_with("training failed: on "), "{error}");
        let step = replicas.step(&model, Shares { first: batch(2), others: vec![Some(batch(2))] }).unwrap();
        assert_eq!(step.figures.images, 4);
        // A device without a share adds nothing.
        let step = replicas.step(&model, Shares { first: batch(2), others: vec![None] }).unwrap();
        assert_eq!(step.figures.images, 2);
    }
}
