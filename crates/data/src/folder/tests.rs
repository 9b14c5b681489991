use std::{fs, path::Path};

use image::{GrayImage, Luma, Rgb, RgbImage};

use super::*;
use crate::picture::tests::bomb;

/// Writes grey pictures of 4x3 pixels, each of one byte.
fn add(place: &Path, pictures: &[(&str, u8)]) {
    for (name, value) in pictures {
        let path = place.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        GrayImage::from_pixel(3, 4, Luma([*value])).save(path).unwrap();
    }
}

/// Loads the set and tells what happens meanwhile.
fn events(place: &Path, folder: &Folder, images: ImageOptions) -> (Result<ImageData, DataError>, Vec<LoadEvent>) {
    let mut events = Vec::new();
    let data = folder.load(&mut Load { directory: Some(place), images, on_event: &mut |event| events.push(event) });
    (data, events)
}

fn notices(events: &[LoadEvent]) -> Vec<&str> {
    let notices = events.iter().filter_map(|event| match event {
        LoadEvent::Notice(text) => Some(text.as_str()),
        _ => None,
    });
    notices.collect()
}

fn load(place: &Path) -> ImageData {
    events(place, &Folder::default(), ImageOptions::default()).0.unwrap()
}

fn message(place: &Path) -> String {
    events(place, &Folder::default(), ImageOptions::default()).0.unwrap_err().to_string()
}

/// The first pixel of each image.
fn pixels(set: &crate::ImageSet) -> Vec<u8> {
    (0..set.count()).map(|index| set.image(index)[0]).collect()
}

#[test]
fn splits_with_directories_of_their_own_are_taken_as_they_are() {
    for [train, valid, test] in [["train", "valid", "test"], ["Training", "val", "TEST"], ["train", "dev", "testing"]] {
        let place = tempfile::tempdir().unwrap();
        let all = ["dog/1.png", "cat/1.png", "cat/more/2.png"].map(|name| format!("{train}/{name}"));
        add(place.path(), &[(&all[0], 1), (&all[1], 2), (&all[2], 3)]);
        add(place.path(), &[(&format!("{valid}/dog/1.png"), 4), (&format!("{test}/cat/9.png"), 5)]);
        let (data, events) = events(place.path(), &Folder::default(), ImageOptions::default());
        let data = data.unwrap();
        assert_eq!((&data.classes[..], data.train.shape()), (&["cat".to_owned(), "dog".to_owned()][..], [1, 4, 3]));
        assert_eq!((data.train.labels(), pixels(&data.train)), (&[0, 1, 0][..], vec![2, 1, 3]));
        let valid = data.valid.unwrap();
        assert_eq!((valid.labels(), pixels(&valid), data.test.labels()), (&[1][..], vec![4], &[0][..]));
        assert_eq!((data.fit, &*data.name, data.train.name(1)), (Some(Fit::Crop), "folder", Some(all[0].clone())));
        assert_eq!(notices(&events), [""; 0]);
    }
}

#[test]
fn a_set_in_one_piece_is_split_by_its_shares_and_a_seed() {
    let place = tempfile::tempdir().unwrap();
    for index in 0..20 {
        add(place.path(), &[(&format!("a/{index}.png"), index), (&format!("b/{index}.png"), 100 + index)]);
    }
    let data = load(place.path());
    let counts = [&data.train, data.valid.as_ref().unwrap(), &data.test].map(|set| set.class_counts(2));
    assert_eq!(counts, [[16, 16], [2, 2], [2, 2]]);
    assert_eq!(load(place.path()).sha256, data.sha256);
    let other = Folder { split: vec![0.5, 0.0, 0.5], split_seed: 1, ..Folder::default() };
    let other = events(place.path(), &other, ImageOptions::default()).0.unwrap();
    assert_eq!((other.train.count(), other.valid, other.test.count()), (20, None, 20));
    assert_ne!(other.sha256, data.sha256);
    let wrong = Folder { split: vec![0.9, 0.3], ..Folder::default() };
    let size = Some(ImageSize { height: 2, width: 2 });
    let (outcome, told) = events(place.path(), &wrong, ImageOptions { size, ..ImageOptions::default() });
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("0.9,0.3"), "{message}");
    assert!(told.is_empty(), "refused before pictures are decoded: {told:?}");
}

#[test]
fn a_split_that_is_not_there_is_told_about() {
    let place = tempfile::tempdir().unwrap();
    for index in 0..4 {
        add(place.path(), &[(&format!("train/a/{index}.png"), 1), (&format!("train/b/{index}.png"), 2)]);
    }
    let (data, told) = events(place.path(), &Folder::default(), ImageOptions::default());
    assert_eq!((data.unwrap().test.count(), notices(&told).len()), (2, 1));
    assert!(notices(&told)[0].ends_with("the training pictures are split"), "{told:?}");
    add(place.path(), &[("val/a/1.png", 3)]);
    let (data, told) = events(place.path(), &Folder::default(), ImageOptions::default());
    let data = data.unwrap();
    assert_eq!((data.train.count(), data.valid, pixels(&data.test)), (8, None, vec![3]));
    assert_eq!(notices(&told).len(), 1);
    assert!(notices(&told)[0].ends_with("no test images; the validation split is the test split"), "{told:?}");
}

#[test]
fn pictures_are_in_the_order_of_their_names_whatever_their_class() {
    let place = tempfile::tempdir().unwrap();
    for index in 0..12 {
        add(place.path(), &[(&format!("train/{}/{index:05}.png", index * 7 % 3), index)]);
    }
    add(place.path(), &[("test/0/1.png", 0), ("test/1/1.png", 1)]);
    let data = load(place.path());
    assert_eq!(pixels(&data.train), (0..12).collect::<Vec<u8>>());
    assert_eq!(data.train.labels().to_vec(), (0..12).map(|index| index * 7 % 3).collect::<Vec<u16>>());
    assert_eq!(data.test.labels(), [0, 1]);
}

#[test]
fn pictures_are_decoded_once_and_again_when_one_of_them_changes() {
    let place = tempfile::tempdir().unwrap();
    add(place.path(), &[("train/a/1.png", 1), ("train/b/1.png", 2), ("test/a/1.png", 3)]);
    let mut skip_unreadable = false;
    let mut decoded = || {
        // Whether unreadable pictures may be skipped makes no difference to those that are not.
        skip_unreadable = !skip_unreadable;
        let folder = Folder { skip_unreadable, ..Folder::default() };
        let (data, events) = events(place.path(), &folder, ImageOptions::default());
        let is_decoding = |event: &LoadEvent| matches!(event, LoadEvent::Decoding { total: 3 });
        (pixels(&data.unwrap().test), events.iter().any(is_decoding))
    };
    assert_eq!((decoded(), decoded()), ((vec![3], true), (vec![3], false)));
    let changed = place.path().join("test/a/1.png");
    let before = fs::metadata(&changed).unwrap().modified().unwrap();
    add(place.path(), &[("test/a/1.png", 9)]);
    fs::File::options()
        .write(true)
        .open(changed)
        .unwrap()
        .set_modified(before + std::time::Duration::from_micros(10))
        .unwrap();
    assert_eq!(decoded(), (vec![9], true));
}

#[test]
fn what_is_no_picture_of_a_class_is_told_about_once_and_what_is_hidden_is_not() {
    let place = tempfile::tempdir().unwrap();
    add(place.path(), &[("train/a/1.png", 1), ("train/b/1.PNG", 2), ("test/a/1.png", 3), ("train/.trash/1.png", 4)]);
    fs::create_dir_all(place.path().join("train/empty")).unwrap();
    for name in ["README.md", "train/list.txt", "train/a/notes.txt", ".hidden", "train/a/.DS_Store", "train/Thumbs.db"]
    {
        fs::write(place.path().join(name), "text").unwrap();
    }
    let (data, events) = events(place.path(), &Folder::default(), ImageOptions::default());
    let data = data.unwrap();
    assert_eq!((data.train.count(), &data.classes[..]), (2, &["a", "b", "empty"].map(str::to_owned)[..]));
    let notices = notices(&events);
    assert!(notices[0].ends_with("no pictures to train on in the directories of empty"), "{notices:?}");
    let strays = "3 entries are no picture of a class, and left out: README.md, train/list.txt, train/a/notes.txt";
    assert!(notices.len() == 2 && notices[1].ends_with(strays), "{notices:?}");
}

#[test]
fn pictures_of_several_sizes_need_one_asked_for() {
    let place = tempfile::tempdir().unwrap();
    add(place.path(), &[("train/a/1.png", 1), ("train/b/1.png", 2), ("test/a/1.png", 3)]);
    RgbImage::from_pixel(8, 8, Rgb([255, 0, 0])).save(place.path().join("train/b/2.jpg")).unwrap();
    let found = message(place.path());
    assert!(found.contains("found 2 sizes: 4x3 (3), 8x8 (1);") && found.contains("--image-size 64"), "{found}");
    let size = Some(ImageSize { height: 6, width: 5 });
    let shape = |channels| {
        let options = ImageOptions { size, channels, fit: Fit::Pad };
        let data = events(place.path(), &Folder::default(), options).0.unwrap();
        (data.train.shape(), data.fit)
    };
    assert_eq!(shape(None), ([3, 6, 5], Some(Fit::Pad)));
    assert_eq!(shape(Some(Channels::Grey)), ([1, 6, 5], Some(Fit::Pad)));
    fs::remove_file(place.path().join("train/b/2.jpg")).unwrap();
    assert_eq!(shape(None).0, [1, 6, 5]);
}

#[test]
fn pictures_of_one_pixel_are_taken_and_monsters_are_not() {
    let place = tempfile::tempdir().unwrap();
    for name in ["train/a/1.png", "train/b/1.png", "test/b/1.png"] {
        fs::create_dir_all(place.path().join(name).parent().unwrap()).unwrap();
        GrayImage::from_pixel(1, 1, Luma([9])).save(place.path().join(name)).unwrap();
    }
    assert_eq!(load(place.path()).train.shape(), [1, 1, 1]);
    fs::write(place.path().join("train/b/2.png"), bomb(40_000)).unwrap();
    assert!(message(place.path()).contains("found 2 sizes: 1x1 (3), 40000x40000 (1)"));
    let options = ImageOptions { size: Some(ImageSize { height: 2, width: 2 }), ..ImageOptions::default() };
    let found = events(place.path(), &Folder::default(), options).0.unwrap_err().to_string();
    assert!(found.contains("2.png") && found.contains("40000x40000 pixels take 4577 MiB"), "{found}");
    for name in ["train/a/1.png", "train/b/1.png", "test/b/1.png"] {
        fs::write(place.path().join(name), bomb(40_000)).unwrap();
    }
    let found = message(place.path());
    assert!(found.contains("expected pictures of at most 4096x4096 pixels, found 40000x40000"), "{found}");
}

#[test]
fn unreadable_pictures_are_all_listed_or_left_out_and_recorded() {
    let place = tempfile::tempdir().unwrap();
    add(place.path(), &[("train/a/1.png", 1), ("train/b/1.png", 2), ("test/a/1.png", 3)]);
    fs::write(place.path().join("train/a/2.png"), "text").unwrap();
    let whole = fs::read(place.path().join("train/b/1.png")).unwrap();
    fs::write(place.path().join("train/b/2.png"), &whole[..whole.len() - 6]).unwrap();
    let found = message(place.path());
    assert!(["a/2.png", "b/2.png", "--skip-unreadable"].iter().all(|part| found.contains(part)), "{found}");
    let folder = Folder { skip_unreadable: true, ..Folder::default() };
    let data = events(place.path(), &folder, ImageOptions::default()).0.unwrap();
    assert_eq!((data.train.count(), data.skipped.len()), (2, 2));
    assert!(data.skipped[0].contains("a/2.png"), "{:?}", data.skipped);
    for name in ["train/a/1.png", "train/b/1.png", "train/b/2.png", "test/a/1.png"] {
        fs::write(place.path().join(name), "").unwrap();
    }
    assert!(message(place.path()).contains("none of the pictures can be read: "));
}

#[test]
fn a_directory_that_is_no_such_set_is_refused_with_what_is_wrong() {
    let place = tempfile::tempdir().unwrap();
    let check = |pictures: &[&str], expected: &[&str]| {
        let directory = tempfile::tempdir_in(place.path()).unwrap();
        add(directory.path(), &pictures.iter().map(|name| (*name, 1)).collect::<Vec<_>>());
        let message = message(directory.path());
        assert!(expected.iter().all(|part| message.contains(part)), "{message}");
    };
    check(&[], &["expected a directory for each class", "found an empty directory"]);
    check(&["1.png", "2.png"], &["a directory for each class", "found no directory, but 2 pictures (1.png, 2.png)"]);
    check(&["train/1.png"], &["train: expected a directory for each class", "but 1 pictures"]);
    check(&["val/a/1.png", "test/a/1.png"], &["expected a directory `train`, found val, test"]);
    check(&["train/a/1.png", "training/a/1.png", "test/a/1.png"], &["expected one directory of this split"]);
    check(&["train/a/1.png", "test/a/1.png", "test/b/1.png"], &["lack classes that other splits have", "test/b"]);
    let single: Vec<String> = (0..11).map(|index| format!("{index}/1.png")).collect();
    check(
        &single.iter().map(String::as_str).collect::<Vec<_>>(),
        &["expected a directory for each class, with all pictures", "found 11 directories with 11 pictures in all"],
    );
    check(&["train/a/1.png", "train/b/1.png", "test/a/.1.png"], &["expected two images of some class"]);
    let file = place.path().join("file");
    fs::write(&file, "text").unwrap();
    assert!(message(&file).contains("expected the directory of the pictures, found a file"));
    assert!(message(&place.path().join("none")).contains("none: "));
    let nowhere =
        Folder::default().load(&mut Load { directory: None, images: ImageOptions::default(), on_event: &mut |_| {} });
    assert!(nowhere.unwrap_err().to_string().contains("--data-dir DIR"));
}

#[test]
fn a_directory_for_each_picture_is_refused_before_all_are_searched() {
    let place = tempfile::tempdir().unwrap();
    (0..10_001).for_each(|index| fs::create_dir(place.path().join(index.to_string())).unwrap());
    let found = message(place.path());
    assert!(found.contains("at most 10000 classes, found 10001 directories"), "{found}");
}

#[test]
fn directories_without_pictures_are_refused_with_what_they_have() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("a")).unwrap();
    fs::write(place.path().join("a/data.csv"), "1,2").unwrap();
    let found = message(place.path());
    assert!(found.contains("expected pictures in the directories of the classes"), "{found}");
    assert!(found.ends_with("found a/data.csv"), "{found}");
}

#[cfg(unix)]
mod unix {
    use std::{
        ffi::OsStr,
        os::unix::{
            ffi::OsStrExt,
            fs::{PermissionsExt, symlink},
        },
    };

    use super::*;

    #[test]
    fn symbolic_links_are_followed_and_those_in_a_circle_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        add(other.path(), &[("far/1.png", 7)]);
        add(place.path(), &[("train/a/1.png", 1), ("train/b/1.png", 2), ("test/a/1.png", 3)]);
        symlink(other.path().join("far"), place.path().join("train/far")).unwrap();
        symlink(other.path().join("far/1.png"), place.path().join("train/a/2.png")).unwrap();
        assert_eq!(pixels(&load(place.path()).train), [1, 2, 7, 7]);
        // A picture that a link leads to and that is gone cannot be read.
        let gone = place.path().join("train/a/gone.png");
        symlink("nowhere", &gone).unwrap();
        assert!(message(place.path()).contains("train/a/gone.png"));
        fs::remove_file(gone).unwrap();
        symlink("../a", place.path().join("train/a/circle")).unwrap();
        let found = message(place.path());
        assert!(
            found.contains("a/circle: the symbolic link leads back to ") && found.ends_with("remove it"),
            "{found}"
        );
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_named() {
        let place = tempfile::tempdir().unwrap();
        add(place.path(), &[("train/a/1.png", 1), ("train/b/closed/1.png", 2), ("test/a/1.png", 3)]);
        let closed = place.path().join("train/b/closed");
        let set_mode = |mode| fs::set_permissions(&closed, fs::Permissions::from_mode(mode)).unwrap();
        set_mode(0);
        // The superuser can read everything.
        if fs::read_dir(&closed).is_err() {
            assert!(message(place.path()).contains("train/b/closed: "));
        }
        set_mode(0o755);
    }

    #[test]
    fn names_that_are_no_utf_8_are_shown_as_well_as_possible_and_refused_for_classes() {
        let place = tempfile::tempdir().unwrap();
        add(place.path(), &[("train/a/1.png", 1), ("train/b/1.png", 2), ("test/a/1.png", 3)]);
        let from = place.path().join("train/a/1.png");
        // Not every file system has such names.
        let Ok(_) = fs::copy(&from, place.path().join("train/a").join(OsStr::from_bytes(b"caf\xe9.png"))) else {
            return;
        };
        let train = load(place.path()).train;
        assert_eq!(train.name(2).unwrap(), "train/a/caf\u{FFFD}.png");
        fs::create_dir(place.path().join("train").join(OsStr::from_bytes(b"caf\xe9"))).unwrap();
        let found = message(place.path());
        assert!(found.contains("caf\u{FFFD}: a class has a name that is no UTF-8; rename the directory"), "{found}");
    }
}

#[test]
fn a_class_may_be_called_train_and_the_directory_of_runs_is_none() {
    let place = tempfile::tempdir().unwrap();
    let names = ["bus", "car", "train"].map(|class| (1..=4).map(move |picture| format!("{class}/{picture}.png")));
    let names: Vec<String> = names.into_iter().flatten().collect();
    add(place.path(), &names.iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>());
    add(place.path(), &[("runs/first/mistakes/1.png", 9)]);
    fs::write(place.path().join("runs/first/run.json"), "{}").unwrap();
    let (data, events) = events(place.path(), &Folder::default(), ImageOptions::default());
    assert_eq!(data.unwrap().classes, ["bus", "car", "train"]);
    assert!(notices(&events).iter().any(|notice| notice.ends_with("left out: runs")), "{:?}", notices(&events));
}
