use std::f64::consts::PI;

use crate::{ExperimentConfig, ScheduleName};

/// PyTorch's defaults for `OneCycleLR`.
const RISING_SHARE: f64 = 0.3;
const START_DIVISOR: f64 = 25.0;
const END_DIVISOR: f64 = 1e4;

/// How the learning rate changes: a pure function of the step, so a resumed run needs no state of it.
#[derive(Clone, Debug)]
pub struct Schedule {
    name: ScheduleName,
    total_steps: f64,
    warm_up_steps: f64,
    drop_steps: f64,
    drop_factor: f64,
}

impl Schedule {
    /// The config's schedule for epochs of `batches` steps.
    #[must_use]
    pub fn new(config: &ExperimentConfig, batches: usize) -> Self {
        Self {
            name: config.schedule,
            total_steps: (config.epochs * batches) as f64,
            warm_up_steps: (config.warm_up_epochs * batches) as f64,
            drop_steps: (config.step_epochs * batches) as f64,
            drop_factor: config.step_factor,
        }
    }

    /// What the learning rate is multiplied by in step `step`, counted from 1 over the whole run.
    #[must_use]
    pub fn factor(&self, step: usize) -> f64 {
        let done = step as f64 - 1.0;
        if done < self.warm_up_steps {
            return (done + 1.0) / self.warm_up_steps;
        }
        match self.name {
            ScheduleName::Constant => 1.0,
            ScheduleName::Step => self.drop_factor.powf((done / self.drop_steps).floor()),
            ScheduleName::Cosine => {
                between(1.0, 0.0, (done - self.warm_up_steps) / (self.total_steps - self.warm_up_steps))
            }
            ScheduleName::OneCycle => {
                let (start, peak) = (1.0 / START_DIVISOR, RISING_SHARE * self.total_steps - 1.0);
                if done <= peak {
                    between(start, 1.0, done / peak)
                } else {
                    between(1.0, start / END_DIVISOR, (done - peak) / (self.total_steps - 1.0 - peak))
                }
            }
        }
    }
}

/// Goes from `start` to `end` along half a cosine as `share` goes from 0 to 1.
fn between(start: f64, end: f64, share: f64) -> f64 {
    end + (start - end) / 2.0 * (1.0 + (PI * share).cos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    /// Factors of 20 steps: 4 epochs of 5.
    fn factors(json: &str) -> Vec<f64> {
        let config = Settings::from_json(json).unwrap().resolve().unwrap();
        let schedule = Schedule::new(&config, 5);
        (1..=20).map(|step| schedule.factor(step)).collect()
    }

    fn check(json: &str, expected: &[(usize, f64)]) {
        let found = factors(json);
        for &(step, value) in expected {
            assert!((found[step - 1] - value).abs() < 1e-9, "step {step}: {} is not {value}", found[step - 1]);
        }
    }

    #[test]
    fn constant_stays_and_warms_up_if_asked() {
        check(r#"{"model": "mlp", "epochs": 4}"#, &[(1, 1.0), (20, 1.0)]);
        check(r#"{"model": "mlp", "epochs": 4, "warm_up_epochs": 1}"#, &[(1, 0.2), (5, 1.0), (6, 1.0)]);
    }

    #[test]
    fn step_drops_every_so_many_epochs() {
        let json = r#"{"model": "mlp", "epochs": 4, "schedule": "step", "step_epochs": 2, "step_factor": 0.1}"#;
        check(json, &[(1, 1.0), (10, 1.0), (11, 0.1), (20, 0.1)]);
    }

    #[test]
    fn cosine_falls_to_zero_over_what_the_warm_up_leaves() {
        check(r#"{"model": "mlp", "epochs": 4, "schedule": "cosine"}"#, &[(1, 1.0), (11, 0.5)]);
        let json = r#"{"model": "mlp", "epochs": 4, "schedule": "cosine", "warm_up_epochs": 2}"#;
        check(json, &[(1, 0.1), (10, 1.0), (11, 1.0), (16, 0.5)]);
    }

    #[test]
    fn one_cycle_is_pytorchs() {
        // torch 2.9.0: OneCycleLR(optimizer, max_lr=1, total_steps=20), get_last_lr() before each step.
        let expected = [(1, 0.04), (2, 0.131_671_842_700_025_3), (6, 1.0), (7, 0.987_464_006_235_087_3), (20, 4e-6)];
        check(r#"{"model": "mlp", "epochs": 4, "schedule": "one-cycle"}"#, &expected);
    }
}
