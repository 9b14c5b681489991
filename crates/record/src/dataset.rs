use serde::{Deserialize, Serialize};

/// What a run was trained and tested on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DatasetRecord {
    /// Name of the data set, such as `fashion-mnist`.
    pub name: String,
    /// Digest of its whole content: of images, SHA-256 over the unpacked images and labels, hexadecimal.
    pub sha256: String,
    /// Training samples seen in an epoch; with a limit of batches and a shuffled order not the same ones in each.
    pub train: usize,
    /// Validation samples in use.
    pub valid: usize,
    /// Test samples in use.
    pub test: usize,
    /// More about a set of images.
    #[serde(flatten)]
    pub images: Option<ImagesRecord>,
}

/// What a set of images has beside its samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImagesRecord {
    /// The directory it was read from; absent for drawn data.
    pub source: Option<String>,
    /// `validated` or `assignment`.
    pub protocol: String,
    /// Names of the classes, in the order of their labels.
    pub classes: Vec<String>,
    /// Rows of an image, as the network sees it.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// The background of the training images: the median of the pixels at their borders.
    pub background: u8,
    /// Channels of an image: 1 for grey, 3 for red, green and blue.
    #[serde(default = "grey")]
    pub channels: usize,
    /// What is subtracted from pixels in `[0, 1]`: one number, or one for each channel. Empty in records of earlier
    /// versions, which have it in their config alone.
    #[serde(default)]
    pub pixel_mean: Vec<f64>,
    /// What they are divided by after that, likewise.
    #[serde(default)]
    pub pixel_std: Vec<f64>,
    /// How pictures were brought to the size (`crop`, `pad`, `stretch`); none where the set has pixels of its own.
    #[serde(default)]
    pub fit: Option<String>,
    /// Images of each class in each whole split: a limit of batches, which the numbers of samples beside them keep to,
    /// does not count.
    #[serde(default)]
    pub counts: ClassCounts,
    /// Pictures that could not be read and were left out: the path within `source` and the reason, as `path: reason`.
    #[serde(default)]
    pub skipped: Vec<String>,
}

/// The channels of images in records that do not have them.
fn grey() -> usize {
    1
}

/// How many images of each class a split has in all, in the order of the labels; empty where that is not known, or where there
/// is no such split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClassCounts {
    /// Of the training split.
    pub train: Vec<usize>,
    /// Of the validation split.
    pub valid: Vec<usize>,
    /// Of the test split.
    pub test: Vec<usize>,
}

impl DatasetRecord {
    /// Names of the classes, in the order of their labels; none where the samples are no images.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        self.images.as_ref().map_or(&[], |images| &images.classes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_images_from_before_colour_is_one_of_grey_images() {
        let before = serde_json::json!({
            "name": "fashion-mnist", "sha256": "00ff", "train": 4, "valid": 0, "test": 2, "source": "/data",
            "protocol": "assignment", "classes": ["Coat", "Bag"], "height": 28, "width": 28, "background": 0,
        });
        let mut record: DatasetRecord = serde_json::from_value(before).unwrap();
        let images = record.images.as_mut().unwrap();
        assert_eq!((images.channels, &images.counts, &images.fit), (1, &ClassCounts::default(), &None));
        images.channels = 3;
        images.pixel_mean = vec![0.485, 0.456, 1.0];
        images.counts = ClassCounts { train: vec![3, 1], valid: Vec::new(), test: vec![1, 1] };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<DatasetRecord>(&text).unwrap(), record);
    }
}
