//! Training steps that a device records once and repeats, so that the host no longer submits their operations one by one.
//!
//! A recording is a list of kernels and of the places in memory that they read and write. What changes from step to step has
//! to be in such a place: the parameters and running statistics, the batch, the learning rate, and what the step measures.
//! What the host computes is the same in every repetition, so that an optimizer whose numbers change with the step, or
//! dropout, cannot be recorded, and nothing says so; therefore the first steps are taken both ways and compared.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::{
    backend::{Backend, BackendGraph, Dispatch},
    module::{ModuleVisitor, Param, ParamId},
    optim::GradientsParams,
    tensor::{Device, Tensor},
};
use kindling_kernels::nn::named_parameters;

use crate::{FixedBatch, Sums, Task, Totals, TrainingError, ema::Put, guard::message, training_step};

/// Steps before the recording: the first compiles, later ones take the ways and the memory that all others take.
const WARM_UPS: usize = 3;
/// Steps that are taken both ways and compared.
const COMPARED: usize = 2;

/// The recorded steps of a run, whatever its batches are.
pub(crate) trait StepGraph<T: Task> {
    /// Takes a step of plain gradient descent from `task` by repeating the recording, which the first call makes, and returns
    /// what it measured; none where the caller has to take the step and to [`compare`](Self::compare).
    ///
    /// It is called before what is random in the step is seeded.
    fn step(&mut self, task: &T, batch: &T::Batch, rate: f64) -> Result<Option<Sums>, TrainingError>;

    /// Compares a step that the caller took with its repetition, where there was one; `task` is what came of it.
    fn compare(&mut self, task: &T, sums: &Sums) -> Result<(), TrainingError>;

    /// Makes `task` the one after the last step, where that was not the caller's.
    fn refresh(&mut self, task: &mut T);
}

/// Makes what takes the steps of a task from a graph on this device.
pub(crate) type MakeGraph<T> = fn(&Device) -> Box<dyn StepGraph<T>>;

/// See [`StepGraph`].
pub(crate) struct Graph<T: Task> {
    /// Without autodiff.
    device: Device,
    recorded: Option<Recorded<T>>,
    compared: usize,
    /// What the repetition of a step that is still to be compared measured.
    found: Option<Sums>,
    newest: Newest,
}

/// Who has the newest parameters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Newest {
    Caller,
    Graph,
    Both,
}

impl<T: Task> Graph<T> {
    /// Records on `device` when the first step comes.
    pub(crate) fn new(device: &Device) -> Self {
        Self { device: device.clone().inner(), recorded: None, compared: 0, found: None, newest: Newest::Caller }
    }
}

impl<T: Task<Batch: FixedBatch>> StepGraph<T> for Graph<T> {
    fn step(&mut self, task: &T, batch: &T::Batch, rate: f64) -> Result<Option<Sums>, TrainingError> {
        let recorded = match &mut self.recorded {
            Some(recorded) => recorded,
            none => none.insert(Recorded::new(task, batch, rate, &self.device)?),
        };
        if self.newest == Newest::Caller {
            recorded.memory.set(task)?;
            self.newest = Newest::Both;
        }
        let Some(sums) = recorded.repeat(batch, rate)? else { return Ok(None) };
        if self.compared < COMPARED {
            self.found = Some(sums);
            return Ok(None);
        }
        self.newest = Newest::Graph;
        Ok(Some(sums))
    }

    fn compare(&mut self, task: &T, sums: &Sums) -> Result<(), TrainingError> {
        self.newest = Newest::Caller;
        let (Some(found), Some(recorded)) = (self.found.take(), &self.recorded) else { return Ok(()) };
        let bits = |totals: Totals| totals.sums.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        let different = if bits(found.read()?) == bits(sums.clone().read()?) {
            recorded.memory.first_other(task)?
        } else {
            Some("loss".to_owned())
        };
        if let Some(name) = different {
            return Err(refused(
                "a step that comes out the same when it is repeated from a recording",
                format!(
                    "another `{name}`; other optimizers than plain gradient descent and random layers cannot be recorded"
                ),
            ));
        }
        self.compared += 1;
        self.newest = Newest::Both;
        if self.compared == COMPARED {
            log::info!("graph: {COMPARED} steps came out the same from a recording, which takes the others");
        }
        Ok(())
    }

    fn refresh(&mut self, task: &mut T) {
        if let Some(recorded) = self.recorded.as_ref().filter(|_| self.newest == Newest::Graph) {
            *task = recorded.memory.task();
            self.newest = Newest::Both;
        }
    }
}

/// A recorded step, and the memory that it reads and writes.
struct Recorded<T: Task> {
    graph: BackendGraph<Dispatch>,
    device: Device,
    memory: Memory<T>,
}

impl<T: Task<Batch: FixedBatch>> Recorded<T> {
    /// Records a step on batches like `batch`, on `device`, which has no autodiff.
    fn new(task: &T, batch: &T::Batch, rate: f64, device: &Device) -> Result<Self, TrainingError> {
        let mut memory = Memory::new(task, batch, device)?;
        memory.set_rate(rate, device)?;
        let dispatch = device.as_dispatch();
        let record = || {
            Dispatch::graph_prepare(dispatch).map_err(TrainingError::backend)?;
            for _ in 0..WARM_UPS {
                memory.step()?;
                device.sync().map_err(TrainingError::backend)?;
            }
            Dispatch::graph_start_capture(dispatch).map_err(TrainingError::backend)?;
            memory.step()
        };
        // Burn panics where a backend fails, and a device that still records would fail in all that follows.
        let outcome = catch_unwind(AssertUnwindSafe(record))
            .unwrap_or_else(|panic| Err(TrainingError::Backend(message(&*panic).to_owned())));
        let graph = Dispatch::graph_stop_capture(dispatch).map_err(TrainingError::backend);
        let graph = outcome.and(graph).map_err(|error| {
            let said = error.to_string();
            // Burn's errors have their reason between what failed and a backtrace.
            let mut reasons = said.split("Caused by:").last().unwrap_or_default().lines().map(str::trim);
            let reason = reasons.find(|line| !line.is_empty()).unwrap_or_default();
            refused(
                "a backend and a network whose steps can be recorded (wgpu, vulkan, cuda, metal, rocm)",
                reason.to_owned(),
            )
        })?;
        memory.set(task)?;
        Ok(Self { graph, device: device.clone(), memory })
    }

    /// Takes a step on `batch` and returns what it measured; none, and no step is taken, where the batch has another shape.
    #[allow(unsafe_code)] // Burn checks nothing of what a replay writes.
    fn repeat(&mut self, batch: &T::Batch, rate: f64) -> Result<Option<Sums>, TrainingError> {
        if !self.memory.batch.overwrite(batch) {
            return Ok(None);
        }
        self.memory.set_rate(rate, &self.device)?;
        // SAFETY: all that the recorded step reads before it has written it is in `memory`, which lives as long as the graph
        // and is only ever written in place; CubeCL keeps the pages of what the step allocates for the graph. Nothing else has
        // `memory`, and it is written and read on the thread that recorded and repeats, in this order.
        unsafe { Dispatch::graph_replay(self.device.as_dispatch(), &self.graph) }.map_err(TrainingError::backend)?;
        Ok(Some(self.memory.sums.in_own_memory()))
    }
}

/// What a step reads and writes, each at a fixed place on the device; none of it has autodiff.
struct Memory<T: Task> {
    /// The task, for everything but its parameters and running statistics.
    task: T,
    /// Those, by parameter.
    values: GradientsParams,
    batch: T::Batch,
    /// `[1]`
    rate: Tensor<1>,
    sums: Sums,
}

impl<T: Task<Batch: FixedBatch>> Memory<T> {
    fn new(task: &T, batch: &T::Batch, device: &Device) -> Result<Self, TrainingError> {
        let task = task.valid();
        let mut values = Values::default();
        task.visit(&mut values);
        let values = values.0;
        let sums = training_step(&task.valid().map(&mut Put(&values)).train(), batch.clone())?.sums.in_own_memory();
        Ok(Self { task, values, batch: batch.in_own_memory(), rate: Tensor::zeros([1], device), sums })
    }

    fn set_rate(&mut self, rate: f64, device: &Device) -> Result<(), TrainingError> {
        let rate = Tensor::from_floats([rate as f32], device).cast(self.rate.dtype());
        written(self.rate.overwrite(&rate))
    }

    /// Writes the parameters and running statistics of `task`.
    fn set(&mut self, task: &T) -> Result<(), TrainingError> {
        let mut given = Values::default();
        task.valid().visit(&mut given);
        self.write(given.0)
    }

    /// Takes a step of plain gradient descent.
    fn step(&mut self) -> Result<(), TrainingError> {
        let task = self.task.valid().map(&mut Put(&self.values)).train();
        let step = training_step(&task, self.batch.clone())?;
        let mut descent = Descent { gradients: step.gradients, rate: &self.rate, stepped: GradientsParams::new() };
        // Takes what batch norms have seen into their running statistics.
        task.valid().visit(&mut descent);
        let stepped = descent.stepped;
        drop(task);
        self.write(stepped)?;
        written(self.sums.overwrite(&step.sums))
    }

    fn write(&mut self, from: GradientsParams) -> Result<(), TrainingError> {
        let mut write = Write { from, to: &mut self.values, is_possible: true };
        self.task.visit(&mut write);
        written(write.is_possible)
    }

    /// A task with parameters and running statistics of its own.
    fn task(&self) -> T {
        let mut own = Values::default();
        self.task.valid().map(&mut Put(&self.values)).visit(&mut own);
        self.task.valid().map(&mut Put(&own.0)).train()
    }

    /// The name of the first parameter or running statistic that is not the same in `task`.
    fn first_other(&self, task: &T) -> Result<Option<String>, TrainingError> {
        let mut other = Other { values: &self.values, found: Ok(None) };
        task.valid().visit(&mut other);
        let Some(id) = other.found? else { return Ok(None) };
        Ok(named_parameters(task).into_iter().find(|parameter| parameter.id == id).map(|parameter| parameter.path))
    }
}

/// Refuses a graph for a run of which one of these is true, each with what it is called in messages.
///
/// # Errors
/// With the name of the first that is true.
pub fn check_graph(properties: impl IntoIterator<Item = (&'static str, bool)>) -> Result<(), TrainingError> {
    match properties.into_iter().find(|(_, is_true)| *is_true) {
        Some((name, _)) => Err(refused(
            "plain gradient descent on one GPU, on whole batches that are not made ahead, and nothing else in a step",
            name.to_owned(),
        )),
        None => Ok(()),
    }
}

fn refused(wanted: &str, found: String) -> TrainingError {
    TrainingError::Setting { name: "graph", wanted: wanted.to_owned(), found }
}

fn written(is_possible: bool) -> Result<(), TrainingError> {
    if is_possible {
        return Ok(());
    }
    let found = "memory that cannot be written in place; train without a graph".to_owned();
    Err(refused("a step whose tensors stay where they are", found))
}

/// The parameters and running statistics of a module without autodiff, each in memory of its own.
#[derive(Default)]
struct Values(GradientsParams);

impl ModuleVisitor for Values {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.register(param.id, param.val().in_own_memory());
    }
}

/// What plain gradient descent makes of the parameters; all else as it is.
struct Descent<'a> {
    gradients: GradientsParams,
    rate: &'a Tensor<1>,
    stepped: GradientsParams,
}

impl ModuleVisitor for Descent<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let value = match self.gradients.remove::<D>(param.id) {
            // In the order of `kindling_kernels::sgd_step`.
            Some(gradient) => value - gradient * self.rate.clone().unsqueeze::<D>(),
            // A parameter may have two places in the module.
            None if self.stepped.get::<D>(param.id).is_some() => return,
            None => value,
        };
        self.stepped.register(param.id, value);
    }
}

struct Write<'a> {
    from: GradientsParams,
    to: &'a mut GradientsParams,
    is_possible: bool,
}

impl ModuleVisitor for Write<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(value) = self.from.remove::<D>(param.id) else { return };
        let Some(mut fixed) = self.to.remove::<D>(param.id) else { return };
        if !fixed.overwrite(&value) {
            // What a step leaves as it is, as what is frozen, is the memory itself.
            drop(value);
            self.is_possible &= fixed.can_mut();
        }
        self.to.register(param.id, fixed);
    }
}

struct Other<'a> {
    values: &'a GradientsParams,
    found: Result<Option<ParamId>, TrainingError>,
}

impl ModuleVisitor for Other<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (Ok(None), Some(value)) = (&self.found, self.values.get::<D>(param.id)) else { return };
        let [found, wanted] = [value, param.val()].map(|tensor| tensor.try_into_data().map_err(TrainingError::backend));
        self.found = found.and_then(|found| Ok((found.bytes() != wanted?.bytes()).then_some(param.id)));
    }
}
