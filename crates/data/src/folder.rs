//! Pictures in directories, one for each class.

mod tree;

use std::{cmp::Reverse, collections::BTreeMap, fs, path::Path};

use kindling_config::{Channels, Fit, ImageSize};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::tree::{Picture, Tree};
use crate::{
    DataError, Dataset, ImageData, ImageOptions, Load, LoadEvent,
    error::listed,
    fit::fit,
    pack::{Plan, Request, Sample, packed},
    picture,
};

/// Pictures in directories: `DIR/train/CLASS/…` beside `DIR/valid/CLASS/…` and `DIR/test/CLASS/…`, or `DIR/CLASS/…`
/// alone, which is split. They are decoded once, into a packed file in the user's cache.
///
/// The split's directories may also be called `training`, `val`, `validation` or `dev`, and `testing`, in letters of any
/// size. Directories in `train` name the classes, in the order of their bytes; pictures in directories within them count
/// as well. Within a split, pictures are in the order of their names, and those of one name in that of their classes.
/// Hidden files are left out. Without a size asked for, all pictures must have one; they are grey if all of them are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Folder {
    /// The shares of pictures for training, validation and testing, where the set is in one piece.
    pub split: Vec<f64>,
    /// Seed of that split.
    pub split_seed: u64,
    /// Whether pictures that cannot be read are left out.
    pub skip_unreadable: bool,
}

impl Default for Folder {
    fn default() -> Self {
        Self { split: vec![0.8, 0.1, 0.1], split_seed: 42, skip_unreadable: false }
    }
}

impl Dataset for Folder {
    const HELP: &'static [(&'static str, &'static str)] = &[
        ("split", "Shares of train, validation and test images, where the set is in one piece"),
        ("split_seed", "Seed of that split"),
        ("skip_unreadable", "Leave out pictures that cannot be read, and record them"),
    ];

    fn load(&self, load: &mut Load<'_>) -> Result<ImageData, DataError> {
        let directory = load.directory.ok_or_else(|| {
            DataError::Directory("data set `folder` needs the directory of its pictures: --data-dir DIR".to_owned())
        })?;
        let options = load.images;
        let tree = Tree::read(directory)?;
        let mut notices = tree.notices.clone();
        let [_, valid, test] = tree.splits.each_ref().map(|split| !split.is_empty());
        if valid && !test {
            notices.push(format!("{}: no test pictures; the validation split is the test split", directory.display()));
        }
        notices.into_iter().for_each(|notice| (load.on_event)(LoadEvent::Notice(notice)));
        let key = tree.key(&format!("{options:?} {}", self.skip_unreadable));
        let skip_unreadable = self.skip_unreadable;
        let request = Request { name: "folder", source: directory, key: &key, fit: Some(options.fit), skip_unreadable };
        let packed = packed(&request, load.on_event, |_| plan(&tree, options), Item::decode)?;
        ImageData::from_packed(&request, packed, (&self.split, self.split_seed))
    }
}

/// A picture and what it becomes.
struct Item<'a> {
    path: &'a Path,
    shape: [usize; 3],
    fit: Fit,
}

impl Item<'_> {
    fn decode(&self, out: &mut [u8]) -> Result<(), String> {
        let file = fs::read(self.path).map_err(|error| error.to_string())?;
        fit(&picture::decode(&file)?, self.shape, self.fit, out)
    }
}

fn plan<'t>(tree: &'t Tree, options: ImageOptions) -> Result<Plan<Item<'t>>, DataError> {
    let shape = shape(tree, options)?;
    let splits = tree.splits.each_ref().map(|split| {
        let item = |picture: &'t Picture| Item { path: &picture.path, shape, fit: options.fit };
        let samples = split.iter().map(|of| Sample { label: of.label, name: tree.name(of), item: item(of) });
        samples.collect()
    });
    Ok(Plan { classes: tree.classes.clone(), shape, splits })
}

/// The `[channels, height, width]` that is asked for, or else that the headers have.
fn shape(tree: &Tree, options: ImageOptions) -> Result<[usize; 3], DataError> {
    let pictures: Vec<&Picture> = tree.splits.iter().flatten().collect();
    let is_coloured = |picture: &&&Picture| matches!(picture::dimensions(&picture.path), Ok((_, false)));
    let (size, is_grey) = match (options.size, options.channels) {
        (Some(size), Some(_)) => ([size.height, size.width], true),
        (Some(size), None) => ([size.height, size.width], pictures.par_iter().find_any(is_coloured).is_none()),
        (None, _) => {
            let headers = pictures.par_iter().map(|picture| picture::dimensions(&picture.path));
            only_size(&tree.directory, headers.collect())?
        }
    };
    Ok([options.channels.map_or(if is_grey { 1 } else { 3 }, Channels::count), size[0], size[1]])
}

/// The size that all pictures have, and whether all are grey. Unreadable ones do not count.
fn only_size(
    directory: &Path,
    headers: Vec<Result<([usize; 2], bool), DataError>>,
) -> Result<([usize; 2], bool), DataError> {
    let mut sizes = BTreeMap::new();
    let (mut is_grey, mut errors) = (true, Vec::new());
    for header in headers {
        match header {
            Ok((size, grey)) => {
                *sizes.entry(size).or_insert(0_usize) += 1;
                is_grey &= grey;
            }
            Err(error) => errors.push(error),
        }
    }
    let mut sizes: Vec<([usize; 2], usize)> = sizes.into_iter().collect();
    sizes.sort_by_key(|&(_, count)| Reverse(count));
    let longest = ImageSize::LONGEST;
    match &sizes[..] {
        [] => Err(DataError::malformed(directory, format!("none of the pictures can be read: {}", listed(errors)))),
        [(size, _)] if size.iter().all(|side| *side <= longest) => Ok((*size, is_grey)),
        [([height, width], _)] => Err(DataError::malformed(
            directory,
            format!(
                "expected pictures of at most {longest}x{longest} pixels, found {height}x{width}; bring them to a size \
                 with --image-size"
            ),
        )),
        _ => Err(DataError::malformed(
            directory,
            format!(
                "expected pictures of one size, found {} sizes: {}; bring them to one with --image-size, such as \
                 --image-size 64",
                sizes.len(),
                listed(sizes.iter().map(|([height, width], count)| format!("{height}x{width} ({count})")))
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
