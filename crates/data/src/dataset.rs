use std::path::Path;

use kindling_config::{Channels, Fit, ImageSize};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{DataError, ImageData, LoadEvent, fashion_mnist, idx_set, synthetic, table_files::directory};

/// A data set that a config can name: its keys, and how they and a directory become images.
///
/// The fields are the keys of the config's section `data` beside those that every data set has; a default for each is
/// what makes them optional.
///
/// ```
/// use kindling_data::{DataError, Dataset, ImageData, ImageSet, Load};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Default, Serialize, Deserialize)]
/// #[serde(default, deny_unknown_fields)]
/// struct Squares {
///     inverted: bool,
/// }
///
/// impl Dataset for Squares {
///     const HELP: &'static [(&'static str, &'static str)] = &[("inverted", "Dark squares on a light ground")];
///
///     fn load(&self, _request: &mut Load<'_>) -> Result<ImageData, DataError> {
///         let [dark, light] = if self.inverted { [255, 0] } else { [0, 255] };
///         let pixels = [[dark; 16], [light; 16]].concat();
///         let set = ImageSet::new(pixels, vec![0, 1], [1, 4, 4])?;
///         ImageData::new("squares", vec!["dark".to_owned(), "light".to_owned()], set.clone(), set)
///     }
/// }
/// ```
pub trait Dataset: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// A line of help for each key.
    const HELP: &'static [(&'static str, &'static str)] = &[];

    /// Loads the whole set, into memory or from a packed file. A data set may leave
    /// [`images`](Load::images) aside: the caller brings them to the size wanted.
    ///
    /// # Errors
    /// When the set is not there, cannot be fetched, or is not what it should be.
    fn load(&self, request: &mut Load<'_>) -> Result<ImageData, DataError>;
}

/// What a data set may use to load itself.
pub struct Load<'a> {
    /// The directory, or the file, that the user names, if any.
    pub directory: Option<&'a Path>,
    /// The images that the user wants.
    pub images: ImageOptions,
    /// Called on each event of loading: downloads, decoding, notices.
    pub on_event: &'a mut dyn FnMut(LoadEvent),
}

/// What images are brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// Their size; none for that of the set.
    pub size: Option<ImageSize>,
    /// Grey or colour; none for what the set has.
    pub channels: Option<Channels>,
    /// What happens to a picture of another aspect.
    pub fit: Fit,
}

impl Default for ImageOptions {
    /// The size and the channels of the set; crops to another aspect.
    fn default() -> Self {
        Self { size: None, channels: None, fit: Fit::Crop }
    }
}

/// Fashion-MNIST: found on this machine, or fetched into the user's cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FashionMnist {}

impl Dataset for FashionMnist {
    fn load(&self, request: &mut Load<'_>) -> Result<ImageData, DataError> {
        fashion_mnist::load(request.directory, request.on_event)
    }
}

/// Any other set in MNIST's format, from the directory that the user names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Idx {
    /// Whether rows and columns of every image are swapped, as EMNIST needs.
    pub transpose: bool,
}

impl Dataset for Idx {
    const HELP: &'static [(&'static str, &'static str)] =
        &[("transpose", "Swap rows and columns of every image, which EMNIST needs")];

    fn load(&self, request: &mut Load<'_>) -> Result<ImageData, DataError> {
        idx_set::load(directory(request, "idx")?, self.transpose)
    }
}

/// Ten drawn shapes, for tests and offline trials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Synthetic {}

impl Dataset for Synthetic {
    fn load(&self, request: &mut Load<'_>) -> Result<ImageData, DataError> {
        match request.directory {
            Some(_) => Err(DataError::Directory("data set `synthetic` takes no --data-dir".to_owned())),
            None => Ok(synthetic::draw()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(dataset: &impl Dataset, directory: Option<&Path>) -> Result<ImageData, DataError> {
        dataset.load(&mut Load { directory, images: ImageOptions::default(), on_event: &mut |_| {} })
    }

    #[test]
    fn a_directory_is_asked_for_where_it_is_needed_and_refused_where_it_is_not() {
        let message = load(&Idx::default(), None).unwrap_err().to_string();
        assert!(message.contains("--data-dir DIR"), "{message}");
        let somewhere = Some(Path::new("somewhere"));
        assert!(matches!(load(&Synthetic {}, somewhere), Err(DataError::Directory(_))));
        assert_eq!(load(&Synthetic {}, None).unwrap().name, "synthetic");
    }

    #[test]
    fn keys_have_defaults_and_unknown_ones_are_refused() {
        assert_eq!(serde_json::from_str::<Idx>("{}").unwrap(), Idx { transpose: false });
        assert_eq!(serde_json::to_string(&Idx::default()).unwrap(), r#"{"transpose":false}"#);
        assert!(serde_json::from_str::<FashionMnist>(r#"{"transpose": true}"#).is_err());
    }
}
