mod unreadable;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use proptest::prelude::*;

use super::*;

const KEY: &str = "0123abcd";

/// A picture of bytes that count up from this one, or an unreadable one.
type Item = Option<u8>;

#[allow(clippy::trivially_copy_pass_by_ref)] // As pictures are.
fn decode(item: &Item, out: &mut [u8]) -> Result<(), Unreadable> {
    let first = item.ok_or_else(|| "not a picture".to_owned())?;
    out.iter_mut().enumerate().for_each(|(index, byte)| *byte = first.wrapping_add(index as u8));
    Ok(())
}

fn request(source: &Path, skip_unreadable: bool) -> Request<'_> {
    Request { name: "folder", source, key: KEY, fit: None, skip_unreadable }
}

fn sample(label: u16, name: &str, item: Item) -> Sample<Item> {
    Sample { label, name: name.to_owned(), item }
}

/// Three pictures to train on, none for validation, one to test on, of 2x3 pixels in colour.
fn small() -> Plan<Item> {
    let train = vec![sample(0, "a/1.png", Some(3)), sample(1, "b/ä.png", Some(9)), sample(0, "", Some(200))];
    let classes = ["a", "b"].map(str::to_owned).to_vec();
    Plan { classes, shape: [3, 2, 3], splits: [train, Vec::new(), vec![sample(1, "b/2.png", Some(0))]] }
}

fn file(directory: &Path) -> PathBuf {
    directory.join(format!("folder-{KEY}.kindling"))
}

/// Opens or makes the file of `plan`; whether it was made, and the events.
fn pack(directory: &Path, skip: bool, plan: Plan<Item>) -> (Result<Packed, String>, bool, Vec<LoadEvent>) {
    let (mut is_made, mut events) = (false, Vec::new());
    let request = request(Path::new("pictures"), skip);
    let packed =
        packed_in(directory, &request, &mut |event| events.push(event), |_| Ok(make_known(plan, &mut is_made)), decode);
    (packed.map_err(|error| error.to_string()), is_made, events)
}

fn make_known(plan: Plan<Item>, is_made: &mut bool) -> Plan<Item> {
    *is_made = true;
    plan
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Labels, names and pixels of each split.
fn content(packed: &Packed) -> Vec<Vec<(u16, String, Vec<u8>)>> {
    let of_set = |set: &ImageSet| {
        let images = 0..set.count();
        images.map(|index| (set.labels()[index], set.name(index).unwrap(), set.image(index).to_vec())).collect()
    };
    packed.splits.iter().map(|set| set.as_ref().map(of_set).unwrap_or_default()).collect()
}

/// What [`content`] should be of a plan.
fn expected(plan: &Plan<Item>) -> Vec<Vec<(u16, String, Vec<u8>)>> {
    let of_sample = |sample: &Sample<Item>| {
        let mut pixels = vec![0; plan.shape.iter().product()];
        decode(&sample.item, &mut pixels).ok()?;
        Some((sample.label, sample.name.clone(), pixels))
    };
    plan.splits.iter().map(|samples| samples.iter().filter_map(of_sample).collect()).collect()
}

#[test]
fn a_set_is_made_once_and_found_from_then_on() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("packed");
    let (first, is_made, events) = pack(&place, false, small());
    let first = first.unwrap();
    assert!(is_made);
    assert!(matches!(&events[0], LoadEvent::Temporary(path) if path.starts_with(&place) && !path.exists()));
    assert_eq!(events[1], LoadEvent::Decoding { total: 4 });
    assert_eq!(events.last(), Some(&LoadEvent::Packed(file(&place))));
    let done = events.iter().map(|event| if let LoadEvent::Decoded(more) = event { *more } else { 0 });
    assert_eq!(done.sum::<usize>(), 4);
    let (second, is_made, events) = pack(&place, false, small());
    let second = second.unwrap();
    assert!(!is_made && events.is_empty(), "{events:?}");
    for packed in [first, second] {
        assert_eq!(content(&packed), expected(&small()));
        assert_eq!((packed.classes.join(" ").as_str(), packed.skipped.len()), ("a b", 0));
        assert!(packed.splits[1].is_none() && packed.splits[2].as_ref().unwrap().is_mapped());
    }
    assert_eq!(names_in(&place), [format!("folder-{KEY}.kindling"), format!("folder-{KEY}.kindling.lock")]);
}

#[test]
fn selections_of_a_packed_set_keep_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let train = pack(directory.path(), false, small()).0.unwrap().splits[0].clone().unwrap();
    let selected = train.select(&[2, 1]);
    assert_eq!([0, 1].map(|index| selected.name(index).unwrap()), ["", "b/ä.png"]);
    assert_eq!(selected.transposed().name(0), None);
}

#[test]
fn a_damaged_byte_anywhere_and_a_cut_anywhere_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    pack(directory.path(), false, small()).0.unwrap();
    let path = file(directory.path());
    let whole = fs::read(&path).unwrap();
    let other = directory.path().join("other.kindling");
    let check = |bytes: &[u8], what: &str| {
        fs::write(&other, bytes).unwrap();
        let outcome = read::open(&other, KEY);
        assert!(outcome.is_err(), "{what} is not noticed");
    };
    for position in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[position] ^= 1 << (position % 8);
        check(&damaged, &format!("byte {position}"));
    }
    for length in [0, 1, 8, 12, 20, 32, 4095, 4096, 4100, whole.len() - 1] {
        check(&whole[..length], &format!("a cut at {length}"));
    }
    check(&[&whole[..], b"\n"].concat(), "a byte more");
}

#[test]
fn a_file_that_is_damaged_foreign_or_of_another_version_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path());
    pack(directory.path(), false, small()).0.unwrap();
    let whole = fs::read(&path).unwrap();
    let changed = |position: usize| {
        let mut bytes = whole.clone();
        bytes[position] ^= 2;
        bytes
    };
    let checks = [
        (changed(8), "expected version 1 of the packed format, found 3"),
        (b"<!doctype html>".to_vec(), "not a packed file of Kindling's"),
        (Vec::new(), "not a packed file of Kindling's"),
        (whole[..5000.min(whole.len() - 9)].to_vec(), "damaged, or cut short"),
        (changed(PIXELS + 20), "damaged (pixels between bytes 0 and 1048576)"),
        (changed(PIXELS + 4 * 18), "damaged (labels or names)"),
        (changed(whole.len() - 3), "damaged (its header)"),
    ];
    for (bytes, reason) in checks {
        fs::write(&path, bytes).unwrap();
        let (packed, is_made, events) = pack(directory.path(), false, small());
        assert_eq!(content(&packed.unwrap()), expected(&small()));
        assert!(is_made, "{reason}");
        let LoadEvent::Notice(notice) = &events[0] else { unreachable!("{events:?}") };
        assert!(notice.contains(reason) && notice.ends_with("; it is made again"), "{notice}");
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
    assert!(read::open(&path, "4567").is_err(), "a file of other pictures");
}

#[test]
fn what_a_killed_process_leaves_is_removed_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    let [ours, other, kept] = [format!(".folder-{KEY}.kindling-x7"), ".cifar-1.kindling-y8".into(), "mine.txt".into()];
    for name in [&ours, &other, &kept] {
        fs::write(place(name), b"half").unwrap();
    }
    let (packed, is_made, _) = pack(directory.path(), false, small());
    assert!(packed.is_ok() && is_made);
    assert!(!place(&ours).exists() && place(&other).exists() && place(&kept).exists());
}

#[test]
fn without_a_lock_only_what_is_old_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let [ours, old] = ["x7", "y8"].map(|end| directory.path().join(format!(".folder-{KEY}.kindling-{end}")));
    fs::write(&ours, b"half").unwrap();
    File::create(&old).unwrap().set_modified(std::time::SystemTime::now() - 2 * LEFT_OVER).unwrap();
    remove_left_overs(directory.path(), None);
    assert!(ours.exists() && !old.exists());
}

#[cfg(unix)]
#[test]
fn a_packed_file_may_be_read_by_whom_any_other_new_file_may_be() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    pack(directory.path(), false, small()).0.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    let other = directory.path().join("other");
    File::create(&other).unwrap();
    assert_eq!(mode(&file(directory.path())), mode(&other));
}

#[test]
fn of_two_at_once_one_packs_and_the_other_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let decoded = AtomicUsize::new(0);
    let start = Barrier::new(4);
    let one = || {
        let request = request(Path::new("pictures"), false);
        let decode = |item: &Item, out: &mut [u8]| {
            decoded.fetch_add(1, Ordering::Relaxed);
            decode(item, out)
        };
        start.wait();
        content(&packed_in(directory.path(), &request, &mut |_| {}, |_| Ok(small()), decode).unwrap())
    };
    let all = thread::scope(|scope| [0; 4].map(|_| scope.spawn(one)).map(|thread| thread.join().unwrap()));
    assert!(all.iter().all(|content| *content == expected(&small())));
    assert_eq!(decoded.load(Ordering::Relaxed), 4, "each picture is decoded once");
}

#[test]
fn who_waits_for_another_process_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let request = request(Path::new("pictures"), false);
    let path = file(directory.path());
    let mut lock = locked(&path, &request, &mut |_| {}).unwrap();
    let mut notices = Vec::new();
    // The notice comes before the waiting begins.
    let mut on_event = |event| {
        notices.push(event);
        drop(lock.take());
    };
    locked(&path, &request, &mut on_event).unwrap();
    let expected = "waiting for another process that packs the pictures of pictures".to_owned();
    assert_eq!(notices, [LoadEvent::Notice(expected)]);
}

#[test]
fn plans_that_make_no_set_are_errors() {
    let message = |change: &dyn Fn(&mut Plan<Item>)| {
        let directory = tempfile::tempdir().unwrap();
        let mut plan = small();
        change(&mut plan);
        let message = pack(directory.path(), true, plan).0.unwrap_err();
        assert_eq!(names_in(directory.path()), [format!("folder-{KEY}.kindling.lock")]);
        message
    };
    assert_eq!(message(&|plan| plan.splits = Default::default()), "pictures: expected pictures, found none");
    let beyond = message(&|plan| plan.splits[2][0].label = 2);
    assert_eq!(beyond, "pictures: b/2.png: expected a label below 2, found 2");
    assert_eq!(message(&|plan| plan.shape = [7, 1, 1]), "pictures: expected one to four channels, found 7");
    let none = message(&|plan| plan.splits.iter_mut().flatten().for_each(|sample| sample.item = None));
    assert!(none.starts_with("pictures: 4 of 4 pictures cannot be read:\n  a/1.png: not a picture\n"), "{none}");
}

/// A disk that takes so many bytes more.
struct Full(File, usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match bytes.len().min(self.1) {
            0 if !bytes.is_empty() => Err(io::ErrorKind::StorageFull.into()),
            taken => {
                self.1 -= taken;
                self.0.write(&bytes[..taken])
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for Full {
    fn seek(&mut self, position: io::SeekFrom) -> io::Result<u64> {
        self.0.seek(position)
    }
}

#[test]
fn a_full_disk_and_a_cache_that_is_a_file_are_errors_with_the_path_and_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path());
    let request = request(Path::new("pictures"), false);
    let make = |space| make(&path, &request, small(), &decode, &mut |_| {}, |file| Full(file, space));
    // Full in the first page, in the pixels, in the tables, in the header.
    for space in [100, PIXELS + 10, PIXELS + 75, PIXELS + 160] {
        let message = make(space).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{}: cannot be written: ", path.display())), "{message}");
        let way_on = "(the packed pictures take 1 MiB); KINDLING_CACHE_DIR names another directory for the cache";
        assert!(message.ends_with(way_on), "{message}");
        assert_eq!(names_in(directory.path()), [""; 0]);
    }
    make(1 << 20).unwrap();
    assert!(read::open(&path, KEY).unwrap().is_some());
    // A cache that is no directory.
    let message = pack(&path, false, small()).0.unwrap_err();
    assert!(message.starts_with(&path.display().to_string()) && message.contains("KINDLING_CACHE_DIR"), "{message}");
}

#[test]
fn no_more_than_64_mib_of_pixels_are_in_memory_at_once() {
    for size in [1, 784, 3 * 224 * 224, 3 << 20, 16 << 20, 40 << 20] {
        let images = write::images_in_a_block(size);
        assert!(images == 1 || (2..=1024).contains(&images) && 2 * images * size <= 64 << 20, "{size}");
    }
    assert_eq!([3 * 224 * 224, 64 << 20].map(write::images_in_a_block), [222, 1]);
}

#[test]
fn a_set_of_many_blocks_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let plan = || {
        let item = |index: usize| (!index.is_multiple_of(700)).then_some(index as u8);
        let sample = |index: usize| sample((index % 3) as u16, &index.to_string(), item(index));
        let classes = (0..3).map(|class| class.to_string()).collect();
        Plan {
            classes,
            shape: [1, 40, 30],
            splits: [0..2100, 0..1300, 0..900].map(|range| range.map(sample).collect()),
        }
    };
    let (packed, _, events) = pack(directory.path(), true, plan());
    let done: Vec<usize> = events
        .iter()
        .filter_map(|event| if let LoadEvent::Decoded(more) = event { Some(*more) } else { None })
        .collect();
    assert_eq!(done, [1024, 1024, 52, 1024, 276, 900]);
    assert_eq!(content(&packed.unwrap()), expected(&plan()));
    assert_eq!(content(&pack(directory.path(), true, plan()).0.unwrap()), expected(&plan()));
}

#[test]
fn the_digest_is_of_the_content_and_of_nothing_else() {
    let sha256 = |change: &dyn Fn(&mut Plan<Item>)| {
        let directory = tempfile::tempdir().unwrap();
        let mut plan = small();
        change(&mut plan);
        pack(directory.path(), true, plan).0.unwrap().sha256
    };
    let plain = sha256(&|_| {});
    assert_eq!(sha256(&|plan| plan.splits[0][0].name = "c/7.png".to_owned()), plain);
    assert_eq!(sha256(&|plan| plan.splits[0].push(sample(0, "broken", None))), plain);
    let others = [
        sha256(&|plan| plan.splits[0][0].item = Some(4)),
        sha256(&|plan| plan.splits[0][0].label = 1),
        sha256(&|plan| plan.classes[0] = "A".to_owned()),
        sha256(&|plan| plan.shape = [3, 3, 2]),
        sha256(&|plan| plan.splits.swap(0, 1)),
        sha256(&|plan| plan.splits[0].swap(0, 1)),
    ];
    assert_eq!(others.into_iter().chain([plain]).collect::<BTreeSet<_>>().len(), 7);
}

fn samples() -> impl Strategy<Value = Vec<Sample<Item>>> {
    let sample = (0_u16..3, any::<String>(), prop::option::weighted(0.9, any::<u8>()));
    let sample = sample.prop_map(|(label, name, item)| Sample { label, name, item });
    prop::collection::vec(sample, 0..12)
}

impl std::fmt::Debug for Sample<Item> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {:?}", self.label, self.name, self.item)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_packed_is_read_again(
        splits in [samples(), samples(), samples()], channels in 1_usize..=4, height in 1_usize..7, width in 1_usize..7,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let classes = ["a", "", "ß\n\"c\""].map(str::to_owned).to_vec();
        let plan = Plan { classes: classes.clone(), shape: [channels, height, width], splits };
        let expected = expected(&plan);
        let unreadable = plan.splits.iter().flatten().filter(|sample| sample.item.is_none()).count();
        let is_lost = |split: &Vec<Sample<Item>>| split.iter().all(|sample| sample.item.is_none());
        prop_assume!(plan.splits.iter().flatten().count() > unreadable);
        prop_assume!(plan.splits.iter().all(|split| split.is_empty() || !is_lost(split)));
        let made = pack(directory.path(), true, plan).0.unwrap();
        let found = read::open(&file(directory.path()), KEY).unwrap().unwrap();
        for packed in [&made, &found] {
            prop_assert_eq!(content(packed), expected.clone());
            prop_assert_eq!((&packed.classes, packed.skipped.len()), (&classes, unreadable));
            prop_assert_eq!(&packed.sha256, &made.sha256);
        }
    }
}
