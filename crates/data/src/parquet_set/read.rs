//! Reading Parquet files.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use image::DynamicImage;
use kindling_config::Channels;
use parquet::{
    basic::{Compression, Type},
    column::reader::ColumnReader,
    data_type::ByteArray,
    file::{
        metadata::RowGroupMetaData,
        reader::{FileReader, SerializedFileReader},
    },
};
use serde_json::Value;

use crate::{
    DataError, ImageData, ImageOptions, Load, Parquet,
    error::listed,
    fit,
    pack::{Plan, Request, Sample, Unreadable, packed},
    parquet_set::kept::Kept,
    picture,
    split::check_shares,
    table_files::{Files, directory},
};

/// The most bytes of encoded pictures that are kept: several times what is decoded at once.
const MOST_BYTES: usize = 256 << 20;
/// Labels count from 0 and are below this.
const MOST_CLASSES: i64 = u16::MAX as i64;

/// Where a picture is: the numbers of its file, of its row group in the file, and of its row in the group.
struct Place {
    file: usize,
    group: usize,
    row: usize,
}

/// The encoded pictures of a row group; none where a row has none.
type Pictures = Vec<Option<ByteArray>>;

/// Reads row groups, and keeps those that were used last.
struct Groups<'a> {
    files: Vec<&'a PathBuf>,
    image: String,
    kept: Kept<(usize, usize), Pictures>,
}

/// Loads the set in the directory that the user names.
pub(super) fn load(set: &Parquet, load: &mut Load<'_>) -> Result<ImageData, DataError> {
    let named = directory(load, "parquet")?;
    check_shares(&set.split)?;
    let files = Files::find(&with_files(named)?, &[".parquet"])?;
    let options = load.images;
    let request = Request {
        name: "parquet",
        source: named,
        key: &files.key(&format!("parquet {} {} {options:?}", set.image, set.label), &[])?,
        fit: Some(options.fit),
        skip_unreadable: set.skip_unreadable,
    };
    let groups = Groups { files: files.all().collect(), image: set.image.clone(), kept: Kept::new(MOST_BYTES) };
    let decode = |(place, shape): &(Place, [usize; 3]), out: &mut [u8]| -> Result<(), Unreadable> {
        let picture = groups.picture(place)?;
        suits(&picture, *shape, options)?;
        Ok(fit::fit(&picture, *shape, options.fit, out)?)
    };
    let packed = packed(&request, load.on_event, |_| set.plan(&files, &groups, options), decode)?;
    ImageData::from_packed(&request, packed, load.on_event, (&set.split, set.split_seed))
}

/// `named` itself where it has Parquet files, else the folder `data` in it, else its only folder that has some.
fn with_files(named: &Path) -> Result<PathBuf, DataError> {
    let has_files = |directory: &Path| Files::find(directory, &[".parquet"]).is_ok();
    let data = named.join("data");
    if named.is_file() || has_files(named) || !named.is_dir() {
        return Ok(named.to_path_buf());
    }
    if has_files(&data) {
        return Ok(data);
    }
    let entries = fs::read_dir(named).map_err(DataError::io(named))?;
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.retain(|path| path.is_dir() && has_files(path));
    folders.sort();
    match &folders[..] {
        [only] => Ok(only.clone()),
        [] => Ok(named.to_path_buf()),
        several => {
            let all = listed(several.iter().map(|path| path.display()));
            Err(DataError::malformed(
                named,
                format!("expected one folder of Parquet files, found {all}; name one of them"),
            ))
        }
    }
}

/// Whether a picture may become an image of this shape: where no size or channels are asked for, they are the first's.
fn suits(picture: &DynamicImage, [channels, height, width]: [usize; 3], options: ImageOptions) -> Result<(), String> {
    let found = [picture.height() as usize, picture.width() as usize];
    if options.size.is_none() && found != [height, width] {
        return Err(format!(
            "expected {height}x{width} pixels, as the first picture has, found {}x{}; --image-size brings all to one size",
            found[0], found[1]
        ));
    }
    if options.channels.is_none() && channels == 1 && picture.color().has_color() {
        return Err("expected a grey picture, as the first is, found one in colour; choose with --channels".to_owned());
    }
    Ok(())
}

impl Parquet {
    fn plan(
        &self,
        files: &Files,
        groups: &Groups<'_>,
        options: ImageOptions,
    ) -> Result<Plan<(Place, [usize; 3])>, DataError> {
        let mut classes: Option<Vec<String>> = None;
        let mut labels: [Vec<(i64, Place, String)>; 3] = Default::default();
        let mut number = 0;
        for (split, paths) in labels.iter_mut().zip(&files.splits) {
            for path in paths {
                let table = Table::open(path)?;
                let label = table.label(&self.label)?;
                table.check_codecs(&[&label, &table.image(&self.image)?])?;
                classes = classes.or_else(|| table.class_names(&label));
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let mut count = 0;
                for group in 0..table.reader.num_row_groups() {
                    for (row, value) in table.numbers(group, &label)?.into_iter().enumerate() {
                        if value >= MOST_CLASSES {
                            let message = format!(
                                "expected labels below {MOST_CLASSES} in the column `{label}`, found {value} in row \
                                 {count}; --set data.label=COLUMN names another column"
                            );
                            return Err(DataError::malformed(path, message));
                        }
                        split.push((value, Place { file: number, group, row }, format!("{name}:{count}")));
                        count += 1;
                    }
                }
                number += 1;
            }
        }
        let shape = groups.shape(labels.iter().flatten().map(|(_, place, _)| place), options)?;
        let largest = labels.iter().flatten().map(|(label, ..)| *label).max().unwrap_or_default();
        let classes = classes.unwrap_or_else(|| (0..=largest.max(0)).map(|label| label.to_string()).collect());
        let checked = |(label, place, name): (i64, Place, String)| match u16::try_from(label) {
            Ok(label) if usize::from(label) < classes.len() => Ok(Sample { label, name, item: (place, shape) }),
            _ => {
                let message = format!("expected labels below {}, found {label} for {name}", classes.len());
                Err(DataError::malformed(groups.files[place.file], message))
            }
        };
        let [train, valid, test] =
            labels.map(|rows| rows.into_iter().map(checked).collect::<Result<Vec<_>, DataError>>());
        Ok(Plan { splits: [train?, valid?, test?], classes: classes.clone(), shape })
    }
}

impl Groups<'_> {
    /// The shape that is asked for, or else that of the first picture that can be read.
    fn shape<'p>(
        &self,
        places: impl Iterator<Item = &'p Place>,
        options: ImageOptions,
    ) -> Result<[usize; 3], DataError> {
        if let (Some(size), Some(channels)) = (options.size, options.channels) {
            return Ok([channels.count(), size.height, size.width]);
        }
        let mut reason = None;
        for place in places {
            match self.picture(place) {
                Ok(first) => {
                    let grey = if first.color().has_color() { Channels::Rgb } else { Channels::Grey };
                    let found = (first.height() as usize, first.width() as usize);
                    let (height, width) = options.size.map_or(found, |size| (size.height, size.width));
                    return Ok([options.channels.unwrap_or(grey).count(), height, width]);
                }
                Err(Unreadable::Fatal(error)) => return Err(error),
                Err(Unreadable::Picture(message)) => {
                    reason.get_or_insert(message);
                }
            }
        }
        let message = match reason {
            Some(first) => format!("none of the pictures can be read; the first: {first}"),
            None => "expected a row for each picture, found none".to_owned(),
        };
        Err(DataError::malformed(self.files.first().map_or(Path::new(""), |path| path.as_path()), message))
    }

    /// Decodes a picture. What is wrong with its row group is wrong with the file, and no reason to leave pictures out.
    fn picture(&self, place: &Place) -> Result<DynamicImage, Unreadable> {
        let pictures = self.group(place.file, place.group).map_err(Unreadable::Fatal)?;
        let bytes = pictures.get(place.row).and_then(Option::as_ref);
        let bytes = bytes.ok_or_else(|| "there is no picture in this row".to_owned())?;
        Ok(picture::decode(bytes.data())?)
    }

    fn group(&self, file: usize, group: usize) -> Result<Arc<Pictures>, DataError> {
        self.kept.get((file, group), || {
            let table = Table::open(self.files[file])?;
            let pictures = table.pictures(group, &table.image(&self.image)?)?;
            let bytes = pictures.iter().flatten().map(ByteArray::len).sum();
            Ok((pictures, bytes))
        })
    }
}

/// An open file.
struct Table<'a> {
    path: &'a Path,
    reader: SerializedFileReader<File>,
}

impl<'a> Table<'a> {
    fn open(path: &'a Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io(path))?;
        let reader = SerializedFileReader::new(file).map_err(|error| {
            let message = format!("expected a whole Parquet file ({error}); it is cut short or none: get it again");
            DataError::malformed(path, message)
        })?;
        Ok(Self { path, reader })
    }

    /// The paths of the columns with their types.
    fn columns(&self) -> impl Iterator<Item = (String, Type)> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        schema.columns().iter().map(|column| (column.path().string(), column.physical_type()))
    }

    /// The column of the pictures' bytes.
    fn image(&self, wanted: &str) -> Result<String, DataError> {
        let is_wanted = |path: &str| match path.strip_suffix(".bytes") {
            Some(column) => wanted.is_empty() || column == wanted,
            None => !wanted.is_empty() && path == wanted,
        };
        let mut bytes = self.columns().filter(|(_, kind)| *kind == Type::BYTE_ARRAY).map(|(path, _)| path);
        bytes
            .find(|path| is_wanted(path))
            .ok_or_else(|| self.lacks("a column of pictures with a field `bytes`", "image", wanted))
    }

    /// The column of the labels.
    fn label(&self, wanted: &str) -> Result<String, DataError> {
        let whole = self.columns().filter(|(_, kind)| matches!(kind, Type::INT32 | Type::INT64)).map(|(path, _)| path);
        let whole: Vec<String> = whole.collect();
        let wanted_or = if wanted.is_empty() { "label" } else { wanted };
        match &whole[..] {
            _ if whole.iter().any(|path| path == wanted_or) => Ok(wanted_or.to_owned()),
            [only] if wanted.is_empty() => Ok(only.clone()),
            _ => Err(self.lacks(&format!("a column `{wanted_or}` of whole numbers"), "label", wanted)),
        }
    }

    fn lacks(&self, what: &str, key: &str, wanted: &str) -> DataError {
        let names = listed(self.columns().map(|(path, kind)| format!("{path} ({kind})")));
        let called = if wanted.is_empty() { String::new() } else { format!(" called `{wanted}`") };
        DataError::malformed(
            self.path,
            format!("expected {what}{called}, found {names}; --set data.{key}=COLUMN names it"),
        )
    }

    /// The names of the classes that Hugging Face's metadata has for the column.
    fn class_names(&self, label: &str) -> Option<Vec<String>> {
        let metadata = self.reader.metadata().file_metadata().key_value_metadata()?;
        let text = metadata.iter().find(|entry| entry.key == "huggingface")?.value.as_deref()?;
        let value: Value = serde_json::from_str(text).ok()?;
        let names = value["info"]["features"][label]["names"].as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// Checks that the columns are compressed in a way that is read here.
    fn check_codecs(&self, wanted: &[&str]) -> Result<(), DataError> {
        for column in self.reader.metadata().row_groups().iter().flat_map(RowGroupMetaData::columns) {
            let path = column.column_path().string();
            let codec = column.compression();
            let is_read = matches!(codec, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_));
            if wanted.contains(&&*path) && !is_read {
                let codec = codec.to_string().to_lowercase();
                let codec = codec.split('(').next().unwrap_or_default();
                let message = format!(
                    "the column `{path}` is compressed with {codec}; snappy, gzip and uncompressed columns are read: \
                     write the file again with one of them"
                );
                return Err(DataError::malformed(self.path, message));
            }
        }
        Ok(())
    }

    /// The reader of a column in a row group, with how many rows there are.
    fn column(&self, group: usize, path: &str) -> Result<(ColumnReader, usize), DataError> {
        let place = self.columns().position(|(known, _)| known == path).unwrap_or_default();
        let group = self.reader.get_row_group(group).map_err(|error| self.broken(&error.to_string()))?;
        let rows = usize::try_from(group.metadata().num_rows()).unwrap_or_default();
        Ok((group.get_column_reader(place).map_err(|error| self.broken(&error.to_string()))?, rows))
    }

    fn broken(&self, error: &str) -> DataError {
        DataError::malformed(self.path, format!("cannot be read: {error}; it is damaged or cut short: get it again"))
    }

    /// The whole numbers of a column.
    fn numbers(&self, group: usize, path: &str) -> Result<Vec<i64>, DataError> {
        let (reader, rows) = self.column(group, path)?;
        let (mut levels, mut values) = (Vec::new(), Vec::with_capacity(rows));
        let read = match reader {
            ColumnReader::Int64ColumnReader(mut reader) => {
                reader.read_records(rows, Some(&mut levels), None, &mut values)
            }
            ColumnReader::Int32ColumnReader(mut reader) => {
                let mut narrow = Vec::with_capacity(rows);
                let read = reader.read_records(rows, Some(&mut levels), None, &mut narrow);
                values.extend(narrow.into_iter().map(i64::from));
                read
            }
            _ => return Err(self.lacks("a column of whole numbers", "label", path)),
        };
        read.map_err(|error| self.broken(&error.to_string()))?;
        if values.len() == rows {
            return Ok(values);
        }
        Err(self.broken(&format!("expected {rows} labels in `{path}`, found {}", values.len())))
    }

    /// The bytes of a column; none where a row has none.
    fn pictures(&self, group: usize, path: &str) -> Result<Vec<Option<ByteArray>>, DataError> {
        let (reader, rows) = self.column(group, path)?;
        let ColumnReader::ByteArrayColumnReader(mut reader) = reader else {
            return Err(self.lacks("a column of pictures", "image", path));
        };
        let (mut levels, mut values) = (Vec::new(), Vec::with_capacity(rows));
        let read = reader.read_records(rows, Some(&mut levels), None, &mut values);
        read.map_err(|error| self.broken(&error.to_string()))?;
        // A level below the largest is a row without a value; a column that must have values has no levels.
        let whole = levels.iter().copied().max().unwrap_or_default();
        let mut values = values.into_iter();
        Ok(if levels.is_empty() {
            values.map(Some).collect()
        } else {
            levels.iter().map(|&level| if level == whole { values.next() } else { None }).collect()
        })
    }
}

#[cfg(test)]
mod tests;
