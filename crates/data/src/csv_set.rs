//! Tables in CSV files: a label and the pixels of an image in each row, as Kaggle has them, or a label and a picture's path.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use csv::{ErrorKind, Reader, ReaderBuilder, StringRecord};
use flate2::read::MultiGzDecoder;
use kindling_config::{Channels, Fit};
use serde::{Deserialize, Serialize};

use crate::{
    DataError, Dataset, ImageData, ImageOptions, Load, LoadEvent,
    error::listed,
    fit,
    pack::{Plan, Request, Sample, packed},
    picture,
    table_files::{Files, directory},
};

/// A set in CSV files, from the directory or the one file that the user names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Csv {
    /// Shares of training, validation and test images, where the files have no splits.
    pub split: Vec<f64>,
    /// Seed of that split.
    pub split_seed: u64,
    /// Whether pictures that cannot be read are left out, and recorded, instead of being an error.
    pub skip_unreadable: bool,
    /// The column of the labels, which are whole numbers or names.
    pub label: String,
}

impl Default for Csv {
    fn default() -> Self {
        Self { split: vec![0.8, 0.1, 0.1], split_seed: 42, skip_unreadable: false, label: "label".to_owned() }
    }
}

/// What a row has beside its label.
enum Item {
    /// Planar.
    Pixels(Vec<u8>),
    /// A picture.
    File(PathBuf),
}

/// Names of a column of pictures' paths.
const PATHS: [&str; 7] = ["path", "file", "filename", "file_name", "image", "image_path", "filepath"];

impl Dataset for Csv {
    const HELP: &'static [(&'static str, &'static str)] = &[
        ("split", "Shares of training, validation and test images, where the set has no test images of its own"),
        ("split_seed", "Seed of that split, the same for all runs that are compared"),
        ("skip_unreadable", "Leave out pictures that cannot be read, and record them"),
        ("label", "Column of the labels"),
    ];

    fn load(&self, load: &mut Load<'_>) -> Result<ImageData, DataError> {
        let directory = directory(load, "csv")?;
        let files = Files::find(directory, &[".csv", ".csv.gz"])?;
        let options = load.images;
        let key = files.key(&format!("csv {} {options:?}", self.label))?;
        // Pixels in the table have a size of their own.
        let names_pictures = files.all().find_map(|path| Table::open(path, &self.label).ok()?);
        let how = names_pictures.filter(|table| matches!(table.content, Content::Paths(_))).map(|_| options.fit);
        let request =
            Request { name: "csv", source: directory, key: &key, fit: how, skip_unreadable: self.skip_unreadable };
        let packed = packed(
            &request,
            load.on_event,
            |on_event| self.plan(&files, options, on_event),
            |(item, shape, how): &(Item, [usize; 3], Fit), out| match item {
                Item::Pixels(pixels) => {
                    out.copy_from_slice(pixels);
                    Ok(())
                }
                Item::File(path) => {
                    let picture = picture::read(path).map_err(|error| error.to_string())?;
                    fit::fit(&picture, *shape, *how, out)
                }
            },
        )?;
        ImageData::from_packed(&request, packed, (&self.split, self.split_seed))
    }
}

impl Csv {
    fn plan(
        &self,
        files: &Files,
        options: ImageOptions,
        on_event: &mut dyn FnMut(LoadEvent),
    ) -> Result<Plan<(Item, [usize; 3], Fit)>, DataError> {
        let mut splits: [Vec<(String, Item, String)>; 3] = Default::default();
        let mut shape: Option<([usize; 3], &Path)> = None;
        for (split, paths) in splits.iter_mut().zip(&files.splits) {
            for path in paths {
                let Some(table) = Table::open(path, &self.label)? else {
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
                table.read(split)?;
            }
        }
        let Some((shape, _)) = shape else {
            let all = listed(files.all().map(|path| path.display()));
            return Err(DataError::Unusable(format!(
                "expected a column `{}` in a file, found none in {all}; --set data.label=COLUMN names it",
                self.label
            )));
        };
        let classes = classes(splits.iter().flatten().map(|(label, ..)| label.as_str()));
        let most = usize::from(u16::MAX);
        if classes.len() > most {
            return Err(DataError::Unusable(format!(
                "expected at most {most} classes, found {} different values in the column `{}`",
                classes.len(),
                self.label
            )));
        }
        let known: HashMap<&str, u16> = classes.iter().map(String::as_str).zip(0..).collect();
        let splits = splits.map(|rows| {
            let sample = |(label, item, name): (String, Item, String)| Sample {
                label: known.get(label.as_str()).copied().unwrap_or_default(),
                name,
                item: (item, shape, options.fit),
            };
            rows.into_iter().map(sample).collect()
        });
        Ok(Plan { classes: classes.clone(), shape, splits })
    }
}

fn size([channels, height, width]: [usize; 3]) -> String {
    format!("{height}x{width} pixels in {channels} {}", if channels == 1 { "channel" } else { "channels" })
}

/// The different labels: in the order of their numbers where all are whole numbers, else by name.
fn classes<'a>(labels: impl Iterator<Item = &'a str>) -> Vec<String> {
    let different: BTreeSet<&str> = labels.collect();
    let numbers: Option<BTreeSet<u64>> = different.iter().map(|label| label.parse().ok()).collect();
    match numbers.filter(|numbers| numbers.len() == different.len()) {
        Some(numbers) => numbers.iter().map(u64::to_string).collect(),
        None => different.into_iter().map(str::to_owned).collect(),
    }
}

/// A file whose columns are understood.
struct Table<'a> {
    path: &'a Path,
    reader: Reader<Box<dyn Read>>,
    /// The first row, where it is no header.
    first: Option<StringRecord>,
    label: usize,
    content: Content,
}

enum Content {
    /// The columns of the pixels, in the order of the pixels.
    Pixels(Vec<usize>),
    /// The column of the pictures' paths.
    Paths(usize),
}

impl<'a> Table<'a> {
    /// Opens a file and reads its first row; nothing where it has no labels.
    fn open(path: &'a Path, label: &str) -> Result<Option<Self>, DataError> {
        let file = BufReader::with_capacity(1 << 16, File::open(path).map_err(DataError::io(path))?);
        let is_packed = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
        let input: Box<dyn Read> = if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        let mut reader = ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(input);
        let mut header = StringRecord::new();
        if !reader.read_record(&mut header).map_err(|error| broken(path, &error))? {
            return Err(DataError::malformed(path, "the file is empty"));
        }
        let names: Vec<&str> = header.iter().map(|name| name.trim_start_matches('\u{feff}')).collect();
        if names.len() > 2 && names.iter().all(|name| name.parse::<f64>().is_ok()) {
            let content = Content::Pixels((1..names.len()).collect());
            return Ok(Some(Self { path, reader, first: Some(header), label: 0, content }));
        }
        let place = |wanted: &str| names.iter().position(|name| name.eq_ignore_ascii_case(wanted));
        let Some(label) = place(label) else { return Ok(None) };
        let paths = PATHS.iter().find_map(|name| place(name));
        let content = match paths.filter(|_| names.len() <= 8) {
            Some(column) => Content::Paths(column),
            None => Content::Pixels(pixel_columns(path, &names, label)?),
        };
        Ok(Some(Self { path, reader, first: None, label, content }))
    }

    /// The shape of the images.
    fn shape(&self, options: ImageOptions) -> Result<[usize; 3], DataError> {
        let columns = match &self.content {
            Content::Paths(_) => {
                let size = options.size.ok_or_else(|| {
                    DataError::malformed(
                        self.path,
                        "the pictures that it names need one size: --image-size 32 or --image-size HEIGHTxWIDTH",
                    )
                })?;
                return Ok([options.channels.unwrap_or(Channels::Rgb).count(), size.height, size.width]);
            }
            Content::Pixels(columns) => columns.len(),
        };
        let square = |pixels: usize| Some(pixels.isqrt()).filter(|side| side * side == pixels && pixels > 0);
        let grey = square(columns).map(|side| [1, side, side]);
        // A number and three times that number are never both squares.
        let rgb = || square(columns / 3).filter(|_| columns % 3 == 0).map(|side| [3, side, side]);
        grey.or_else(rgb).ok_or_else(|| {
            let message = format!(
                "expected a column for each pixel of a square image, grey or in three colours, found {columns} columns"
            );
            DataError::malformed(self.path, message)
        })
    }

    /// Adds the label and the content of each row, and what messages call it.
    fn read(mut self, rows: &mut Vec<(String, Item, String)>) -> Result<(), DataError> {
        let mut row = self.first.take().unwrap_or_default();
        let mut is_pending = !row.is_empty();
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let file = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        loop {
            if !is_pending && !self.reader.read_record(&mut row).map_err(|error| broken(self.path, &error))? {
                return Ok(());
            }
            is_pending = false;
            let line = row.position().map_or(0, csv::Position::line);
            let fails = |message: String| DataError::malformed(self.path, format!("line {line}: {message}"));
            let field = |column: usize| row.get(column).unwrap_or_default();
            let label = field(self.label);
            if label.is_empty() || label.parse::<f64>().is_ok_and(|number| !number.is_finite()) {
                return Err(fails(format!("expected a label, found `{label}`")));
            }
            if let Ok(number) = label.parse::<f64>()
                && (number < 0.0 || number.fract() != 0.0)
            {
                return Err(fails(format!("expected a whole number from 0 as the label, found {label}")));
            }
            // As some programs write whole numbers: `3.0`.
            let label = label.strip_suffix(".0").unwrap_or(label).to_owned();
            let item = match &self.content {
                Content::Paths(column) if field(*column).is_empty() => {
                    return Err(fails("expected the path of a picture, found nothing".to_owned()));
                }
                Content::Paths(column) => Item::File(folder.join(field(*column))),
                Content::Pixels(columns) => {
                    let mut pixels = Vec::with_capacity(columns.len());
                    for &column in columns {
                        let text = field(column);
                        let Some(byte) = byte(text) else {
                            let message = format!(
                                "expected a whole number from 0 to 255 in column {}, found `{text}`",
                                column + 1
                            );
                            return Err(fails(message));
                        };
                        pixels.push(byte);
                    }
                    Item::Pixels(planar(pixels))
                }
            };
            let name = match &item {
                Item::File(_) => field(if let Content::Paths(column) = self.content { column } else { 0 }).to_owned(),
                Item::Pixels(_) => format!("{file}:{line}"),
            };
            rows.push((label, item, name));
        }
    }
}

/// The byte that a field has, as a whole number or as one with nothing behind its point.
fn byte(text: &str) -> Option<u8> {
    text.parse().ok().or_else(|| {
        let number: f64 = text.parse().ok()?;
        ((0.0..=255.0).contains(&number) && number.fract() == 0.0).then_some(number as u8)
    })
}

/// The pixels plane by plane: colours stand beside one another in a table.
fn planar(pixels: Vec<u8>) -> Vec<u8> {
    let side = pixels.len().isqrt();
    if side * side == pixels.len() {
        return pixels;
    }
    (0..3).flat_map(|channel| pixels.iter().skip(channel).step_by(3).copied()).collect()
}

/// The columns of the pixels in the order of the numbers in their names: `pixel0`, `1x1`, `p_12`.
fn pixel_columns(path: &Path, names: &[&str], label: usize) -> Result<Vec<usize>, DataError> {
    let mut columns = Vec::with_capacity(names.len());
    for (column, name) in names.iter().enumerate().filter(|&(column, _)| column != label) {
        let numbers = name.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
        let numbers: Vec<u64> = numbers.filter_map(|digits| digits.parse().ok()).collect();
        if numbers.is_empty() {
            let message = format!(
                "column `{name}` is neither the label (`{}`) nor a pixel with its number, such as pixel0, nor one of {}",
                names[label],
                PATHS.join(", ")
            );
            return Err(DataError::malformed(path, message));
        }
        columns.push((numbers, column));
    }
    columns.sort();
    if let Some([(_, one), (_, other)]) = columns.array_windows().find(|[(a, _), (b, _)]| a == b) {
        let message = format!("columns `{}` and `{}` have the same number", names[*one], names[*other]);
        return Err(DataError::malformed(path, message));
    }
    Ok(columns.into_iter().map(|(_, column)| column).collect())
}

/// What is wrong with a row that cannot be read.
fn broken(path: &Path, error: &csv::Error) -> DataError {
    let line = error.position().map_or(0, csv::Position::line);
    match error.kind() {
        ErrorKind::Io(error) => DataError::malformed(path, format!("cannot be read: {error}")),
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            DataError::malformed(path, format!("line {line}: expected {expected_len} fields, found {len}"))
        }
        ErrorKind::Utf8 { .. } => DataError::malformed(path, format!("line {line}: expected text in UTF-8")),
        _ => DataError::malformed(path, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::GrayImage;
    use kindling_config::ImageSize;

    use super::*;

    /// Loads what is in `place`, with its notices.
    fn load(place: &Path, csv: &Csv, images: ImageOptions) -> (Result<ImageData, DataError>, Vec<String>) {
        let mut notices = Vec::new();
        let mut on_event = |event| {
            if let LoadEvent::Notice(text) = event {
                notices.push(text);
            }
        };
        let data = csv.load(&mut Load { directory: Some(place), images, on_event: &mut on_event });
        (data, notices)
    }

    fn data(place: &Path) -> ImageData {
        load(place, &Csv::default(), ImageOptions::default()).0.unwrap()
    }

    fn message(text: &str) -> String {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("set.csv"), text).unwrap();
        load(place.path(), &Csv::default(), ImageOptions::default()).0.unwrap_err().to_string()
    }

    #[test]
    fn columns_are_found_by_the_numbers_in_their_names_wherever_they_stand() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("train.csv"), "2x2,Label,1x1,2x1,1x2\n4,7,1,3,2\n8,10,5,7,6.0\n").unwrap();
        fs::write(place.path().join("test.csv"), "label,1x1,1x2,2x1,2x2\n7,0,0,0,255\n").unwrap();
        let data = data(place.path());
        assert_eq!((data.train.image(0), data.train.image(1)), (&[1, 2, 3, 4][..], &[5, 6, 7, 8][..]));
        // 7 before 10, as numbers are.
        assert_eq!((data.classes, data.train.labels()), (vec!["7".to_owned(), "10".to_owned()], &[0_u16, 1][..]));
        assert_eq!((data.test.image(0), data.test.shape()), (&[0, 0, 0, 255][..], [1, 2, 2]));
    }

    #[test]
    fn colours_beside_one_another_become_planes() {
        let place = tempfile::tempdir().unwrap();
        let header: Vec<String> = (0..12).map(|pixel| format!("pixel{pixel:04}")).collect();
        let rows = "1,2,3,4,5,6,7,8,9,10,11,12,cat\n";
        fs::write(place.path().join("train.csv"), format!("{},label\n{rows}", header.join(","))).unwrap();
        fs::write(place.path().join("test.csv"), format!("{},label\n{rows}", header.join(","))).unwrap();
        let data = data(place.path());
        assert_eq!((data.train.shape(), data.classes), ([3, 2, 2], vec!["cat".to_owned()]));
        assert_eq!(data.train.image(0), [1, 4, 7, 10, 2, 5, 8, 11, 3, 6, 9, 12]);
    }

    #[test]
    fn one_file_without_a_header_is_split_and_a_test_file_without_labels_is_left_out() {
        let place = tempfile::tempdir().unwrap();
        let rows: String = (0..40).map(|row| format!("{},{row},0,0,9\n", row % 2)).collect();
        let file = place.path().join("digits.csv");
        fs::write(&file, &rows).unwrap();
        for named in [place.path(), &file] {
            let data = data(named);
            let counts = [data.train.count(), data.valid.unwrap().count(), data.test.count()];
            assert_eq!(counts, [32, 4, 4]);
        }
        fs::rename(&file, place.path().join("train.csv")).unwrap();
        fs::write(place.path().join("test.csv"), "pixel0,pixel1,pixel2,pixel3\n0,0,0,0\n").unwrap();
        let (data, notices) = load(place.path(), &Csv::default(), ImageOptions::default());
        assert_eq!(data.unwrap().test.count(), 4);
        assert!(notices.iter().any(|notice| notice.ends_with("test.csv: no column `label`; the file is left out")));
    }

    #[test]
    fn paths_of_pictures_are_relative_to_the_file_and_need_a_size() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("images")).unwrap();
        for (name, grey) in [("a.png", 10), ("b.png", 200)] {
            GrayImage::from_pixel(6, 4, image::Luma([grey])).save(place.path().join("images").join(name)).unwrap();
        }
        fs::write(place.path().join("train.csv"), "path,label\nimages/b.png,dog\nimages/a.png,cat\n").unwrap();
        fs::write(place.path().join("test.csv"), "label,path\ncat,images/a.png\n").unwrap();
        let message = load(place.path(), &Csv::default(), ImageOptions::default()).0.unwrap_err().to_string();
        assert!(message.contains("need one size: --image-size 32"), "{message}");
        let size = Some(ImageSize { height: 2, width: 2 });
        let options = ImageOptions { size, channels: Some(Channels::Grey), ..ImageOptions::default() };
        let data = load(place.path(), &Csv::default(), options).0.unwrap();
        assert_eq!((data.train.image(0), data.train.image(1)), (&[200; 4][..], &[10; 4][..]));
        assert_eq!((data.train.labels(), data.test.labels()), (&[1_u16, 0][..], &[0_u16][..]));
        assert_eq!(data.train.name(0).as_deref(), Some("images/b.png"));
    }

    #[test]
    fn bad_rows_are_told_with_their_lines() {
        let header = "label,p0,p1,p2,p3\n";
        let cases = [
            ("3,1,2,3\n", "line 2: expected 5 fields, found 4"),
            ("3,1,2,3,4\n3,1,2,3,4,5\n", "line 3: expected 5 fields, found 6"),
            ("3,1,2,NaN,4\n", "line 2: expected a whole number from 0 to 255 in column 4, found `NaN`"),
            ("3,1,2,3,256\n", "line 2: expected a whole number from 0 to 255 in column 5, found `256`"),
            ("3,1,,3,4\n", "line 2: expected a whole number from 0 to 255 in column 3, found ``"),
            ("3,1,0.5,3,4\n", "line 2: expected a whole number from 0 to 255 in column 3, found `0.5`"),
            (",1,2,3,4\n", "line 2: expected a label, found ``"),
            ("nan,1,2,3,4\n", "line 2: expected a label, found `nan`"),
            ("-1,1,2,3,4\n", "line 2: expected a whole number from 0 as the label, found -1"),
        ];
        for (rows, expected) in cases {
            let message = message(&format!("{header}{rows}"));
            assert!(message.ends_with(expected), "{message:?} does not end with {expected:?}");
        }
        assert!(message("").ends_with("set.csv: the file is empty"));
        assert!(message("label,p0,p1\n1,2,3\n").ends_with("found 2 columns"));
        assert!(message("label,id,p1\n").contains("column `id` is neither the label (`label`) nor a pixel"));
        assert!(message("label,p1,q1\n").ends_with("columns `p1` and `q1` have the same number"));
        let none = message("class,p0\n1,2\n");
        assert!(none.contains("expected a column `label` in a file, found none") && none.contains("--set data.label"));
    }
}
