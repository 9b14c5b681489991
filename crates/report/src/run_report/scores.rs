//! How well the evaluated runs do beyond accuracy and loss.

use std::collections::BTreeMap;

use kindling_record::{EvaluationRecord, MetricRecord};

use crate::{
    document::TableBlock,
    error::ReportError,
    run::{Group, Run},
    run_report::columns::Columns,
};

/// Balanced accuracy, F1 and top-k accuracy of the groups' evaluated runs; nothing where none has them.
///
/// # Errors
/// When an `evaluation.json` is there and cannot be read.
pub(crate) fn scores_table(groups: &[Group]) -> Result<Option<TableBlock>, ReportError> {
    let mut evaluations = BTreeMap::new();
    for run in groups.iter().flat_map(|group| &group.runs) {
        if let Some(evaluation) = run.directory.read_evaluation()?.filter(|one| one.balanced_accuracy.is_some()) {
            evaluations.insert(run.directory.path(), evaluation);
        }
    }
    if evaluations.is_empty() {
        return Ok(None);
    }
    // All are fractions, shown in percent as accuracies are.
    let fraction = MetricRecord { name: "accuracy".to_owned(), higher_is_better: true, unit: None };
    let mut columns = Columns::new(groups, &[]);
    let mut add = |title: &str, value: &dyn Fn(&EvaluationRecord) -> Option<f64>| {
        columns.metric(title, &fraction, |run: &Run| value(evaluations.get(run.directory.path())?));
    };
    add("accuracy", &|evaluation| Some(evaluation.accuracy));
    add("balanced accuracy", &|evaluation| evaluation.balanced_accuracy);
    add("macro F1", &|evaluation| evaluation.macro_f1);
    add("weighted F1", &|evaluation| evaluation.weighted_f1);
    let most = evaluations.values().map(|evaluation| evaluation.top_k.len()).max().unwrap_or_default();
    for k in [2, 3, 5].into_iter().filter(|&k| k != 2 || most == 2) {
        add(&format!("top-{k} accuracy"), &|evaluation| evaluation.top_k.get(k - 1).copied());
    }
    let caption = "The test split with the weights of the runs that were evaluated: mean ± standard deviation over a \
                   configuration's runs. Balanced accuracy is the mean recall of the classes and macro F1 their mean F1, \
                   however many images they have; weighted F1 weights them by their images. Top-k accuracy is the \
                   fraction of images whose class is among the k most probable.";
    Ok(Some(columns.table(caption)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        group,
        run_report::fixtures::{evaluation, run},
    };

    #[test]
    fn evaluated_runs_have_their_scores_as_means_and_others_have_none() {
        let place = tempfile::tempdir().unwrap();
        let seeds = [1, 2].map(|seed| {
            run(place.path(), &format!("mlp-{seed}"), json!({ "config": { "training": { "seed": seed } } }))
        });
        assert!(scores_table(&group(seeds.to_vec())).unwrap().is_none());
        for (run, balanced) in seeds.iter().zip([0.5, 0.75]) {
            let top_k = vec![0.75, 0.875, 1.0];
            let evaluation = EvaluationRecord { balanced_accuracy: Some(balanced), top_k, ..evaluation() };
            run.directory.write_evaluation(&evaluation).unwrap();
        }
        let other = run(place.path(), "cnn-1", json!({ "model": "cnn", "config": { "network": { "name": "cnn" } } }));
        let table = scores_table(&group([seeds.to_vec(), vec![other]].concat())).unwrap().unwrap();
        let header = ["accuracy", "balanced accuracy", "macro F1", "weighted F1", "top-3 accuracy"];
        assert_eq!(table.header[2..], header);
        assert_eq!(table.rows[0][3..5], ["62.50 ± 17.68 %", "25.00 ± 0.00 %"]);
        assert!(table.rows[1][2..].iter().all(|cell| cell == crate::table::NONE), "{:?}", table.rows);
    }
}
