//! One CSV file: its columns, its rows, and what is wrong with them.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use csv::{ErrorKind, Reader, ReaderBuilder, StringRecord};
use flate2::read::MultiGzDecoder;
use kindling_config::Channels;

use crate::{Csv, DataError, ImageOptions};

/// The most bytes of a row: a quote that is not closed makes the rest of the file one field.
const MOST_ROW_BYTES: usize = 256 << 20;

/// What a row has beside its label.
pub(super) enum Item {
    /// Planar.
    Pixels(Vec<u8>),
    /// A picture.
    File(PathBuf),
}

/// A row, with the number of its label among the different ones in the order of their first rows.
pub(super) struct Row {
    pub(super) label: usize,
    pub(super) item: Item,
    pub(super) name: String,
}

/// Names of a column of pictures' paths.
const PATHS: [&str; 7] = ["path", "file", "filename", "file_name", "image", "image_path", "filepath"];

/// What is wrong where pictures have no size.
pub(super) const WITHOUT_SIZE: &str =
    "the pictures that it names need one size: --image-size 32 or --image-size HEIGHTxWIDTH";

/// The shape that pictures in files of their own are brought to; none without a size.
pub(super) fn pictures_shape(options: ImageOptions) -> Option<[usize; 3]> {
    options.size.map(|size| [options.channels.unwrap_or(Channels::Rgb).count(), size.height, size.width])
}

/// A file whose columns are understood.
pub(super) struct Table<'a> {
    path: &'a Path,
    reader: Reader<Bounded<Box<dyn Read>>>,
    /// The first row, where it is no header.
    first: Option<StringRecord>,
    label: usize,
    pub(super) content: Content,
    is_planar: bool,
}

/// Fails after so many bytes more.
pub(super) struct Bounded<R> {
    pub(super) inner: R,
    pub(super) left: usize,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = out.len().min(self.left);
        if length < out.len().min(1) {
            return Err(io::Error::other("the row is too long (is a quote not closed?)"));
        }
        let read = self.inner.read(&mut out[..length])?;
        self.left -= read;
        Ok(read)
    }
}

pub(super) enum Content {
    /// The columns of the pixels, in the order of the pixels.
    Pixels(Vec<usize>),
    /// The column of the pictures' paths.
    Paths(usize),
}

impl<'a> Table<'a> {
    /// Opens a file and reads its first row; nothing where it has no labels.
    pub(super) fn open(path: &'a Path, csv: &Csv) -> Result<Option<Self>, DataError> {
        let file = BufReader::with_capacity(1 << 16, File::open(path).map_err(DataError::io(path))?);
        let is_packed = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
        let input: Box<dyn Read> = if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        let input = Bounded { inner: input, left: MOST_ROW_BYTES };
        let mut reader = ReaderBuilder::new().has_headers(false).trim(csv::Trim::All).from_reader(input);
        let mut header = StringRecord::new();
        let read = reader.read_record(&mut header);
        if !read.map_err(|error| broken(path, reader.position().line(), &error))? {
            return Err(DataError::malformed(path, "the file is empty"));
        }
        let is_planar = csv.planar;
        let names: Vec<&str> = header.iter().map(|name| name.trim_start_matches('\u{feff}')).collect();
        if names.len() > 2 && names.iter().all(|name| name.parse::<f64>().is_ok()) {
            let content = Content::Pixels((1..names.len()).collect());
            return Ok(Some(Self { path, reader, first: Some(header), label: 0, content, is_planar }));
        }
        let place = |wanted: &str| names.iter().position(|name| name.eq_ignore_ascii_case(wanted));
        let Some(label) = place(&csv.label) else { return Ok(None) };
        let paths = PATHS.iter().find_map(|name| place(name));
        let content = match paths.filter(|_| names.len() <= 8) {
            Some(column) => Content::Paths(column),
            None => Content::Pixels(pixel_columns(path, &names, label)?),
        };
        Ok(Some(Self { path, reader, first: None, label, content, is_planar }))
    }

    /// Reads the next row; false where there is none.
    pub(super) fn next(&mut self, row: &mut StringRecord) -> Result<bool, DataError> {
        if let Some(first) = self.first.take() {
            *row = first;
            return Ok(true);
        }
        self.reader.get_mut().left = MOST_ROW_BYTES;
        let read = self.reader.read_record(row);
        read.map_err(|error| broken(self.path, self.reader.position().line(), &error))
    }

    /// A picture's path, relative to the table's directory.
    pub(super) fn picture(&self, field: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(field)
    }

    /// The shape of the images.
    pub(super) fn shape(&self, options: ImageOptions) -> Result<[usize; 3], DataError> {
        let columns = match &self.content {
            Content::Paths(_) => {
                return pictures_shape(options).ok_or_else(|| DataError::malformed(self.path, WITHOUT_SIZE));
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

    /// Adds all rows, and their labels to the different ones.
    pub(super) fn read(mut self, labels: &mut HashMap<String, usize>, rows: &mut Vec<Row>) -> Result<(), DataError> {
        let file = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut row = StringRecord::new();
        while self.next(&mut row)? {
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
            let label = label.strip_suffix(".0").filter(|whole| whole.parse::<u64>().is_ok()).unwrap_or(label);
            let (item, name) = match &self.content {
                Content::Paths(column) if field(*column).is_empty() => {
                    return Err(fails("expected the path of a picture, found nothing".to_owned()));
                }
                Content::Paths(column) => (Item::File(self.picture(field(*column))), field(*column).to_owned()),
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
                    let pixels = if self.is_planar { pixels } else { planar(pixels) };
                    (Item::Pixels(pixels), format!("{file}:{line}"))
                }
            };
            let label = if let Some(number) = labels.get(label) {
                *number
            } else {
                let number = labels.len();
                labels.insert(label.to_owned(), number);
                number
            };
            rows.push(Row { label, item, name });
        }
        Ok(())
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

/// What is wrong with the row in a line that cannot be read.
fn broken(path: &Path, line: u64, error: &csv::Error) -> DataError {
    let line = error.position().map_or(line, csv::Position::line);
    match error.kind() {
        ErrorKind::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            DataError::malformed(path, format!("line {line}: the file is cut short ({error}): get it again"))
        }
        ErrorKind::Io(error) => DataError::malformed(path, format!("line {line}: cannot be read: {error}")),
        ErrorKind::UnequalLengths { expected_len, len, .. } => {
            DataError::malformed(path, format!("line {line}: expected {expected_len} fields, found {len}"))
        }
        ErrorKind::Utf8 { .. } => DataError::malformed(path, format!("line {line}: expected text in UTF-8")),
        _ => DataError::malformed(path, error.to_string()),
    }
}
