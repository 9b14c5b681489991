//! Parquet files with pictures, as Hugging Face's data sets have them; reading them is a cargo feature.

#[cfg(feature = "parquet")]
mod kept;
#[cfg(feature = "parquet")]
mod read;

use serde::{Deserialize, Serialize};

use crate::{
    DataError, Dataset, ImageData, Load,
    table_files::{SHARES, SKIP_UNREADABLE_HELP, SPLIT_HELP, SPLIT_SEED, SPLIT_SEED_HELP},
};

/// A set in Parquet files: a column of encoded pictures and one of labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parquet {
    /// Shares of training, validation and test images, where the set is in one piece.
    pub split: Vec<f64>,
    /// Seed of that split.
    pub split_seed: u64,
    /// Whether pictures that cannot be read are left out, and recorded, instead of being an error.
    pub skip_unreadable: bool,
    /// The column of the pictures; where it is empty, the first that has a field `bytes`.
    pub image: String,
    /// The column of the labels; where it is empty, `label`, or the only other one with whole numbers.
    pub label: String,
}

impl Default for Parquet {
    fn default() -> Self {
        let [image, label] = [const { String::new() }; 2];
        Self { split: SHARES.to_vec(), split_seed: SPLIT_SEED, skip_unreadable: false, image, label }
    }
}

impl Dataset for Parquet {
    const HELP: &'static [(&'static str, &'static str)] = &[
        SPLIT_HELP,
        SPLIT_SEED_HELP,
        SKIP_UNREADABLE_HELP,
        ("image", "Column of the pictures; empty: the first that has a field `bytes`"),
        ("label", "Column of the labels; empty: `label`, or the only other one with whole numbers"),
    ];

    #[cfg(feature = "parquet")]
    fn load(&self, load: &mut Load<'_>) -> Result<ImageData, DataError> {
        read::load(self, load)
    }

    #[cfg(not(feature = "parquet"))]
    fn load(&self, _: &mut Load<'_>) -> Result<ImageData, DataError> {
        Err(DataError::Directory(
            "data set `parquet` is not in this build; the cargo feature `parquet` brings it (`just kindling parquet train …`, \
             or `cargo run --release --features parquet -- train …`)"
                .to_owned(),
        ))
    }
}
