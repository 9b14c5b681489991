//! Data-parallel training: every device computes the gradients of its share of a batch.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use burn::{optim::GradientsAccumulator, tensor::Device};

use crate::{
    Step, Task, TrainingError,
    carried::{CarriedStep, CarriedWeights},
    feed::{Epoch, SharedSource},
    guard::message,
    task::weighted_step,
};

/// The devices beside the first, each with a thread of its own that lives as long as the training.
///
/// Burn's own multi-device step gives back what the devices computed in the order in which they finished, so that
/// sums come out differently from run to run, and lets their batch norms write into the same running statistics. Here
/// the order is the devices', and the running statistics are those of the first device, as in PyTorch's
/// `DistributedDataParallel`.
pub(crate) struct Replicas<T: Task> {
    main: Device,
    others: Vec<Replica<T>>,
    /// Parts of a batch that each device computes one after the other.
    micro_batches: usize,
}

struct Replica<T> {
    work: Sender<Work<T>>,
    results: Receiver<Result<Outcome, String>>,
    device: Device,
    is_apart: bool,
}

/// What a replica computed.
enum Outcome {
    /// The gradients are on its device.
    There(Step),
    /// The first device cannot fetch them there.
    Carried(CarriedStep),
}

/// Parts of a batch for a replica.
struct Work<T> {
    task: T,
    epoch: Epoch,
    parts: Vec<Range<usize>>,
    /// Samples in the whole batch.
    whole: usize,
}

impl<T: Task> Replicas<T> {
    /// `others` with a thread for each, which takes its samples from `source`; all have autodiff. Each comes with whether
    /// it is apart: on another server than the first, so that weights and gradients have to go through this program.
    pub(crate) fn new(
        main: Device,
        others: &[(Device, bool)],
        micro_batches: usize,
        source: &SharedSource<T::Batch>,
    ) -> Self {
        let others = others.iter().map(|(device, is_apart)| Replica::new(device, *is_apart, source)).collect();
        Self { main, others, micro_batches }
    }

    /// How many parts of a batch the first device computes, and out of how many.
    pub(crate) fn parts(&self) -> (usize, usize) {
        (self.micro_batches, self.micro_batches * (1 + self.others.len()))
    }

    /// Seeds the generators of the servers beside the first, each with a function of `seed` of its own.
    pub(crate) fn seed(&self, seed: u64) {
        for (index, replica) in (1..).zip(&self.others).filter(|(_, replica)| replica.is_apart) {
            replica.device.seed(seed.wrapping_add(index));
        }
    }

    /// The gradients of the mean loss over a whole batch of `epoch` on the first device, whose own parts are `own`, and
    /// what all parts measured.
    pub(crate) fn step(
        &self,
        task: &T,
        epoch: &Epoch,
        batch: usize,
        own: Vec<T::Batch>,
    ) -> Result<Step, TrainingError> {
        let (mine, of) = self.parts();
        let whole = epoch.range(batch).len();
        let (mut busy, mut weights) = (Vec::new(), None);
        for (index, replica) in (1..).zip(&self.others) {
            // A last batch with fewer samples than devices leaves some without a share, but never the first.
            let parts = epoch.parts(batch, index * mine..(index + 1) * mine, of);
            if !parts.is_empty() {
                let task = if replica.is_apart {
                    let plain = task.valid();
                    let weights = match &weights {
                        Some(weights) => weights,
                        None => weights.insert(CarriedWeights::of(&plain)?),
                    };
                    weights.placed(plain, &replica.device.clone().inner()).train()
                } else {
                    // A copy with running statistics of its own: `fork` alone would share them.
                    task.valid().train().fork(&replica.device)
                };
                // Where the thread is gone, `finish` says so.
                let _ = replica.work.send(Work { task, epoch: epoch.clone(), parts, whole });
                busy.push(replica);
            }
        }
        let own = sum_of_parts(task, own.into_iter().map(Ok), whole)?;
        if busy.is_empty() {
            return Ok(own);
        }
        let (mut sum, mut sums) = (GradientsAccumulator::new(), own.sums);
        sum.accumulate(task, own.gradients);
        for replica in busy {
            let (gradients, measured) = match replica.finish()? {
                Outcome::There(step) => (step.gradients.to_device(&self.main, task), step.sums),
                Outcome::Carried(step) => {
                    let measured = step.sums.clone();
                    (step.gradients(task, &self.main.clone().inner()), measured)
                }
            };
            sums.join(measured);
            sum.accumulate(task, gradients);
        }
        Ok(Step { gradients: sum.grads(), sums })
    }
}

/// The gradients of the mean loss over `whole` samples, as far as these parts of them go.
fn sum_of_parts<T: Task>(
    task: &T,
    parts: impl Iterator<Item = Result<T::Batch, TrainingError>>,
    whole: usize,
) -> Result<Step, TrainingError> {
    let mut steps = parts.map(|part| weighted_step(task, part?, |samples| samples as f64 / whole as f64));
    let Some(first) = steps.next().transpose()? else {
        return Err(TrainingError::backend("expected a part of every batch, found none"));
    };
    let Some(second) = steps.next().transpose()? else { return Ok(first) };
    let (mut sum, mut sums) = (GradientsAccumulator::new(), first.sums);
    sum.accumulate(task, first.gradients);
    for step in std::iter::once(Ok(second)).chain(steps) {
        let step = step?;
        sums.join(step.sums);
        sum.accumulate(task, step.gradients);
    }
    Ok(Step { gradients: sum.grads(), sums })
}

impl<T: Task> Replica<T> {
    fn new(device: &Device, is_apart: bool, source: &SharedSource<T::Batch>) -> Self {
        let (work, tasks) = channel::<Work<T>>();
        let (sender, results) = channel();
        let (source, own) = (source.clone(), device.clone());
        thread::spawn(move || {
            while let Ok(Work { task, epoch, parts, whole }) = tasks.recv() {
                let parts = parts.into_iter();
                let batches = parts.map(|part| epoch.make(&*source, part, &own).map_err(TrainingError::Source));
                // Burn panics where a backend fails; the thread that trains turns it into an error of the run.
                let step = catch_unwind(AssertUnwindSafe(|| {
                    let step = sum_of_parts(&task, batches, whole)?;
                    if is_apart { CarriedStep::of(&task, step).map(Outcome::Carried) } else { Ok(Outcome::There(step)) }
                }));
                let step = step.map_err(|panic| message(&*panic).to_owned());
                if sender.send(step.and_then(|step| step.map_err(|error| error.to_string()))).is_err() {
                    break;
                }
            }
        });
        Self { work, results, device: device.clone(), is_apart }
    }

    fn finish(&self) -> Result<Outcome, TrainingError> {
        let step = self.results.recv().map_err(TrainingError::backend)?;
        step.map_err(|message| TrainingError::Backend(format!("on {:?}: {message}", self.device)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        Order,
        feed::Feed,
        parameters::each_number,
        source::Plan,
        tests::{Net, Table},
    };

    fn device() -> Device {
        Device::flex().autodiff()
    }

    /// The steps of an epoch in batches of 25, shared among so many devices and cut into so many micro-batches.
    fn steps(task: &Net, devices: usize, micro_batches: usize) -> Result<Vec<Step>, TrainingError> {
        steps_of(task, &vec![false; devices - 1], micro_batches, Table::new(84, 1))
    }

    /// The same with a device for each of `apart` beside the first.
    fn steps_of(task: &Net, apart: &[bool], micro_batches: usize, table: Table) -> Result<Vec<Step>, TrainingError> {
        let plan = Plan { batch_size: 25, limit: None, order: Order::Shuffled { seed: 4 } };
        let epoch = Epoch::new(plan, 1, 84);
        let source: SharedSource<_> = Arc::new(table);
        let others: Vec<_> = apart.iter().map(|&is_apart| (device(), is_apart)).collect();
        let replicas = Replicas::new(device(), &others, micro_batches, &source);
        let mut feed = Feed::new(&source, &epoch, 0, replicas.parts(), &device(), 0);
        (0..epoch.batches()).map(|batch| replicas.step(task, &epoch, batch, feed.next()?)).collect()
    }

    fn numbers(task: &Net, step: &Step) -> Vec<f64> {
        let mut numbers = Vec::new();
        each_number(task, Some(&step.gradients), |_, values| {
            numbers.extend(values);
            true
        })
        .unwrap();
        numbers
    }

    #[test]
    fn shares_of_a_batch_have_its_gradients_and_its_metrics() {
        // Without batch norm, whose statistics are those of a part.
        let task = Net::plain(&device());
        let whole = steps(&task, 1, 1).unwrap();
        for (devices, micro_batches) in [(2, 1), (3, 1), (5, 1), (1, 4), (2, 3)] {
            let shared = steps(&task, devices, micro_batches).unwrap();
            // 84 samples: three batches of 25, and nine.
            assert_eq!(shared.len(), 4);
            for (shared, whole) in shared.iter().zip(&whole) {
                let [found, wanted] = [shared, whole].map(|step| step.sums.clone().read().unwrap());
                assert_eq!((found.samples, found.sums[1]), (wanted.samples, wanted.sums[1]));
                // Sums of 25 numbers in f32, in another order.
                assert!((found.loss() / wanted.loss() - 1.0).abs() < 1e-5);
                let (found, wanted) = (numbers(&task, shared), numbers(&task, whole));
                let scale = wanted.iter().fold(0.0_f64, |largest, number| largest.max(number.abs()));
                assert!(found.len() == wanted.len() && scale > 0.0);
                assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-5 * scale));
            }
        }
    }

    #[test]
    fn the_same_devices_give_the_same_bits_whichever_is_ready_first() {
        let task = Net::new(&device());
        let all = |slow| -> Vec<_> {
            let steps = steps_of(&task, &[false; 2], 2, Table { slow, ..Table::new(84, 1) }).unwrap();
            steps.iter().map(|step| numbers(&task, step)).collect()
        };
        assert!(all(false) == all(true));
    }

    #[test]
    fn devices_that_only_the_program_reaches_give_the_same_bits() {
        let task = Net::new(&device());
        let all = |apart: &[bool]| -> Vec<_> {
            let steps = steps_of(&task, apart, 2, Table::new(84, 1)).unwrap();
            steps.iter().map(|step| numbers(&task, step)).collect()
        };
        assert!(all(&[true, false, true]) == all(&[false; 3]));
    }

    #[test]
    fn a_share_that_cannot_be_made_is_an_error_of_its_device() {
        let task = Net::new(&device());
        let missing = epoch_order_row();
        let error = steps_of(&task, &[false], 1, Table { missing: Some(missing), ..Table::new(84, 1) }).err().unwrap();
        let message = error.to_string();
        assert!(message.starts_with("training failed: on ") && message.contains("cannot be made"), "{message}");
    }

    /// The last sample of the first batch: the second device's.
    fn epoch_order_row() -> usize {
        crate::epoch_order(Order::Shuffled { seed: 4 }, 1, 84)[24]
    }
}
