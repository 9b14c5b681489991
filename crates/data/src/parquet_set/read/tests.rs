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
    write_groups(path, &[rows], names);
}

/// Writes a row group for each slice.
fn write_groups(path: &Path, groups: &[&[(u32, u8, i64)]], names: Option<&[&str]>) {
    let schema = "message schema { optional group image { optional binary bytes; optional binary path (UTF8); } \
                  optional int64 label; }";
    let features = serde_json::json!({ "info": { "features": { "label": { "names": names } } } }).to_string();
    let metadata = names.map(|_| vec![KeyValue::new("huggingface".to_owned(), features)]);
    let properties = WriterProperties::builder().set_key_value_metadata(metadata).build();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    let png = |width: u32, grey: u8| {
        let mut bytes = Cursor::new(Vec::new());
        GrayImage::from_pixel(width, 2, Luma([grey])).write_to(&mut bytes, ImageFormat::Png).unwrap();
        ByteArray::from(bytes.into_inner())
    };
    for rows in groups {
        let mut group = writer.next_row_group().unwrap();
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
    }
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
    assert!(message.contains("train.parquet:20") && message.contains("there is no picture in this row"), "{message}");
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

#[test]
fn row_groups_are_read_in_order_however_many_there_are() {
    let place = tempfile::tempdir().unwrap();
    let rows: Vec<(u32, u8, i64)> = (0..60).map(|row| (2, row, i64::from(row % 2))).collect();
    // Groups of seven rows after one that has none.
    let groups: Vec<&[(u32, u8, i64)]> = [&rows[..0]].into_iter().chain(rows.chunks(7)).collect();
    write_groups(&place.path().join("train.parquet"), &groups, None);
    write(&place.path().join("test.parquet"), &rows[..2], None);
    let data = load(place.path(), &Parquet::default(), ImageOptions::default()).unwrap();
    let pixels: Vec<u8> = (0..data.train.count()).map(|index| data.train.image(index)[0]).collect();
    assert_eq!(pixels, (0..60).collect::<Vec<u8>>());
    assert_eq!(data.train.name(59).as_deref(), Some("train.parquet:59"));
}

#[test]
fn the_row_groups_of_a_block_stay_while_it_is_decoded() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("train.parquet");
    let rows: Vec<(u32, u8, i64)> = (0..40).map(|row| (2, row, 0)).collect();
    write_groups(&file, &rows.chunks(4).collect::<Vec<_>>(), None);
    let groups = Groups { files: vec![&file], image: String::new(), kept: Kept::new(MOST_BYTES) };
    let decode = |index: usize| {
        let picture = groups.picture(&Place { file: 0, group: index / 4, row: index % 4 });
        picture.is_ok_and(|picture| picture.to_luma8().get_pixel(0, 0).0 == [index as u8])
    };
    assert!((0..40).all(decode));
    // Whatever is asked for now has been kept.
    fs::remove_file(&file).unwrap();
    assert!((0..40).rev().all(decode));
}

#[test]
fn the_shape_is_that_of_the_first_picture_that_can_be_read_and_none_is_read_where_it_is_given() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("train.parquet");
    let rows: Vec<(u32, u8, i64)> = (0..20).map(|row| (3, row, i64::from(row % 2))).collect();
    write_groups(&file, &[&[], &[(0, 0, 0)], &rows], None);
    let skipping = Parquet { skip_unreadable: true, ..Parquet::default() };
    let data = load(place.path(), &skipping, ImageOptions::default()).unwrap();
    assert_eq!((data.train.shape(), data.skipped.len()), ([1, 2, 3], 1));
    let message = load(place.path(), &Parquet::default(), ImageOptions::default()).unwrap_err().to_string();
    assert!(message.contains("1 of 21 pictures cannot be read"), "{message}");
    write(&file, &[(0, 0, 0), (0, 0, 1)], None);
    let message = load(place.path(), &skipping, ImageOptions::default()).unwrap_err().to_string();
    let expected = "none of the pictures can be read; the first: there is no picture in this row";
    assert!(message.ends_with(expected), "{message}");
    write_groups(&file, &[&[]], None);
    let message = load(place.path(), &skipping, ImageOptions::default()).unwrap_err().to_string();
    assert!(message.ends_with("expected a row for each picture, found none"), "{message}");
    // No file is there to be read.
    let groups = Groups { files: Vec::new(), image: String::new(), kept: Kept::new(0) };
    let size = Some(ImageSize { height: 4, width: 5 });
    let options = ImageOptions { size, channels: Some(Channels::Rgb), ..ImageOptions::default() };
    let place = Place { file: 0, group: 0, row: 0 };
    assert_eq!(groups.shape([&place].into_iter(), options).unwrap(), [3, 4, 5]);
}

#[test]
fn a_label_that_is_none_is_refused_before_classes_are_counted() {
    let place = tempfile::tempdir().unwrap();
    write(&place.path().join("train.parquet"), &[(2, 1, 0), (2, 1, 1_000_000_000_000)], None);
    let message = load(place.path(), &Parquet::default(), ImageOptions::default()).unwrap_err().to_string();
    let expected = "train.parquet: expected labels below 65535 in the column `label`, found 1000000000000 in row 1; \
                    --set data.label=COLUMN names another column";
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn a_compression_that_is_not_read_is_told_by_its_name() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("train.parquet");
    write(&file, &[(2, 1, 0), (2, 1, 1)], None);
    let mut bytes = fs::read(&file).unwrap();
    // The end of the column's path, and then the field of the codec, in zigzag: that of zstd is 6.
    let before = b"\x05bytes\x15\x00";
    let at = bytes.windows(before.len()).rposition(|window| window == before).unwrap();
    bytes[at + before.len() - 1] = 12;
    fs::write(&file, &bytes).unwrap();
    let message = load(place.path(), &Parquet::default(), ImageOptions::default()).unwrap_err().to_string();
    let expected = "train.parquet: the column `image.bytes` is compressed with zstd; snappy, gzip and uncompressed";
    assert!(message.contains(expected), "{message}");
}
