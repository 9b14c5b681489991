//! The model card: what the hub shows of a model, with the fields that it reads at its head.

use std::fmt::Write as _;

use kindling_models::ImageShape;
use kindling_record::{ConfusedPair, EvaluationRecord, RunRecord, RunStatus};
use kindling_report::{duration, grouped, percent, with_views};
use serde_json::json;

use super::HubOptions;
use crate::{ExchangeError, ExportedRun};

/// So many pairs of confused classes are listed.
const PAIRS: usize = 10;
/// Metrics of each class are listed up to so many.
const CLASSES: usize = 100;

/// The content of `README.md`.
pub(super) fn card(
    run: &ExportedRun<'_>,
    evaluation: Option<&EvaluationRecord>,
    options: &HubOptions<'_>,
) -> Result<String, ExchangeError> {
    let record = run.record;
    let metrics = Measured::of(record, evaluation);
    let sections = [
        ("Metrics", metrics_section(record, evaluation, &metrics)),
        ("Data", data_section(run)?),
        ("Recipe", recipe_section(record, options)),
        ("Mistakes", mistakes_section(record, evaluation, options)),
        ("Limits", limits_section(record, evaluation)),
        ("Use", use_section(run, options)?),
    ];
    let mut text = front_matter(record, &metrics, options);
    let _ = writeln!(text, "\n# {}\n\n{}", record.id, lead(run)?);
    for (title, section) in sections {
        let _ = writeln!(text, "\n## {title}\n\n{}", section.trim_end());
    }
    Ok(text)
}

/// A metric on the test split.
struct Measured {
    /// As the hub has it, or a name of its own.
    kind: &'static str,
    name: &'static str,
    value: f64,
    is_fraction: bool,
}

impl Measured {
    /// What was measured on the test split: by the evaluation, or else by the run itself.
    fn of(record: &RunRecord, evaluation: Option<&EvaluationRecord>) -> Vec<Self> {
        let tested = |metric: &str| record.test.as_ref().and_then(|test| test.get(metric));
        let all = [
            ("accuracy", "accuracy", evaluation.map(|it| it.accuracy).or_else(|| tested("accuracy")), true),
            ("loss", "cross entropy (nats)", evaluation.map(|it| it.loss).or_else(|| tested("loss")), false),
            ("f1", "macro F1", evaluation.and_then(|it| it.macro_f1), false),
            ("balanced_accuracy", "balanced accuracy", evaluation.and_then(|it| it.balanced_accuracy), true),
            (
                "expected_calibration_error",
                "expected calibration error",
                evaluation.map(|it| it.calibration.error),
                false,
            ),
        ];
        let measured = |(kind, name, value, is_fraction): (_, _, Option<f64>, _)| {
            let value = value.filter(|value| value.is_finite())?;
            Some(Self { kind, name, value, is_fraction })
        };
        all.into_iter().filter_map(measured).collect()
    }

    fn text(&self) -> String {
        if self.is_fraction { percent(self.value) } else { format!("{:.4}", self.value) }
    }
}

/// The data set's id on the hub, where it is one that the hub has.
fn hub_dataset(record: &RunRecord) -> Option<&'static str> {
    (record.dataset.name == "fashion-mnist").then_some("zalando-datasets/fashion_mnist")
}

/// The fields that the hub reads, as YAML: <https://huggingface.co/docs/hub/model-cards>. A text in JSON is one in YAML.
fn front_matter(record: &RunRecord, metrics: &[Measured], options: &HubOptions<'_>) -> String {
    let quoted = |text: &str| json!(text).to_string();
    let license = quoted(options.license.unwrap_or("unknown"));
    let (on_hub, name) = (hub_dataset(record), quoted(&record.dataset.name));
    let dataset = on_hub.map_or_else(|| name.clone(), quoted);
    // Every entry of this list is a link to the hub.
    let datasets = on_hub.map_or_else(String::new, |_| format!("datasets:\n- {dataset}\n"));
    let mut text = format!(
        "---\nlicense: {license}\nlibrary_name: kindling\npipeline_tag: image-classification\ntags:\n\
         - image-classification\n- kindling\n- burn\n- {}\n{datasets}",
        quoted(&record.model)
    );
    if !metrics.is_empty() {
        text += "metrics:\n";
        let _ = metrics.iter().try_for_each(|metric| writeln!(text, "- {}", metric.kind));
        let _ = write!(
            text,
            "model-index:\n- name: {}\n  results:\n  - task:\n      type: image-classification\n      \
             name: Image Classification\n    dataset:\n      type: {dataset}\n      name: {name}\n      split: test\n    \
             metrics:\n",
            quoted(&record.id)
        );
        for metric in metrics {
            let Measured { kind, name, value, .. } = metric;
            let _ = writeln!(text, "    - type: {kind}\n      value: {value}\n      name: {}", quoted(name));
        }
    }
    text + "---\n"
}

fn lead(run: &ExportedRun<'_>) -> Result<String, ExchangeError> {
    let (record, ImageShape { channels, height, width, classes }) = (run.record, run.shape()?);
    let from = match (record.status, &record.initial_weights) {
        (RunStatus::Imported, _) => "Its weights were imported from a file of another program.".to_owned(),
        (_, Some(weights)) => format!("Its training started from other weights (SHA-256 `{}`).", weights.sha256),
        _ => String::new(),
    };
    let marks = [
        (record.dataset.name == "synthetic").then_some("**The data are drawn shapes, not real images.**"),
        run.config.training.limit_batches.map(|_| "**It saw only the first batches of its data: it is a trial.**"),
    ];
    let sentences = [
        format!(
            "An image classifier: the network `{}` with {} parameters, for images of {channels}x{height}x{width} (channels, \
             height, width) and {classes} classes, on the data set `{}`.",
            record.model,
            grouped(record.parameters),
            record.dataset.name
        ),
        from,
    ];
    let sentences = sentences.iter().map(String::as_str).chain(marks.into_iter().flatten());
    Ok(sentences.filter(|sentence| !sentence.is_empty()).collect::<Vec<_>>().join(" "))
}

/// A name as Markdown shows it: it may look like HTML.
fn plain(name: &str) -> String {
    name.replace('<', "\\<")
}

/// A table in Markdown; a bar in a cell would begin another.
fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = header.iter().map(ToString::to_string).collect();
    let rule: Vec<String> = header.iter().map(|_| "---".to_owned()).collect();
    let rows =
        rows.into_iter().map(|row| line(&row.iter().map(|cell| plain(cell).replace('|', "\\|")).collect::<Vec<_>>()));
    line(&head) + &line(&rule) + &rows.collect::<String>()
}

fn metrics_section(record: &RunRecord, evaluation: Option<&EvaluationRecord>, metrics: &[Measured]) -> String {
    if metrics.is_empty() {
        return "The weights were not tested.".to_owned();
    }
    let images = evaluation.map_or(record.dataset.test, |evaluation| evaluation.images);
    let tested = || record.test.as_ref().map(|test| &test.test_time_augmentation);
    let views = evaluation.map(|evaluation| &evaluation.test_time_augmentation).or_else(tested);
    let views = views.map_or_else(String::new, |names| with_views(names));
    let alone = if views.is_empty() { "" } else { ", which the weights alone do not have" };
    let rows = metrics.iter().map(|metric| vec![metric.name.to_owned(), metric.text()]);
    let count = grouped(images);
    let mut text = format!("On the {count} images of the test split, of one run (n = 1){views}{alone}:\n\n");
    text += &table(&["metric", "value"], rows);
    if let Some(evaluation) = evaluation.filter(|evaluation| evaluation.classes.len() <= CLASSES) {
        let value = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"));
        let rows = evaluation.classes.iter().map(|class| {
            let [precision, recall, f1] = [class.precision, class.recall, class.f1].map(value);
            vec![class.name.clone(), grouped(class.images), precision, recall, f1]
        });
        text += "\n";
        text += &table(&["class", "images", "precision", "recall", "F1"], rows);
    }
    text
}

fn data_section(run: &ExportedRun<'_>) -> Result<String, ExchangeError> {
    let (images, normalization, data) = (run.images()?, run.normalization()?, &run.record.dataset);
    let numbers = |numbers: &[f64]| numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let splits = match run.record.status {
        RunStatus::Imported => {
            format!("{} to test; what the weights were trained on is not known here", grouped(data.test))
        }
        _ => format!(
            "{} to train, {} to validate, {} to test",
            grouped(data.train),
            grouped(data.valid),
            grouped(data.test)
        ),
    };
    let fit = images.fit.as_ref().map_or_else(String::new, |fit| format!(", fitted by `{fit}`"));
    Ok(format!(
        "- Data set `{}`, SHA-256 of its images and labels `{}`\n- Protocol `{}`: {splits}\n- Images of {}x{} pixels, \
         {}{fit}; pixels in [0, 1], minus {}, divided by {}\n- Classes, in the order of their labels: {}\n",
        data.name,
        data.sha256,
        images.protocol,
        images.height,
        images.width,
        if images.channels == 1 { "grey" } else { "in colour" },
        numbers(&normalization.mean),
        numbers(&normalization.std),
        plain(&images.classes.join(", ")),
    ))
}

fn recipe_section(record: &RunRecord, HubOptions { program, .. }: &HubOptions<'_>) -> String {
    if record.status == RunStatus::Imported {
        return "The weights were not trained here.".to_owned();
    }
    let versions: Vec<String> = record.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    format!(
        "```sh\n{program} train --config kindling.json\n```\n\n`kindling.json` is the complete config, with the seed. Trained on \
         {} (backend `{}`) in {} with {}; {} epochs{}.",
        record.device,
        record.backend,
        duration(record.seconds),
        versions.join(", "),
        record.epochs.len(),
        record.best_epoch.map_or_else(String::new, |epoch| format!(", the best of them epoch {epoch}")),
    )
}

fn mistakes_section(
    record: &RunRecord,
    evaluation: Option<&EvaluationRecord>,
    HubOptions { program, .. }: &HubOptions<'_>,
) -> String {
    let Some(evaluation) = evaluation else {
        return format!("Not looked at yet: `{program} evaluate {}` finds the classes that are confused.", record.id);
    };
    if evaluation.confused.is_empty() {
        return "None on the test split.".to_owned();
    }
    let class = |label: usize| record.dataset.classes().get(label).cloned().unwrap_or_else(|| label.to_string());
    let row = |pair: &ConfusedPair| vec![class(pair.target), class(pair.predicted), grouped(pair.images)];
    let rows = evaluation.confused.iter().take(PAIRS).map(row);
    format!(
        "The pairs of classes that are confused most often:\n\n{}",
        table(&["class of the images", "taken for", "images"], rows)
    )
}

fn limits_section(record: &RunRecord, evaluation: Option<&EvaluationRecord>) -> String {
    let calibration = evaluation.map_or_else(String::new, |evaluation| {
        format!(" On the test split they are off by {:.4} on average.", evaluation.calibration.error)
    });
    format!(
        "- Every picture is given one of the {} classes, whatever it shows.\n- Probabilities are those of a softmax.{calibration}\n\
         - The metrics are of images like those of the data set: pictures of another kind, size or background are \
         classified worse.\n- One run was measured: another seed gives other metrics.\n",
        record.dataset.classes().len()
    )
}

fn use_section(run: &ExportedRun<'_>, options: &HubOptions<'_>) -> Result<String, ExchangeError> {
    let HubOptions { program, pytorch, .. } = options;
    let images = run.images()?;
    let network = if pytorch.is_some() {
        "from network import NETWORKS  # network.py, beside the weights\n\nkeys = dict(config[\"architecture\"])\nkind = \
         keys.pop(\"name\").partition(\"-\")[0]\nnetwork = NETWORKS[kind](\n    config[\"num_channels\"], \
         *config[\"image_size\"], config[\"num_labels\"], **keys\n)\n\
         network.load_state_dict(load_file(\"model.safetensors\"))\nnetwork.eval()\n"
    } else {
        "weights = load_file(\"model.safetensors\")\nfor name, tensor in weights.items():\n    print(name, \
         tuple(tensor.shape))\nnetwork = ...  # the same network in PyTorch, with these names\n\
         network.load_state_dict(weights)\nnetwork.eval()\n"
    };
    let mode = if images.channels == 1 { "L" } else { "RGB" };
    Ok(format!(
        "In Python, with `torch`, `safetensors`, `numpy` and `pillow`, of a picture like those of the data set (background \
         {} of 255):\n\n```python\nimport json\n\nimport numpy as np\nimport torch\nfrom PIL import Image\nfrom \
         safetensors.torch import load_file\n\nconfig = json.load(open(\"config.json\"))\n{network}\nheight, width = \
         config[\"image_size\"]\nimage = Image.open(\"picture.png\").convert(\"{mode}\").resize((width, height))\npixels = \
         torch.from_numpy(np.array(image)).float().reshape(height, width, -1).permute(2, 0, 1) / 255\nmean = \
         torch.tensor(config[\"image_mean\"]).view(-1, 1, 1)\nstd = torch.tensor(config[\"image_std\"]).view(-1, 1, 1)\nwith \
         torch.no_grad():\n    probabilities = network(((pixels - mean) / std)[None]).softmax(1)[0]\nlabel = \
         int(probabilities.argmax())\nprint(config[\"id2label\"][str(label)], float(probabilities[label]))\n```\n\nIn \
         Kindling, with the data set at hand, which says what the classes are (`--data-dir` says where it is, where it is not \
         found by itself):\n\n```sh\n{program} import model.safetensors --config kindling.json --name mine\n{program} predict mine picture.png\n{program} evaluate mine\n```\n",
        images.background,
    ))
}
