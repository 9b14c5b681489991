//! Reading Parquet files.

use std::{
    collections::VecDeque,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use image::DynamicImage;
use kindling_config::Channels;
use parquet::{
    basic::Type,
    column::reader::ColumnReader,
    data_type::ByteArray,
    file::reader::{FileReader, SerializedFileReader},
};
use serde_json::Value;

use crate::{
    DataError, ImageData, ImageOptions, Load, Parquet,
    error::listed,
    fit,
    pack::{Plan, Request, Sample, packed},
    picture,
    table_files::{Files, directory},
};

/// The most row groups whose pictures are kept: as many as threads are likely to be in at once.
const KEPT: usize = 4;

/// Where a picture is.
struct Place {
    file: usize,
    group: usize,
    row: usize,
}

/// The encoded pictures of a row group; none where a row has none.
type Pictures = Arc<Vec<Option<ByteArray>>>;

/// Reads row groups, and keeps those that were read last.
struct Groups<'a> {
    files: Vec<&'a PathBuf>,
    image: String,
    kept: Mutex<VecDeque<((usize, usize), Pictures)>>,
}

/// Loads the set in the directory that the user names.
pub(super) fn load(set: &Parquet, load: &mut Load<'_>) -> Result<ImageData, DataError> {
    let named = directory(load, "parquet")?;
    let files = Files::find(&with_files(named)?, &[".parquet"])?;
    let options = load.images;
    let request = Request {
        name: "parquet",
        source: named,
        key: &files.key(&format!("parquet {} {} {options:?}", set.image, set.label))?,
        fit: Some(options.fit),
        skip_unreadable: set.skip_unreadable,
    };
    let groups = Groups { files: files.all().collect(), image: set.image.clone(), kept: Mutex::default() };
    let decode = |(place, shape): &(Place, [usize; 3]), out: &mut [u8]| {
        let picture = groups.picture(place)?;
        suits(&picture, *shape, options)?;
        fit::fit(&picture, *shape, options.fit, out)
    };
    let packed = packed(&request, load.on_event, |_| set.plan(&files, &groups, options), decode)?;
    ImageData::from_packed(&request, packed, (&set.split, set.split_seed))
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
            let names = listed(several.iter().map(|path| path.display()));
            Err(DataError::malformed(
                named,
                format!("expected one folder of Parquet files, found {names}; name one of them"),
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
        let first = groups.picture(&Place { file: 0, group: 0, row: 0 });
        let first = first.map_err(|message| DataError::malformed(groups.files[0], message))?;
        let grey = if first.color().has_color() { Channels::Rgb } else { Channels::Grey };
        let (height, width) =
            options.size.map_or((first.height() as usize, first.width() as usize), |size| (size.height, size.width));
        let shape = [options.channels.unwrap_or(grey).count(), height, width];
        let mut classes: Option<Vec<String>> = None;
        let mut labels: [Vec<(i64, Place, String)>; 3] = Default::default();
        let mut number = 0;
        for (split, paths) in labels.iter_mut().zip(&files.splits) {
            for path in paths {
                let table = Table::open(path)?;
                let label = table.label(&self.label)?;
                classes = classes.or_else(|| table.class_names(&label));
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let mut count = 0;
                for group in 0..table.reader.num_row_groups() {
                    for (row, value) in table.numbers(group, &label)?.into_iter().enumerate() {
                        split.push((value, Place { file: number, group, row }, format!("{name}:{count}")));
                        count += 1;
                    }
                }
                number += 1;
            }
        }
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
    /// Decodes a picture.
    fn picture(&self, place: &Place) -> Result<DynamicImage, String> {
        let pictures = self.group(place.file, place.group).map_err(|error| error.to_string())?;
        let bytes = pictures.get(place.row).and_then(Option::as_ref).ok_or("there is no picture in this row")?;
        picture::decode(bytes.data())
    }

    fn group(&self, file: usize, group: usize) -> Result<Pictures, DataError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pictures)) = kept.iter().find(|(known, _)| *known == (file, group)) {
            return Ok(pictures.clone());
        }
        let table = Table::open(self.files[file])?;
        let pictures = Arc::new(table.pictures(group, &table.image(&self.image)?)?);
        kept.truncate(KEPT - 1);
        kept.push_front(((file, group), pictures.clone()));
        Ok(pictures)
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
        let named = if wanted.is_empty() { String::new() } else { format!(" called `{wanted}`") };
        DataError::malformed(
            self.path,
            format!("expected {what}{named}, found {names}; --set data.{key}=COLUMN names it"),
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
mod tests {
    use std::io::Cursor;

    use image::{GrayImage, ImageFormat, Luma};
    use kindling_config::ImageSize;
    use parquet::{
        data_type::{ByteArrayType, Int64Type},
        file::{metadata::KeyValue, properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    use super::*;
    use crate::Dataset;

    /// Writes one row group with a grey picture of each `(width, grey)`, none for a width of 0, and its label.
    fn write(path: &Path, rows: &[(u32, u8, i64)], names: Option<&[&str]>) {
        let schema = "message schema { optional group image { optional binary bytes; optional binary path (UTF8); } \
                      optional int64 label; }";
        let features = serde_json::json!({ "info": { "features": { "label": { "names": names } } } }).to_string();
        let metadata = names.map(|_| vec![KeyValue::new("huggingface".to_owned(), features)]);
        let properties = WriterProperties::builder().set_key_value_metadata(metadata).build();
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let png = |width: u32, grey: u8| {
            let mut bytes = Cursor::new(Vec::new());
            GrayImage::from_pixel(width, 2, Luma([grey])).write_to(&mut bytes, ImageFormat::Png).unwrap();
            ByteArray::from(bytes.into_inner())
        };
        let pictures: Vec<ByteArray> = rows.iter().filter(|row| row.0 > 0).map(|row| png(row.0, row.1)).collect();
        let levels: Vec<i16> = rows.iter().map(|row| if row.0 > 0 { 2 } else { 0 }).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&pictures, Some(&levels), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&[], Some(&vec![0; rows.len()]), None).unwrap();
        column.close().unwrap();
        let labels: Vec<i64> = rows.iter().map(|row| row.2).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; rows.len()]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    fn load(place: &Path, set: &Parquet, images: ImageOptions) -> Result<ImageData, DataError> {
        set.load(&mut Load { directory: Some(place), images, on_event: &mut |_| {} })
    }

    #[test]
    fn parquet_files_have_their_splits_in_their_names_and_their_classes_in_their_metadata() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("data");
        fs::create_dir(&data).unwrap();
        write(&data.join("train-00000-of-00002.parquet"), &[(2, 10, 1), (2, 20, 0)], Some(&["cat", "dog"]));
        write(&data.join("train-00001-of-00002.parquet"), &[(2, 30, 1)], Some(&["cat", "dog"]));
        write(&data.join("test-00000-of-00001.parquet"), &[(2, 40, 0)], Some(&["cat", "dog"]));
        let loaded = load(place.path(), &Parquet::default(), ImageOptions::default()).unwrap();
        assert_eq!((loaded.classes.join(" ").as_str(), loaded.train.shape()), ("cat dog", [1, 2, 2]));
        assert_eq!((loaded.train.labels(), loaded.test.labels()), (&[1_u16, 0, 1][..], &[0_u16][..]));
        let pixels: Vec<u8> = (0..3).map(|index| loaded.train.image(index)[3]).collect();
        assert_eq!((pixels, loaded.test.image(0)[0]), (vec![10, 20, 30], 40));
        let other = Parquet { label: "kind".to_owned(), ..Parquet::default() };
        let message = load(place.path(), &other, ImageOptions::default()).unwrap_err().to_string();
        assert!(
            message.contains("expected a column `kind` of whole numbers called `kind`, found image.bytes"),
            "{message}"
        );
    }

    #[test]
    fn parquet_files_with_faults_are_told_and_rows_without_a_picture_can_be_skipped() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("train.parquet");
        let rows: Vec<_> = (0..20).map(|row| (2, row, i64::from(row % 2))).collect();
        write(&file, &[&rows[..], &[(0, 0, 1), (3, 0, 0)]].concat(), None);
        let message = load(place.path(), &Parquet::default(), ImageOptions::default()).unwrap_err().to_string();
        assert!(
            message.contains("train.parquet:20") && message.contains("there is no picture in this row"),
            "{message}"
        );
        assert!(
            message.contains("train.parquet:21") && message.contains("--image-size brings all to one size"),
            "{message}"
        );
        let skipping = Parquet { skip_unreadable: true, ..Parquet::default() };
        let loaded = load(place.path(), &skipping, ImageOptions::default()).unwrap();
        let counts = [loaded.train.count(), loaded.valid.as_ref().unwrap().count(), loaded.test.count()];
        assert_eq!((counts, loaded.skipped.len(), loaded.classes.len()), ([16, 2, 2], 2, 2));
        let size = Some(ImageSize { height: 4, width: 4 });
        let resized = load(place.path(), &skipping, ImageOptions { size, ..ImageOptions::default() }).unwrap();
        assert_eq!((resized.train.shape(), resized.skipped.len()), ([1, 4, 4], 1));
        write(&file, &[(2, 1, 0), (2, 1, -1)], None);
        let message = load(place.path(), &Parquet::default(), ImageOptions::default()).unwrap_err().to_string();
        assert!(message.contains("expected labels below 1, found -1 for train.parquet:1"), "{message}");
        let whole = fs::read(&file).unwrap();
        for length in [0, 3, whole.len() / 2, whole.len() - 1] {
            fs::write(&file, &whole[..length]).unwrap();
            let message = load(place.path(), &Parquet::default(), ImageOptions::default()).unwrap_err().to_string();
            assert!(message.contains("it is cut short or none: get it again"), "{length}: {message}");
        }
    }
}
