//! Fashion-MNIST: 60,000 train and 10,000 test images of 28x28 in ten classes.
//!
//! Source: Xiao, Rasul and Vollgraf, <https://arxiv.org/abs/1708.07747>.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::{
    DataError, ImageData, Limits, LoadEvent, cache,
    digest::{fingerprint, hexadecimal},
    download::{self, Sources},
    idx,
    idx_set::{check_labels, check_sha256, read_pair},
    listing::{Listing, TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS},
};

/// Names of the classes, in the order of their labels.
pub const CLASSES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// Environment variable that names the directory of the set.
pub const DIRECTORY_VARIABLE: &str = "KINDLING_DATA_DIR";

/// Where Debian and Ubuntu put the package `dataset-fashion-mnist`.
const SYSTEM_DIRECTORY: &str = "usr/share/datasets/fashion-mnist";
const PACKAGE: &str = "dataset-fashion-mnist";

/// The authors' repository, and the copy that Keras uses.
const URLS: [&str; 2] = [
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
];

/// Names and SHA-256 of the *unpacked* files: the gzip wrappers differ between sources.
const FILES: [(&str, &str); 4] = [
    (TRAIN_IMAGES, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    (TRAIN_LABELS, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    (TEST_IMAGES, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    (TEST_LABELS, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
];

/// Finds the set without fetching anything: `explicit`, then the directory that `KINDLING_DATA_DIR` names, then
/// `data/fashion-mnist` here, the system's copy, and the user's cache.
///
/// A directory that the user names is taken whatever it holds, so that what is wrong with it is said.
#[must_use]
pub fn locate(explicit: Option<&Path>) -> Option<PathBuf> {
    let variable = || env::var_os(DIRECTORY_VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let named = explicit.map(Path::to_path_buf).or_else(variable);
    if named.is_some() {
        return named;
    }
    let usual = [Some(PathBuf::from("data/fashion-mnist")), Some(Path::new("/").join(SYSTEM_DIRECTORY)), cached()];
    usual.into_iter().flatten().find(|directory| has_all(directory))
}

fn has_all(directory: &Path) -> bool {
    let is_file = |listing: &Listing, name| listing.file(name).is_some_and(Path::is_file);
    Listing::read(directory).is_ok_and(|listing| FILES.iter().all(|(name, _)| is_file(&listing, name)))
}

/// Loads the set from where [`locate`] finds it, or fetches it into the user's cache first.
pub fn load(explicit: Option<&Path>, report: &mut dyn FnMut(LoadEvent)) -> Result<ImageData, DataError> {
    let directory = match locate(explicit) {
        Some(directory) => directory,
        None => fetch(report)?,
    };
    read(&directory)
}

/// Loads the set from `directory` and verifies it.
fn read(directory: &Path) -> Result<ImageData, DataError> {
    let listing = Listing::read(directory)?;
    let pair = |images: usize| -> Result<_, DataError> {
        let names = [FILES[images].0.to_owned(), FILES[images + 1].0.to_owned()];
        let pair = read_pair(&listing, &names[..1], &names[1..])?;
        if pair.set.size() != [28, 28] {
            let [height, width] = pair.set.size();
            let message =
                format!("expected images of 28x28, found {height}x{width}; use --dataset idx for another set");
            return Err(DataError::malformed(&pair.paths[0], message));
        }
        check_labels(&pair, CLASSES.len())?;
        check_sha256(&pair, [FILES[images].1, FILES[images + 1].1])?;
        Ok(pair)
    };
    let (train, test) = (pair(0)?, pair(2)?);
    let sha256 = fingerprint(train.sha256.iter().chain(&test.sha256).map(<[u8; 32]>::as_slice));
    let classes = CLASSES.map(str::to_owned).to_vec();
    Ok(ImageData::of_files("fashion-mnist", directory, classes, [train.set, test.set], sha256))
}

/// Fetches the set into the user's cache and returns the directory.
fn fetch(report: &mut dyn FnMut(LoadEvent)) -> Result<PathBuf, DataError> {
    let directory = cached().ok_or_else(|| {
        DataError::Unusable(
            "Fashion-MNIST is not on this machine and there is no cache directory to fetch it to; set HOME, or name \
             the set's directory with --data-dir"
                .to_owned(),
        )
    })?;
    let verify = |name: &str, path: &Path| {
        let (name, expected) =
            FILES.into_iter().find(|(plain, _)| name.strip_suffix(".gz") == Some(plain)).unwrap_or_default();
        let is_images = name.contains("images");
        let read = if is_images {
            idx::read_images(path).map(|images| images.sha256)
        } else {
            idx::read_labels(path).map(|labels| labels.sha256)
        };
        let found = read.map_err(|error| match error {
            // The path is that of a temporary file.
            DataError::Malformed { message, .. } => DataError::malformed(name, message),
            error => error,
        })?;
        let found = hexadecimal(&found);
        if found == expected {
            return Ok(());
        }
        Err(DataError::malformed(name, format!("expected SHA-256 {expected} of the unpacked content, found {found}")))
    };
    let names = FILES.map(|(name, _)| format!("{name}.gz"));
    let sources = Sources {
        urls: &URLS,
        package: Some((PACKAGE, SYSTEM_DIRECTORY)),
        files: &names.each_ref().map(String::as_str),
        verify: &verify,
    };
    download::fetch(&directory, &sources, Limits::default(), report)?;
    Ok(directory)
}

fn cached() -> Option<PathBuf> {
    Some(cache::directory()?.join("fashion-mnist"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::idx::tests::idx;

    fn message(images: &[u8], labels: &[u8]) -> String {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILES[0].0), images).unwrap();
        fs::write(directory.path().join(FILES[1].0), labels).unwrap();
        load(Some(directory.path()), &mut |_| ()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_fashion_mnist_is_refused_with_the_reason() {
        let images = idx(2051, &[2, 28, 28], &[0; 2 * 784]);
        let small = idx(2051, &[2, 27, 28], &[0; 2 * 27 * 28]);
        let checks = [
            (&small, idx(2049, &[2], &[0, 1]), "expected images of 28x28, found 27x28"),
            (&images, idx(2049, &[2], &[0, 10]), "expected labels below 10, found 10 for image 1"),
            (&images, idx(2049, &[2], &[0, 9]), "expected SHA-256 c59f468a"),
        ];
        for (images, labels, expected) in checks {
            let message = message(images, &labels);
            assert!(message.contains(expected), "{message:?} does not contain {expected:?}");
        }
    }

    #[test]
    fn a_directory_has_the_set_under_any_spelling_of_the_names() {
        let directory = tempfile::tempdir().unwrap();
        for (name, _) in FILES {
            assert!(!has_all(directory.path()));
            fs::write(directory.path().join(name.replace("-idx", ".IDX") + ".GZ"), "").unwrap();
        }
        assert!(has_all(directory.path()));
    }

    #[test]
    fn a_directory_named_by_the_user_is_taken_even_when_it_is_not_there() {
        let error = load(Some(Path::new("/no/such/place")), &mut |_| ()).unwrap_err();
        assert!(error.to_string().starts_with("/no/such/place: "), "{error}");
    }
}
