use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use image::DynamicImage;
use kindling_classification::ClassificationError;
use kindling_data::{DataError, ImageSet, photo::Preparation};
use serde::Serialize;
use serde_json::{Value, json};

/// What the page says of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// The run's name.
    pub name: String,
    /// Name of its network.
    pub model: String,
    /// Name of the data set.
    pub dataset: String,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Share of the test images that were right when the run ended.
    pub accuracy: Option<f64>,
}

/// Gives a row of class probabilities for each image, as a run's `Predictor` does.
pub type Network = Box<dyn Fn(&ImageSet) -> Result<Vec<Vec<f32>>, ClassificationError> + Send>;

/// A run to play with.
pub struct Player {
    facts: Facts,
    preparation: Preparation,
    network: Mutex<Network>,
    /// Requests that wait for the network or have it.
    requests: AtomicUsize,
    test: Option<ImageSet>,
    tested: Mutex<Tested>,
}

/// What has become of the test images so far, in their order.
#[derive(Default)]
struct Tested {
    /// The most probable class of each, and its probability.
    predictions: Vec<(usize, f32)>,
    problem: Option<String>,
}

impl Player {
    /// Test images that are predicted before a request has its turn.
    const TOGETHER: usize = 64;

    /// A run with its test images, if they are there.
    #[must_use]
    pub fn new(facts: Facts, network: Network, preparation: Preparation, test: Option<ImageSet>) -> Self {
        let (network, requests, tested) = (Mutex::new(network), AtomicUsize::new(0), Mutex::default());
        Self { facts, preparation, network, requests, test, tested }
    }

    /// What the page has to know of the run.
    pub(super) fn described(&self) -> Value {
        let [channels, height, width] = self.preparation.shape;
        json!({
            "facts": self.facts,
            "channels": channels,
            "height": height,
            "width": width,
            "background": self.preparation.background,
            // Whether pictures are inverted and trimmed.
            "adapts": self.preparation.fit.is_none(),
            "tests": self.test.as_ref().map(ImageSet::count),
        })
    }

    /// The picture as the network gets it, alone in a set.
    pub(super) fn image(&self, picture: &DynamicImage, as_is: bool) -> Result<ImageSet, DataError> {
        ImageSet::new(self.preparation.image(picture, as_is)?, vec![0], self.preparation.shape)
    }

    /// A row of class probabilities for each image.
    pub(super) fn probabilities(&self, images: &ImageSet) -> Result<Vec<Vec<f32>>, ClassificationError> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let rows = lock(&self.network)(images);
        self.requests.fetch_sub(1, Ordering::SeqCst);
        rows
    }

    pub(super) fn preparation(&self) -> &Preparation {
        &self.preparation
    }

    pub(super) fn test_images(&self) -> Option<&ImageSet> {
        self.test.as_ref()
    }

    pub(super) fn test_labels(&self) -> &[u16] {
        self.test.as_ref().map_or(&[], ImageSet::labels)
    }

    /// The most probable class of each test image that has been predicted, and its probability.
    pub(super) fn tested(&self) -> Vec<(usize, f32)> {
        lock(&self.tested).predictions.clone()
    }

    /// Why the test images are not predicted to the end.
    pub(super) fn test_problem(&self) -> Option<String> {
        lock(&self.tested).problem.clone()
    }

    /// Predicts a few more test images; whether there are still others.
    pub(super) fn test_more(&self) -> bool {
        let Some(test) = &self.test else { return false };
        // A lock is not given to the one who waits for it longest.
        while self.requests.load(Ordering::SeqCst) > 0 {
            thread::sleep(Duration::from_millis(2));
        }
        let done = lock(&self.tested).predictions.len();
        let end = (done + Self::TOGETHER).min(test.count());
        let rows = lock(&self.network)(&test.select(&(done..end).collect::<Vec<_>>()));
        let mut tested = lock(&self.tested);
        match rows {
            Ok(rows) => tested.predictions.extend(rows.iter().map(|row| most_probable(row))),
            Err(error) => tested.problem = Some(error.to_string()),
        }
        tested.problem.is_none() && end < test.count()
    }
}

/// The first class with the highest probability, and that.
pub(super) fn most_probable(row: &[f32]) -> (usize, f32) {
    let start = (0, f32::NEG_INFINITY);
    let (class, probability) =
        row.iter().copied().enumerate().fold(start, |best, it| if it.1 > best.1 { it } else { best });
    (class, probability.max(0.0))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
