//! Whether a claim holds.

use kindling_record::RunStatus;
use kindling_report::{duration, grouped, percent};

use super::{ClaimRecord, SEEDS, SeedRecord, record::Verdict};

impl ClaimRecord {
    /// Whether the claim holds, and why.
    pub(super) fn judged(&self) -> Verdict {
        let conditions: Vec<(bool, String)> =
            [self.accuracy_found(), self.parameters_found(), self.seconds_found()].into_iter().flatten().collect();
        let mut reasons: Vec<String> = conditions.iter().map(|(_, found)| found.clone()).collect();
        let diverged = RunStatus::Diverged.to_string();
        let has_diverged = self.seeds.iter().any(|seed| seed.status == diverged);
        let unfinished: Vec<String> =
            self.seeds.iter().filter(|seed| !seed.is_finished()).map(SeedRecord::progress).collect();
        let (finished, claimed) = (self.finished(), SEEDS as usize);
        let is_complete = unfinished.is_empty() && finished >= claimed;
        reasons.extend(unfinished);
        if finished < claimed {
            reasons.push(format!("finished seeds: {finished}; the claim is about the mean of {claimed}"));
        }
        if !self.changed.is_empty() {
            reasons.push(format!("the recipe is changed, so the claim is not judged: {}", self.changed.join(", ")));
        }
        let unmeasured = self.seeds.iter().any(|seed| seed.is_finished() && !seed.wall_is_measured);
        if unmeasured && self.seconds_limit.is_some() {
            reasons.push("a time is that of the run's record: the run was not trained by this command".to_owned());
        }
        let holds = match () {
            () if !self.changed.is_empty() => None,
            () if has_diverged => Some(false),
            () if !is_complete || (unmeasured && self.seconds_limit.is_some()) => None,
            () => Some(conditions.iter().all(|(is_met, _)| *is_met)),
        };
        Verdict { holds, reasons }
    }

    /// Whether the accuracy is what is claimed, and by how much.
    fn accuracy_found(&self) -> Option<(bool, String)> {
        let (found, target) = (self.test_accuracy?, self.target_accuracy);
        // A mean of 94.00 % in ten thousandths of images is one, whatever the last bit says.
        let is_met = found.mean >= target - 1e-9;
        let points = (found.mean - target).abs() * 100.0;
        let said = if is_met {
            format!("{points:.2} points over the target of {}", percent(target))
        } else {
            format!("misses the target of {} by {points:.2} points", percent(target))
        };
        Some((is_met, format!("test accuracy {}: {said}", found.percent())))
    }

    /// Whether the network is as small as is claimed.
    fn parameters_found(&self) -> Option<(bool, String)> {
        let (found, limit) = (self.parameters?, self.parameter_limit?);
        let [found_text, limit_text] = [found, limit].map(grouped);
        let said = if found < limit { "under the limit of" } else { "not under the limit of" };
        Some((found < limit, format!("{found_text} parameters: {said} {limit_text}")))
    }

    /// Whether it takes as long as is claimed at most.
    fn seconds_found(&self) -> Option<(bool, String)> {
        let (found, limit) = (self.wall_seconds?, self.seconds_limit?);
        let is_met = found.mean <= limit;
        let by = duration((found.mean - limit).abs());
        let said = if is_met { "under" } else { "over" };
        let found = found.fixed(1);
        Some((is_met, format!("seconds of a seed {found}: {by} {said} the limit of {}", duration(limit))))
    }
}

impl SeedRecord {
    /// How far it is, where it is not finished.
    fn progress(&self) -> String {
        let Self { seed, status, epochs, planned_epochs, .. } = self;
        let best = self
            .valid_accuracy
            .map_or_else(String::new, |best| format!(", validation accuracy {} at the best of them", percent(best)));
        format!("seed {seed}: {status}, {epochs} of {planned_epochs} epochs{best}")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use kindling_report::Sample;

    use super::{super::record::SCHEMA, *};

    /// A record of seeds with these test accuracies, on 171 and 173 s by turns; none is a seed that is not finished.
    pub(in super::super) fn record(accuracies: &[Option<f64>], changes: &Value) -> ClaimRecord {
        let seeds: Vec<Value> = accuracies
            .iter()
            .zip(1..)
            .map(|(accuracy, seed)| {
                json!({
                    "seed": seed, "run": "r", "status": if accuracy.is_some() { "finished" } else { "interrupted" },
                    "epochs": 67, "planned_epochs": 300, "best_epoch": 60, "valid_accuracy": 0.9312, "valid_loss": 0.2,
                    "test_accuracy": accuracy, "test_loss": 0.2, "training_seconds": 160.0,
                    "wall_seconds": 170.0 + f64::from(seed % 2), "wall_is_measured": true, "parts": 1,
                    "weights_sha256": "00ff",
                })
            })
            .collect();
        let figures = |values: Vec<f64>| json!(Sample::of(values));
        let mut value = json!({
            "schema": SCHEMA, "name": "fast94", "claimed": "94 %", "target_accuracy": 0.94, "parameter_limit": 500_000,
            "seconds_limit": 180.0, "changed": [], "verdict": { "holds": null, "reasons": [] },
            "test_accuracy": figures(accuracies.iter().flatten().copied().collect()), "test_loss": null,
            "wall_seconds": figures(vec![170.0, 172.0]), "training_seconds": null, "parameters": 463_866, "seeds": seeds,
            "machines": [], "versions": {}, "dataset_sha256": null, "command": "c", "config": {},
            "written": "2026-01-02T03:04:05Z", "protocol": [], "pytorch": [],
        });
        for (key, change) in changes.as_object().unwrap() {
            value[key] = change.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn judged(accuracies: &[Option<f64>], changes: &Value) -> (Option<bool>, String) {
        let Verdict { holds, reasons } = record(accuracies, changes).judged();
        (holds, reasons.join("; "))
    }

    #[test]
    fn a_claim_holds_where_every_condition_is_met_and_a_miss_is_told_with_its_size() {
        let (reached, missed) = ([Some(0.9405), Some(0.9395), Some(0.94), Some(0.94), Some(0.94)], [Some(0.9388); 5]);
        let (holds, reasons) = judged(&reached, &json!({}));
        assert_eq!(holds, Some(true), "{reasons}");
        let expected = "test accuracy 94.00 ± 0.04 % (n = 5): 0.00 points over the target of 94.00 %; 463,866 parameters: \
                        under the limit of 500,000; seconds of a seed 171.0 ± 1.4 (n = 2): 9.0 s under the limit of 3 min 00 s";
        assert_eq!(reasons, expected);
        let (holds, reasons) = judged(&missed, &json!({}));
        assert_eq!(holds, Some(false));
        assert!(reasons.contains("misses the target of 94.00 % by 0.12 points"), "{reasons}");
        let (holds, reasons) = judged(&reached, &json!({ "seconds_limit": 161.0 }));
        assert!(holds == Some(false) && reasons.contains("10.0 s over the limit of 2 min 41 s"), "{reasons}");
        let (holds, reasons) = judged(&reached, &json!({ "parameters": 500_000 }));
        assert!(holds == Some(false) && reasons.contains("500,000 parameters: not under the limit"), "{reasons}");
    }

    #[test]
    fn nothing_is_judged_before_all_seeds_are_finished_and_what_is_left_is_told() {
        let (holds, reasons) = judged(&[Some(0.95), Some(0.95), Some(0.95), Some(0.95), None], &json!({}));
        assert_eq!(holds, None);
        assert!(reasons.contains("test accuracy 95.00 ± 0.00 % (n = 4)"), "{reasons}");
        let left = "seed 5: interrupted, 67 of 300 epochs, validation accuracy 93.12 % at the best of them";
        assert!(reasons.contains(left), "{reasons}");
        assert!(reasons.contains("finished seeds: 4; the claim is about the mean of 5"), "{reasons}");
        // A claim is not checked by fewer seeds.
        assert_eq!(judged(&[Some(0.95); 4], &json!({})).0, None);
        let (holds, reasons) = judged(&[Some(0.95); 5], &json!({ "changed": ["training.epochs=1"] }));
        assert!(holds.is_none() && reasons.contains("the recipe is changed"), "{reasons}");
        let mut unmeasured = record(&[Some(0.95); 5], &json!({}));
        unmeasured.seeds[3].wall_is_measured = false;
        assert_eq!(unmeasured.judged().holds, None);
        unmeasured.seconds_limit = None;
        assert_eq!(unmeasured.judged().holds, Some(true));
    }

    #[test]
    fn a_diverged_seed_is_a_claim_that_does_not_hold() {
        let mut diverged = record(&[Some(0.95), Some(0.95), Some(0.95), Some(0.95), None], &json!({}));
        diverged.seeds[4].status = "diverged".to_owned();
        assert_eq!(diverged.judged().holds, Some(false));
    }
}
