use serde::{Deserialize, Serialize};

/// The evaluation of a run's weights: the content of `evaluation.json`.
///
/// Classes are given by their labels, from 0; the run's record has their names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRecord {
    /// Version of this layout, [`crate::SCHEMA`].
    pub schema: u32,
    /// When, RFC 3339 in UTC.
    pub evaluated: String,
    /// Name of the backend that computed it.
    pub backend: String,
    /// Its device as the backend describes it.
    pub device: String,
    /// Name of the kernels, as in [`crate::PartRecord::kernels`].
    pub kernels: String,
    /// As in [`crate::TestRecord::test_time_augmentation`]; in records of earlier versions none.
    #[serde(default)]
    pub test_time_augmentation: Vec<String>,
    /// How many images of the test set it saw.
    pub images: usize,
    /// Mean cross entropy over the images, in nats.
    #[serde(with = "crate::number")]
    pub loss: f64,
    /// Fraction of correctly classified images.
    pub accuracy: f64,
    /// Mean recall of the classes that have images: the accuracy if all were equally frequent. None in records of
    /// earlier versions, as the next two.
    #[serde(default)]
    pub balanced_accuracy: Option<f64>,
    /// Mean F1 of the classes.
    #[serde(default)]
    pub macro_f1: Option<f64>,
    /// Mean F1 of the classes, each weighted by its number of images.
    #[serde(default)]
    pub weighted_f1: Option<f64>,
    /// Fraction of the images whose class is among the k most probable, k from 1: at most 5, and below the number of
    /// classes.
    #[serde(default)]
    pub top_k: Vec<f64>,
    /// `confusion[target][predicted]` counts images.
    pub confusion: Vec<Vec<usize>>,
    /// One entry for each class, in the order of the labels.
    pub classes: Vec<ClassRecord>,
    /// How far confidence is from accuracy.
    pub calibration: CalibrationRecord,
    /// The pairs of classes that are mistaken for each other most often, the worst first.
    pub confused: Vec<ConfusedPair>,
    /// The mistakes made with most confidence, the most confident first.
    pub mistakes: Vec<MistakeRecord>,
    /// All mistakes, in the order of the test file; none in records of earlier versions.
    #[serde(default)]
    pub misclassified: Option<Vec<MisclassifiedRecord>>,
}

/// Metrics of one class against all others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassRecord {
    /// Its name.
    pub name: String,
    /// How many images have it.
    pub images: usize,
    /// Fraction of the images predicted as the class that have it; none where none is predicted as such.
    pub precision: Option<f64>,
    /// Fraction of the images of the class that are predicted as such; none where there are none.
    pub recall: Option<f64>,
    /// Harmonic mean of the two, `2 TP / (2 TP + FP + FN)`: 0 where no image is right, and none only where the class has
    /// no images and nothing is predicted as it.
    pub f1: Option<f64>,
}

/// How far the confidence in predictions is from how often they are right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationRecord {
    /// The expected calibration error: the mean over the images of the distance between confidence and accuracy in
    /// their bin (Guo et al. 2017, <https://arxiv.org/abs/1706.04599>).
    pub error: f64,
    /// Bins of equal width over the confidence, from 0 to 1.
    pub bins: Vec<CalibrationBin>,
}

/// The images whose predicted class has a probability in `from < probability <= to`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// Lower end.
    pub from: f64,
    /// Upper end.
    pub to: f64,
    /// How many there are.
    pub images: usize,
    /// Mean probability of the predicted class; none without images.
    pub confidence: Option<f64>,
    /// Fraction of correct predictions; none without images.
    pub accuracy: Option<f64>,
}

/// Two classes, and how often one is taken for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfusedPair {
    /// The class that the images have.
    pub target: usize,
    /// The class that they are taken for.
    pub predicted: usize,
    /// How many of them.
    pub images: usize,
}

/// An image that was classified wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MisclassifiedRecord {
    /// Its place in the test file, from 0.
    pub index: usize,
    /// The class it has.
    pub target: usize,
    /// The class it was taken for.
    pub predicted: usize,
    /// The probability of that class.
    pub confidence: f64,
}

/// One of the mistakes made with most confidence, which has a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MistakeRecord {
    /// Its place in the test file, from 0.
    pub index: usize,
    /// The class it has.
    pub target: usize,
    /// The class it was taken for.
    pub predicted: usize,
    /// The probability of that class.
    pub confidence: f64,
    /// Name of its picture in the run's `mistakes/`.
    pub picture: String,
    /// The file it came from, relative to the data set's directory; none where the set has no files for single images.
    #[serde(default)]
    pub file: Option<String>,
}
