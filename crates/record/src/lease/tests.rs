//! Leases of hosts that are names here, and of watchers for whom no time passes.

use std::{
    cell::{Cell, RefCell},
    thread,
};

use super::*;

fn identity(host: &str) -> Identity {
    Identity { host: host.to_owned(), boot: format!("boot of {host}"), process: 7, start: Some(1) }
}

/// Takes the lease for a process of `host`; instead of waiting, it does `meanwhile`, which is told how often it looked.
fn take(directory: &Path, host: &str, mut meanwhile: impl FnMut(u32)) -> Result<Lease, RecordError> {
    let identity = identity(host);
    let (looks, meanwhile) = (Cell::new(0), RefCell::new(&mut meanwhile));
    let wait = |period: Duration| {
        assert_eq!(period, PERIOD / LOOKS);
        looks.set(looks.get() + 1);
        (meanwhile.borrow_mut())(looks.get());
    };
    let is_gone = |other: &Identity| other.is_of_machine(&identity);
    Lease::take(directory, &Terms { identity: &identity, period: PERIOD, is_gone: &is_gone, wait: &wait })
}

fn never(_: u32) {
    panic!("it waits");
}

/// A lease whose process died: nothing renews it and nothing removes it.
fn abandoned(directory: &Path, host: &str) {
    take(directory, host, never).unwrap();
}

fn holder(directory: &Path) -> String {
    look(directory).unwrap().0.identity.host
}

fn names(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn a_free_lease_is_taken_without_waiting_and_removed_at_the_end() {
    let place = tempfile::tempdir().unwrap();
    let lease = take(place.path(), "a", never).unwrap();
    lease.ensure_held().unwrap();
    assert_eq!(names(place.path()), ["lease"]);
    lease.ensure_held_lately().unwrap();
    lease.release();
    assert!(names(place.path()).is_empty());
}

#[test]
fn a_lease_of_this_machine_whose_process_is_gone_is_taken_at_once() {
    let place = tempfile::tempdir().unwrap();
    abandoned(place.path(), "a");
    take(place.path(), "a", never).unwrap().ensure_held().unwrap();
}

#[test]
fn a_lease_that_is_renewed_is_never_taken() {
    let place = tempfile::tempdir().unwrap();
    let held = take(place.path(), "a", never).unwrap();
    // At the last look, with a clock that stands still.
    let refused = take(place.path(), "b", |look| {
        if look == PERIODS * LOOKS {
            held.renew();
        }
    });
    let Err(RecordError::Busy { path, holder: Some(holder) }) = refused else { panic!("it was taken") };
    assert_eq!((path.as_path(), holder.host.as_str(), holder.process, holder.is_here), (place.path(), "a", 7, false));
    held.ensure_held().unwrap();
    assert_eq!(names(place.path()), ["lease"]);
}

#[test]
fn a_lease_that_nobody_renews_is_taken_after_its_periods_and_its_holder_learns_of_it() {
    let place = tempfile::tempdir().unwrap();
    let suspended = take(place.path(), "a", never).unwrap();
    let looks = Cell::new(0);
    let taken = take(place.path(), "b", |look| looks.set(look)).unwrap();
    assert_eq!(looks.get(), PERIODS * LOOKS);
    taken.ensure_held().unwrap();
    // What it does now reaches nothing of the new holder's.
    suspended.renew();
    let lost = suspended.ensure_held().unwrap_err();
    assert!(matches!(&lost, RecordError::Lost { holder: Some(holder), .. } if holder.host == "b"), "{lost}");
    suspended.release();
    taken.ensure_held().unwrap();
    assert_eq!((holder(place.path()).as_str(), names(place.path())), ("b", vec!["lease".to_owned()]));
}

#[test]
fn of_two_that_take_a_stale_lease_one_wins() {
    for first in 1..=PERIODS * LOOKS {
        let place = tempfile::tempdir().unwrap();
        abandoned(place.path(), "a");
        // While `b` watches, `c` watches all the time and takes it.
        let mut other = None;
        let refused = take(place.path(), "b", |look| {
            if look == first {
                other = Some(take(place.path(), "c", |_| {}).unwrap());
            } else if let Some(other) = &other {
                other.renew();
            }
        });
        assert!(matches!(refused, Err(RecordError::Busy { .. })), "{first}");
        other.unwrap().ensure_held().unwrap();
    }
}

#[test]
fn of_threads_that_take_a_stale_lease_together_one_holds_it_in_the_end() {
    for _ in 0..50 {
        let place = tempfile::tempdir().unwrap();
        abandoned(place.path(), "a");
        // No time passes: each may find the one before it stale, and take the lease from it.
        let leases: Vec<_> = thread::scope(|scope| {
            let take = |number: u32| take(place.path(), &format!("host {number}"), |_| {});
            let threads: Vec<_> = (0..4).map(|number| scope.spawn(move || take(number))).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap().ok()).collect()
        });
        assert_eq!(leases.iter().filter(|lease| lease.ensure_held().is_ok()).count(), 1);
    }
}

#[test]
fn one_that_dies_while_it_takes_a_lease_over_is_followed_in_its_turn() {
    let place = tempfile::tempdir().unwrap();
    abandoned(place.path(), "a");
    // What `b` leaves when it ends between the two: its name in the line, and the file that was to be renamed.
    let dead = Content::new(&identity("b"), PERIOD);
    let own = place.path().join(format!("{TEMPORARY}lease-{}", dead.token));
    fs::write(&own, dead.bytes()).unwrap();
    let follower = format!("{AFTER}{}", look(place.path()).unwrap().0.token);
    fs::hard_link(&own, place.path().join(follower)).unwrap();
    let looks = Cell::new(0);
    let taken = take(place.path(), "c", |look| looks.set(look)).unwrap();
    assert_eq!(looks.get(), 2 * PERIODS * LOOKS);
    taken.ensure_held().unwrap();
    assert_eq!(names(place.path()), ["lease"], "nothing is left that the dead one could go on with");
}

#[test]
fn a_damaged_lease_is_watched_like_any_other() {
    for damaged in [&b""[..], b"{\"host\": \"a\"", b"[]", b"\xff"] {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("lease");
        fs::write(&path, damaged).unwrap();
        let refused = take(place.path(), "b", |_| fs::write(&path, b"written on").unwrap());
        assert!(matches!(refused, Err(RecordError::Busy { holder: None, .. })));
        let looks = Cell::new(0);
        take(place.path(), "b", |look| looks.set(look)).unwrap().ensure_held().unwrap();
        assert_eq!(looks.get(), PERIODS * LOOKS);
    }
}

#[test]
fn this_process_is_known_by_its_number_and_its_start() {
    let own = Identity::of_this_process();
    assert!(own.is_running() && own.is_of_machine(&own.clone()));
    let other = Identity { process: u32::from(u16::MAX) << 14, ..own.clone() };
    assert!(!other.is_running());
    if let Some(start) = own.start {
        assert!(!Identity { start: Some(start + 1), ..own }.is_running(), "a number that is used again");
    }
}
