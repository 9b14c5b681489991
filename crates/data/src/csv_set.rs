//! Tables in CSV files: a label and the pixels of an image in each row, as Kaggle has them, or a label and a picture's path.

mod table;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use csv::StringRecord;
use serde::{Deserialize, Serialize};

use self::table::{Content, Item, Row, Table, WITHOUT_SIZE, pictures_shape};
use crate::{
    DataError, Dataset, ImageData, ImageOptions, Load, LoadEvent,
    error::listed,
    fit,
    pack::{Plan, Request, Sample, Unreadable, packed},
    picture,
    split::check_shares,
    table_files::{Files, SHARES, SKIP_UNREADABLE_HELP, SPLIT_HELP, SPLIT_SEED, SPLIT_SEED_HELP, directory},
};

/// A set in CSV files, from the directory or the one file that the user names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Csv {
    /// Shares of training, validation and test images, where the set is in one piece.
    pub split: Vec<f64>,
    /// Seed of that split.
    pub split_seed: u64,
    /// Whether pictures that cannot be read are left out, and recorded, instead of being an error.
    pub skip_unreadable: bool,
    /// The column of the labels, which are whole numbers or names.
    pub label: String,
    /// Whether the colours of an image stand plane by plane instead of beside one another.
    pub planar: bool,
}

impl Default for Csv {
    fn default() -> Self {
        Self {
            split: SHARES.to_vec(),
            split_seed: SPLIT_SEED,
            skip_unreadable: false,
            label: "label".to_owned(),
            planar: false,
        }
    }
}

impl Dataset for Csv {
    const HELP: &'static [(&'static str, &'static str)] = &[
        SPLIT_HELP,
        SPLIT_SEED_HELP,
        SKIP_UNREADABLE_HELP,
        ("label", "Column of the labels"),
        ("planar", "Colours of an image stand plane by plane instead of beside one another"),
    ];

    fn load(&self, load: &mut Load<'_>) -> Result<ImageData, DataError> {
        let directory = directory(load, "csv")?;
        check_shares(&self.split)?;
        let files = Files::find(directory, &[".csv", ".csv.gz"])?;
        let options = load.images;
        let pictures = self.pictures(&files)?;
        let mut made = format!("csv {} {}", self.label, self.planar);
        // Pixels in the table have a size of their own, whatever is asked for.
        if pictures.is_some() {
            made = format!("{made} {options:?}");
        }
        let key = files.key(&made, pictures.as_deref().unwrap_or_default())?;
        let request = Request {
            name: "csv",
            source: directory,
            key: &key,
            fit: pictures.map(|_| options.fit),
            skip_unreadable: self.skip_unreadable,
        };
        let packed = packed(
            &request,
            load.on_event,
            |on_event| self.plan(&files, options, on_event),
            |item: &Item, out| match item {
                Item::Pixels(pixels) => {
                    out.copy_from_slice(pixels);
                    Ok(())
                }
                Item::File(path) => {
                    let shape = pictures_shape(options).ok_or_else(|| WITHOUT_SIZE.to_owned())?;
                    // Of a pipe one would wait for a writer.
                    if path.exists() && !path.is_file() {
                        return Err(Unreadable::Picture("expected a file, found something else".to_owned()));
                    }
                    Ok(fit::fit(&picture::read(path)?, shape, options.fit, out)?)
                }
            },
        )?;
        ImageData::from_packed(&request, packed, load.on_event, (&self.split, self.split_seed))
    }
}

impl Csv {
    /// All pictures that tables name; none where no table does.
    fn pictures(&self, files: &Files) -> Result<Option<Vec<PathBuf>>, DataError> {
        let mut pictures = None;
        for path in files.all() {
            if let Some(mut table) = Table::open(path, self)?
                && let Content::Paths(column) = table.content
            {
                let found = pictures.get_or_insert_with(Vec::new);
                let mut row = StringRecord::new();
                while table.next(&mut row)? {
                    found.push(table.picture(row.get(column).unwrap_or_default()));
                }
            }
        }
        Ok(pictures)
    }

    /// Reads all rows. The pixels of all images are in memory until they are packed: as many bytes as the packed file has,
    /// beside some 100 bytes a row.
    fn plan(
        &self,
        files: &Files,
        options: ImageOptions,
        on_event: &mut dyn FnMut(LoadEvent),
    ) -> Result<Plan<Item>, DataError> {
        let mut splits: [Vec<Row>; 3] = Default::default();
        let mut labels = HashMap::new();
        let mut shape: Option<([usize; 3], &Path)> = None;
        for (split, paths) in splits.iter_mut().zip(&files.splits) {
            for path in paths {
                let Some(table) = Table::open(path, self)? else {
                    on_event(LoadEvent::Notice(format!(
                        "{}: no column `{}`; the file is left out",
                        path.display(),
                        self.label
                    )));
                    continue;
                };
                let found = table.shape(options)?;
                match shape {
                    Some((known, first)) if known != found => {
                        let message = format!(
                            "expected images of {}, as {} has them, found {}",
                            size(known),
                            first.display(),
                            size(found)
                        );
                        return Err(DataError::malformed(path, message));
                    }
                    _ => shape = Some((found, path)),
                }
                let before = split.len();
                table.read(&mut labels, split)?;
                if split.len() == before {
                    return Err(DataError::malformed(path, "expected a row for each image, found the header alone"));
                }
            }
        }
        let Some((shape, _)) = shape else {
            let all = listed(files.all().map(|path| path.display()));
            return Err(DataError::Unusable(format!(
                "expected a column `{}` in a file, found none in {all}; --set data.label=COLUMN names it",
                self.label
            )));
        };
        let most = usize::from(u16::MAX);
        if labels.len() > most {
            return Err(DataError::Unusable(format!(
                "expected at most {most} classes, found {} different values in the column `{}`",
                labels.len(),
                self.label
            )));
        }
        let classes = ordered(labels);
        let mut places = vec![0; classes.len()];
        (0..).zip(&classes).for_each(|(place, (_, number))| places[*number] = place);
        let sample = |Row { label, item, name }: Row| Sample { label: places[label], name, item };
        let splits = splits.map(|rows| rows.into_iter().map(sample).collect());
        Ok(Plan { classes: classes.into_iter().map(|(class, _)| class).collect(), shape, splits })
    }
}

fn size([channels, height, width]: [usize; 3]) -> String {
    format!("{height}x{width} pixels in {channels} {}", if channels == 1 { "channel" } else { "channels" })
}

/// The different labels with their numbers: in the order of their values where all are whole numbers as they are usually
/// written, else by name.
fn ordered(labels: HashMap<String, usize>) -> Vec<(String, usize)> {
    // `01` is a name: `1` may be another.
    let value = |label: &str| label.parse::<u64>().ok().filter(|value| value.to_string() == label);
    let mut labels: Vec<_> = labels.into_iter().collect();
    labels.sort();
    if labels.iter().all(|(label, _)| value(label).is_some()) {
        labels.sort_by_key(|(label, _)| value(label));
    }
    labels
}

#[cfg(test)]
mod tests;
