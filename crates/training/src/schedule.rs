use std::{f64::consts::PI, fmt};

use burn::{
    lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler},
    module::ParamGroup,
};

/// PyTorch's defaults for `OneCycleLR`.
const RISING_SHARE: f64 = 0.3;
const START_DIVISOR: f64 = 25.0;
const END_DIVISOR: f64 = 1e4;

/// How the learning rate changes: a pure function of the step, so a resumed run needs no state of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    shape: Shape,
    warm_up_epochs: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Constant,
    Step { epochs: usize, factor: f64 },
    Cosine,
    Linear,
    WarmRestarts { epochs: usize, factor: usize },
    OneCycle,
}

impl Schedule {
    /// It stays the same.
    #[must_use]
    pub fn constant() -> Self {
        Self { shape: Shape::Constant, warm_up_epochs: 0 }
    }

    /// It is multiplied by `factor` after every `epochs` epochs.
    #[must_use]
    pub fn step(epochs: usize, factor: f64) -> Self {
        Self { shape: Shape::Step { epochs, factor }, warm_up_epochs: 0 }
    }

    /// It falls to zero along half a cosine (Loshchilov and Hutter, <https://arxiv.org/abs/1608.03983>, without restarts).
    #[must_use]
    pub fn cosine() -> Self {
        Self { shape: Shape::Cosine, warm_up_epochs: 0 }
    }

    /// It falls to zero along a line.
    #[must_use]
    pub fn linear() -> Self {
        Self { shape: Shape::Linear, warm_up_epochs: 0 }
    }

    /// PyTorch's `CosineAnnealingWarmRestarts`, stepped with each batch: it falls to zero along half a cosine in
    /// `epochs` epochs, and again in `factor` times as many as before (at least as many), and so on. These count from
    /// the end of a warm-up.
    #[must_use]
    pub fn warm_restarts(epochs: usize, factor: usize) -> Self {
        Self { shape: Shape::WarmRestarts { epochs, factor: factor.max(1) }, warm_up_epochs: 0 }
    }

    /// PyTorch's `OneCycleLR`: it rises from a 25th over 30 % of the steps and falls to a ten-thousandth of that.
    #[must_use]
    pub fn one_cycle() -> Self {
        Self { shape: Shape::OneCycle, warm_up_epochs: 0 }
    }

    /// The same after `epochs` epochs in which it rises from zero; with [`one_cycle`](Self::one_cycle) in place of its
    /// own start.
    #[must_use]
    pub fn warm_up(self, epochs: usize) -> Self {
        Self { warm_up_epochs: epochs, ..self }
    }

    /// What the learning rate is multiplied by in step `step`, counted from 1 over a run of `epochs` epochs of `batches`
    /// steps.
    #[must_use]
    pub fn factor(&self, step: usize, batches: usize, epochs: usize) -> f64 {
        let done = step as f64 - 1.0;
        let (total, warm_up) = ((epochs * batches) as f64, (self.warm_up_epochs * batches) as f64);
        if done < warm_up {
            return (done + 1.0) / warm_up;
        }
        match self.shape {
            Shape::Constant => 1.0,
            Shape::Step { epochs, factor } => factor.powf((done / (epochs * batches) as f64).floor()),
            Shape::Cosine => between(1.0, 0.0, (done - warm_up) / (total - warm_up)),
            Shape::Linear => 1.0 - (done - warm_up) / (total - warm_up),
            Shape::WarmRestarts { epochs, factor } => {
                let steps = step - 1 - self.warm_up_epochs * batches;
                between(1.0, 0.0, share_since_restart(steps, epochs.saturating_mul(batches).max(1), factor))
            }
            Shape::OneCycle => {
                let (start, peak) = (1.0 / START_DIVISOR, RISING_SHARE * total - 1.0);
                if done <= peak {
                    between(start, 1.0, done / peak)
                } else {
                    between(1.0, start / END_DIVISOR, (done - peak) / (total - 1.0 - peak))
                }
            }
        }
    }

    /// Whether the steps so far would have been others in a longer run.
    fn depends_on_epochs(&self) -> bool {
        matches!(self.shape, Shape::Cosine | Shape::Linear | Shape::OneCycle)
    }
}

/// Goes from `start` to `end` along half a cosine as `share` goes from 0 to 1.
fn between(start: f64, end: f64, share: f64) -> f64 {
    end + (start - end) / 2.0 * (1.0 + (PI * share).cos())
}

/// Returns the share of the steps from the latest restart to the next that are done after `steps` steps, where the
/// first restart is after `length` steps, and each next one after `factor` times as many as the one before.
fn share_since_restart(steps: usize, mut length: usize, factor: usize) -> f64 {
    let mut since = if factor == 1 { steps % length } else { steps };
    while since >= length {
        since -= length;
        length = length.saturating_mul(factor);
    }
    since as f64 / length as f64
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.shape {
            Shape::Constant => "constant",
            Shape::Step { .. } => "step",
            Shape::Cosine => "cosine",
            Shape::Linear => "linear",
            Shape::WarmRestarts { .. } => "warm-restarts",
            Shape::OneCycle => "one-cycle",
        })
    }
}

/// The learning rates of a step before the schedule, one for each group of parameters.
#[derive(Clone, Debug)]
pub struct LearningRates {
    base: f64,
    groups: Vec<(ParamGroup, f64)>,
    pub(crate) shown: f64,
}

impl From<f64> for LearningRates {
    fn from(rate: f64) -> Self {
        Self { base: rate, groups: Vec::new(), shown: rate }
    }
}

impl LearningRates {
    /// The same with a rate of its own for `group`, whose paths are those in the task.
    #[must_use]
    pub fn with_group(mut self, group: ParamGroup, rate: f64) -> Self {
        self.groups.push((group, rate));
        self
    }

    /// The same with the rate that records and the dashboard show.
    #[must_use]
    pub fn shown_as(self, rate: f64) -> Self {
        Self { shown: rate, ..self }
    }

    /// All rates times `factor`, as optimizers take them.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> ModuleLearningRate {
        if self.groups.is_empty() {
            return (self.base * factor).into();
        }
        let base = ModuleLrScheduler::new(self.base * factor);
        let groups = self.groups.iter().cloned();
        groups.fold(base, |rates, (group, rate)| rates.with_group(group, rate * factor)).step()
    }
}

/// What decides the learning rate of a step: a [`Schedule`] that multiplies the trainer's rates, or one of Burn's
/// schedulers, which gives rates of its own.
#[derive(Clone)]
pub enum RateSchedule {
    /// Multiplies the trainer's learning rates.
    Factor(Schedule),
    /// Gives the learning rates, as the `init` of a scheduler's config makes it; a resume calls it for every step that was taken.
    Burn(ModuleLrScheduler),
}

impl fmt::Display for RateSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Factor(schedule) => schedule.fmt(f),
            Self::Burn(_) => f.write_str("one of Burn's"),
        }
    }
}

impl From<Schedule> for RateSchedule {
    fn from(schedule: Schedule) -> Self {
        Self::Factor(schedule)
    }
}

impl From<ModuleLrScheduler> for RateSchedule {
    fn from(scheduler: ModuleLrScheduler) -> Self {
        Self::Burn(scheduler)
    }
}

/// The learning rates of a run, step by step.
pub(crate) struct RunRates {
    pub(crate) schedule: RateSchedule,
    pub(crate) rates: LearningRates,
    /// Steps of an epoch, and epochs of the run.
    pub(crate) batches: usize,
    pub(crate) epochs: usize,
    /// The rate that records show for the latest step.
    pub(crate) shown: f64,
}

impl RunRates {
    /// Goes to where `steps` steps are taken.
    pub(crate) fn skip(&mut self, steps: usize) {
        match &mut self.schedule {
            RateSchedule::Factor(schedule) => {
                self.shown = self.rates.shown * schedule.factor(steps.max(1), self.batches, self.epochs);
            }
            RateSchedule::Burn(scheduler) => (0..steps).for_each(|_| self.shown = scheduler.step().base()),
        }
    }

    /// The rates of step `step`, which follows the one before.
    pub(crate) fn next(&mut self, step: usize) -> ModuleLearningRate {
        match &mut self.schedule {
            RateSchedule::Factor(schedule) => {
                let factor = schedule.factor(step, self.batches, self.epochs);
                self.shown = self.rates.shown * factor;
                self.rates.scaled(factor)
            }
            RateSchedule::Burn(scheduler) => {
                let rates = scheduler.step();
                self.shown = rates.base();
                rates
            }
        }
    }

    /// Some rates, for a step that is thrown away.
    pub(crate) fn sample(&self) -> ModuleLearningRate {
        match &self.schedule {
            RateSchedule::Factor(_) => self.rates.scaled(1.0),
            RateSchedule::Burn(scheduler) => scheduler.clone().step(),
        }
    }

    /// The schedule's name, where a longer run would have had other rates from the start on.
    pub(crate) fn fixed_by_epochs(&self) -> Option<String> {
        match &self.schedule {
            RateSchedule::Factor(schedule) => schedule.depends_on_epochs().then(|| schedule.to_string()),
            // It does not know how long the run is.
            RateSchedule::Burn(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::lr_scheduler::exponential::ExponentialLrSchedulerConfig;

    use super::*;

    fn check(schedule: Schedule, expected: &[(usize, f64)]) {
        for &(step, value) in expected {
            // Epochs of five steps, four of them.
            let found = schedule.factor(step, 5, 4);
            assert!((found - value).abs() < 1e-9, "step {step}: {found} is not {value}");
        }
    }

    #[test]
    fn constant_stays_and_warms_up_if_asked() {
        check(Schedule::constant(), &[(1, 1.0), (20, 1.0)]);
        check(Schedule::constant().warm_up(1), &[(1, 0.2), (5, 1.0), (6, 1.0)]);
    }

    #[test]
    fn step_drops_every_so_many_epochs() {
        check(Schedule::step(2, 0.1), &[(1, 1.0), (10, 1.0), (11, 0.1), (20, 0.1)]);
    }

    #[test]
    fn cosine_falls_to_zero_over_what_the_warm_up_leaves() {
        check(Schedule::cosine(), &[(1, 1.0), (11, 0.5)]);
        check(Schedule::cosine().warm_up(2), &[(1, 0.1), (10, 1.0), (11, 1.0), (16, 0.5)]);
    }

    #[test]
    fn linear_falls_to_zero_over_what_the_warm_up_leaves() {
        // torch 2.9.0: LinearLR(optimizer, 1, 0, total_iters=20), get_last_lr() before each step.
        check(Schedule::linear(), &[(1, 1.0), (2, 0.95), (11, 0.5), (20, 0.05), (21, 0.0)]);
        check(Schedule::linear().warm_up(2), &[(1, 0.1), (10, 1.0), (11, 1.0), (12, 0.9), (20, 0.1)]);
    }

    #[test]
    fn warm_restarts_are_pytorchs_and_know_no_last_epoch() {
        // torch 2.9.0, a learning rate of 1: scheduler = CosineAnnealingWarmRestarts(optimizer, T_0, T_mult), and
        // before each step, counted from 1: scheduler.step((step - 1) / 5); scheduler.get_last_lr()
        let doubled = [
            (1, 1.0),
            (2, 0.904_508_497_187_473_7),
            (5, 0.095_491_502_812_526_33),
            (6, 1.0),
            (7, 0.975_528_258_147_576_8),
            (11, 0.5),
            (15, 0.024_471_741_852_423_29),
            (16, 1.0),
            (17, 0.993_844_170_297_568_9),
            (20, 0.904_508_497_187_473_7),
        ];
        check(Schedule::warm_restarts(1, 2), &doubled);
        let alike = [(6, 0.5), (10, 0.024_471_741_852_423_234), (11, 1.0), (17, 0.345_491_502_812_526_2)];
        check(Schedule::warm_restarts(2, 1), &alike);
        let tripled = [(6, 1.0), (7, 0.989_073_800_366_902_8), (20, 0.010_926_199_633_097_156)];
        check(Schedule::warm_restarts(1, 3), &tripled);
        check(Schedule::warm_restarts(1, 2).warm_up(1), &doubled.map(|(step, value)| (step + 5, value)));
        check(Schedule::warm_restarts(1, 2).warm_up(1), &[(1, 0.2), (5, 1.0)]);
        check(Schedule::warm_restarts(usize::MAX, usize::MAX), &[(20, 1.0)]);
        assert!(!Schedule::warm_restarts(1, 2).depends_on_epochs() && Schedule::linear().depends_on_epochs());
    }

    #[test]
    fn one_cycle_is_pytorchs() {
        // torch 2.9.0: OneCycleLR(optimizer, max_lr=1, total_steps=20), get_last_lr() before each step.
        let expected = [(1, 0.04), (2, 0.131_671_842_700_025_3), (6, 1.0), (7, 0.987_464_006_235_087_3), (20, 4e-6)];
        check(Schedule::one_cycle(), &expected);
    }

    #[test]
    fn burns_schedulers_give_the_same_rates_after_a_resume() {
        let rates = || RunRates {
            schedule: ExponentialLrSchedulerConfig::new(0.5, 0.9).init().unwrap().into(),
            rates: 7.0.into(),
            batches: 5,
            epochs: 4,
            shown: f64::NAN,
        };
        let mut whole = rates();
        let all: Vec<f64> = (1..=9).map(|step| whole.next(step).base()).collect();
        let mut resumed = rates();
        resumed.skip(6);
        assert_eq!(resumed.shown.to_bits(), all[5].to_bits());
        assert_eq!((7..=9).map(|step| resumed.next(step).base()).collect::<Vec<_>>(), all[6..]);
        assert!(all[8] < all[0] && all[0] <= 0.5);
    }
}
