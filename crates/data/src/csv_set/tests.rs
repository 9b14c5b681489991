use std::{
    fs,
    io::{self, Write},
};

use flate2::{Compression, write::GzEncoder};
use image::GrayImage;
use kindling_config::{Channels, ImageSize};

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
    let rows = (0..40).map(|row| format!("{},{row},0,0,9\n", row % 2)).collect::<Vec<_>>().concat();
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

/// The names of the classes, and the labels of the training images.
fn classes(labels: &[&str]) -> (Vec<String>, Vec<u16>) {
    let place = tempfile::tempdir().unwrap();
    let rows = labels.iter().map(|label| format!("{label},1\n")).collect::<Vec<_>>().concat();
    fs::write(place.path().join("train.csv"), format!("label,p0\n{rows}")).unwrap();
    fs::write(place.path().join("test.csv"), format!("label,p0\n{rows}")).unwrap();
    let data = data(place.path());
    (data.classes, data.train.labels().to_vec())
}

#[test]
fn labels_are_numbers_only_where_all_are_written_as_numbers_usually_are() {
    let check = |labels: &[&str], expected: &[&str], numbers: &[u16]| {
        let found = classes(labels);
        let names: Vec<&str> = found.0.iter().map(String::as_str).collect();
        assert_eq!((names.as_slice(), found.1.as_slice()), (expected, numbers), "{labels:?}");
    };
    check(&["10", "02", "00", "01"], &["00", "01", "02", "10"], &[3, 2, 0, 1]);
    check(&["1", "01", "1"], &["01", "1"], &[1, 0, 1]);
    check(&["10", "9", "9.0"], &["9", "10"], &[1, 0, 0]);
    check(&["v1.0", "v1", "v1.0"], &["v1", "v1.0"], &[1, 0, 1]);
}

#[test]
fn colours_plane_by_plane_are_taken_as_they_are() {
    let place = tempfile::tempdir().unwrap();
    let header: Vec<String> = (0..12).map(|pixel| format!("p{pixel}")).collect();
    let text = format!("{},label\n1,2,3,4,5,6,7,8,9,10,11,12,cat\n", header.join(","));
    fs::write(place.path().join("train.csv"), &text).unwrap();
    fs::write(place.path().join("test.csv"), &text).unwrap();
    assert_eq!(data(place.path()).train.image(0)[..3], [1, 4, 7]);
    let planar = Csv { planar: true, ..Csv::default() };
    let data = load(place.path(), &planar, ImageOptions::default()).0.unwrap();
    assert_eq!(data.train.image(0), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
}

/// The packed files of the set in `place`.
fn packs(place: &Path) -> usize {
    let files = fs::read_dir(place.join(".cache/packed")).unwrap();
    files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|ending| ending == "kindling")).count()
}

#[test]
fn a_picture_that_is_repaired_is_read_again_and_pixels_are_packed_once_for_all_sizes() {
    let place = tempfile::tempdir().unwrap();
    let picture = place.path().join("a.png");
    GrayImage::from_pixel(2, 2, image::Luma([10])).save(&picture).unwrap();
    let rows = "path,label\na.png,cat\n";
    fs::write(place.path().join("train.csv"), rows).unwrap();
    fs::write(place.path().join("test.csv"), rows).unwrap();
    let sized = |side| ImageOptions {
        size: Some(ImageSize { height: side, width: side }),
        channels: Some(Channels::Grey),
        ..ImageOptions::default()
    };
    let first = |options| load(place.path(), &Csv::default(), options).0.unwrap().train.image(0)[0];
    assert_eq!((first(sized(2)), packs(place.path())), (10, 1));
    // Of another length too, whatever the clock of the file system says.
    GrayImage::from_pixel(20, 20, image::Luma([200])).save(&picture).unwrap();
    assert_eq!((first(sized(2)), packs(place.path())), (200, 2));
    assert_eq!((first(sized(3)), packs(place.path())), (200, 3));

    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("train.csv"), "label,p0\n0,7\n").unwrap();
    fs::write(place.path().join("test.csv"), "label,p0\n0,7\n").unwrap();
    for side in [1, 2, 3] {
        let data = load(place.path(), &Csv::default(), sized(side)).0.unwrap();
        assert_eq!((data.train.shape(), packs(place.path())), ([1, 1, 1], 1));
    }
    assert_eq!((data(&place.path().join(".")).train.image(0)[0], packs(place.path())), (7, 1));
}

#[test]
fn files_of_other_programs_are_read() {
    let place = tempfile::tempdir().unwrap();
    let text = "\u{feff}\"label\",\"p0\"\r\n\"a, \"\"b\"\"\",\"7\"\r\nc,8\r\n";
    fs::write(place.path().join("train.csv"), text).unwrap();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all("\u{feff}label,p0\nc,9\n".as_bytes()).unwrap();
    fs::write(place.path().join("test.csv.gz"), encoder.finish().unwrap()).unwrap();
    let data = data(place.path());
    assert_eq!(data.classes, ["a, \"b\"", "c"]);
    assert_eq!((data.train.image(0), data.train.image(1), data.test.image(0)), (&[7][..], &[8][..], &[9][..]));
}

#[test]
fn a_file_without_rows_is_told() {
    let expected = "set.csv: expected a row for each image, found the header alone";
    assert!(message("label,p0\n").ends_with(expected));
    assert!(message("label,path\n").contains("need one size"));
}

#[test]
fn a_packed_file_that_is_cut_short_anywhere_is_told() {
    let rows = (0..400).map(|row| format!("{},{}\n", row % 10, row * 7 % 256)).collect::<Vec<_>>().concat();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(format!("label,p0\n{rows}").as_bytes()).unwrap();
    let whole = encoder.finish().unwrap();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("set.csv.gz");
    for length in [0, 5, 12, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        let message = load(place.path(), &Csv::default(), ImageOptions::default()).0.unwrap_err().to_string();
        assert!(message.contains("the file is cut short") && message.ends_with("get it again"), "{length}: {message}");
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(data(place.path()).train.count(), 320);
}

#[test]
fn a_row_without_an_end_is_refused_before_it_fills_the_memory() {
    let mut bounded = table::Bounded { inner: io::repeat(b'a'), left: 1 << 10 };
    let error = io::copy(&mut bounded, &mut io::sink()).unwrap_err().to_string();
    assert_eq!((error.as_str(), bounded.left), ("the row is too long (is a quote not closed?)", 0));
}
