use super::*;

/// Three unreadable pictures of seven, in two splits.
fn partly_unreadable() -> Plan<Item> {
    let mut plan = small();
    plan.splits[0].insert(1, sample(1, "b/x.png", None));
    plan.splits[0].push(sample(0, "a/y.png", None));
    plan.splits[2].insert(0, sample(1, "b/z.png", None));
    plan
}

#[test]
fn unreadable_pictures_are_all_listed_or_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let (packed, _, _) = pack(directory.path(), false, partly_unreadable());
    let listed = "pictures: 3 of 7 pictures cannot be read:\n  b/x.png: not a picture\n  a/y.png: not a picture\n  \
                  b/z.png: not a picture\nreplace or remove them, or leave them out with --skip-unreadable";
    assert_eq!(packed.unwrap_err(), listed);
    assert_eq!(names_in(directory.path()), [format!("folder-{KEY}.kindling.lock")]);
    for is_first in [true, false] {
        let (packed, is_made, events) = pack(directory.path(), true, partly_unreadable());
        let packed = packed.unwrap();
        assert_eq!(content(&packed), expected(&small()));
        assert_eq!(packed.skipped, ["b/x.png", "a/y.png", "b/z.png"].map(|name| format!("{name}: not a picture")));
        assert_eq!(is_made, is_first);
        let notice = "3 of 7 pictures are unreadable and left out, such as b/x.png: not a picture".to_owned();
        assert_eq!(events.last(), Some(&LoadEvent::Notice(notice)));
    }
    let (packed, is_made, _) = pack(directory.path(), false, partly_unreadable());
    assert_eq!((packed.unwrap_err().as_str(), is_made), (listed, false));
}

#[test]
fn a_split_that_loses_all_its_pictures_is_refused_rather_than_gone() {
    let directory = tempfile::tempdir().unwrap();
    let mut plan = partly_unreadable();
    plan.splits[1] = ["v.png", "w.png"].map(|name| sample(0, name, None)).into();
    let message = pack(directory.path(), true, plan).0.unwrap_err();
    let expected = "pictures: none of the 2 pictures of the validation split can be read, such as v.png: not a picture; \
                    replace or remove them";
    assert_eq!(message, expected);
    assert_eq!(names_in(directory.path()), [format!("folder-{KEY}.kindling.lock")]);
}

#[test]
fn only_what_a_picture_is_to_blame_for_may_be_skipped() {
    let failed = |kind: io::ErrorKind| DataError::io("a/1.png")(kind.into());
    for kind in [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied] {
        assert!(matches!(Unreadable::from(failed(kind)), Unreadable::Picture(_)), "{kind}");
    }
    let malformed = Unreadable::from(DataError::malformed("a/1.png", "cut"));
    assert!(matches!(malformed, Unreadable::Picture(reason) if reason == "cut"));
    for skip in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let decode = |item: &Item, out: &mut [u8]| match item {
            Some(9) => Err(failed(io::ErrorKind::StaleNetworkFileHandle).into()),
            item => decode(item, out),
        };
        let request = request(Path::new("pictures"), skip);
        let packed = packed_in(directory.path(), &request, &mut |_| {}, |_| Ok(partly_unreadable()), decode);
        let message = packed.unwrap_err().to_string();
        assert!(message.starts_with("a/1.png: ") && !message.contains("not a picture"), "{message}");
        assert_eq!(names_in(directory.path()), [format!("folder-{KEY}.kindling.lock")]);
    }
}
