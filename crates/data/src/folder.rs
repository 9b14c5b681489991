//! Pictures in directories, one for each class.

mod tree;

use std::{cmp::Reverse, collections::BTreeMap, path::Path};

use kindling_config::{Channels, Fit, ImageSize};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::tree::{Picture, Tree};
use crate::{
    DataError, Dataset, ImageData, ImageOptions, Load, LoadEvent,
    error::listed,
    fit::fit,
    pack::{Plan, Request, Sample, Unreadable, packed},
    picture,
    split::check_shares,
    table_files::{SHARES, SKIP_UNREADABLE_HELP, SPLIT_HELP, SPLIT_SEED, SPLIT_SEED_HELP, directory},
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
        Self { split: SHARES.to_vec(), split_seed: SPLIT_SEED, skip_unreadable: false }
    }
}

impl Dataset for Folder {
    const HELP: &'static [(&'static str, &'static str)] = &[SPLIT_HELP, SPLIT_SEED_HELP, SKIP_UNREADABLE_HELP];

    fn load(&self, load: &mut Load<'_>) -> Result<ImageData, DataError> {
        let directory = directory(load, "folder")?;
        check_shares(&self.split)?;
        let options = load.images;
        let tree = Tree::read(directory)?;
        tree.notices.iter().for_each(|notice| (load.on_event)(LoadEvent::Notice(notice.clone())));
        let key = tree.key(&format!("{options:?}"));
        let skip_unreadable = self.skip_unreadable;
        let request = Request { name: "folder", source: directory, key: &key, fit: Some(options.fit), skip_unreadable };
        let packed = packed(&request, load.on_event, |_| plan(&tree, options), Item::decode)?;
        ImageData::from_packed(&request, packed, load.on_event, (&self.split, self.split_seed))
    }
}

/// A picture and what it becomes.
struct Item<'a> {
    path: &'a Path,
    shape: [usize; 3],
    fit: Fit,
}

impl Item<'_> {
    fn decode(&self, out: &mut [u8]) -> Result<(), Unreadable> {
        Ok(fit(&picture::read(self.path)?, self.shape, self.fit, out)?)
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
    let headers = pictures.par_iter().map(|picture| header(picture));
    let (size, is_grey) = match (options.size, options.channels) {
        (Some(size), Some(_)) => ([size.height, size.width], true),
        (Some(size), None) => {
            let coloured = headers.find_map_any(|header| match header {
                Ok(Ok((_, is_grey))) => (!is_grey).then_some(Ok(())),
                Ok(Err(_)) => None,
                Err(error) => Some(Err(error)),
            });
            ([size.height, size.width], coloured.transpose()?.is_none())
        }
        (None, _) => only_size(&tree.directory, headers.collect::<Result<_, _>>()?)?,
    };
    Ok([options.channels.map_or(if is_grey { 1 } else { 3 }, Channels::count), size[0], size[1]])
}

/// The size of a picture and whether it is grey, or why it is unreadable.
type Header = Result<([usize; 2], bool), String>;

fn header(picture: &Picture) -> Result<Header, DataError> {
    picture::dimensions(&picture.path).map(Ok).or_else(|error| match Unreadable::from(error) {
        Unreadable::Picture(reason) => Ok(Err(format!("{}: {reason}", picture.path.display()))),
        Unreadable::Fatal(error) => Err(error),
    })
}

/// The size that all pictures have, and whether all are grey. Unreadable ones do not count.
fn only_size(directory: &Path, headers: Vec<Header>) -> Result<([usize; 2], bool), DataError> {
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
