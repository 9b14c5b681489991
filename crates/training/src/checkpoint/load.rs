//! The newest checkpoint that is whole.

use std::{
    cmp::Reverse,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use burn::{
    optim::OptimizerRecord,
    store::{ModuleRecord, RecordError},
    tensor::Bytes,
};

use super::{
    Checkpoint, Damage, EMA, INDEX, Index, MODEL, OPTIMIZER, STAGING, STATE, State, Sums, directories, read_index,
    write_json,
};
use crate::{TrainingError, guard::message};

/// A checkpoint to resume from.
pub(crate) struct Newest {
    /// Its directory.
    pub(crate) place: PathBuf,
    pub(crate) state: Checkpoint,
    pub(crate) weights: ModuleRecord,
    pub(crate) optimizer: OptimizerRecord,
    /// The moving averages of the weights, where the run has them.
    pub(crate) averaged: Option<ModuleRecord>,
    /// Why newer ones cannot be used.
    pub(crate) damages: Vec<Damage>,
}

/// The newest whole checkpoint: the latest, the previous or the best, or what else is there; nothing where there is none
/// at all. Where `needs_best`, it is one whose best weights are whole as well: the end of the run takes them.
///
/// After this it is the latest, so that a damaged one is not taken again.
///
/// # Errors
/// When there are checkpoints and none can be used: what is wrong with each. When one could not be read although it is
/// there: that one alone, since a disk or permissions are to blame and not the checkpoint.
pub(crate) fn load_newest(directory: &Path, needs_best: bool) -> Result<Option<Newest>, Vec<Damage>> {
    let mut damages = Vec::new();
    let index = match read_index(directory) {
        Ok(index) => index,
        Err(damage) if damage.is_unread => return Err(vec![damage]),
        Err(damage) => {
            damages.push(damage);
            None
        }
    };
    let mut names = directories(directory).unwrap_or_default();
    names.retain(|name| !name.starts_with(STAGING));
    // After an epoch's evaluation the number of its batches is 0 again.
    let age = |name: &String| (name.split("-batch-").next().map(str::to_owned), name.ends_with("-batch-000000"));
    names.sort_by_key(|name| Reverse(age(name)));
    if let Some(Index { latest, previous, best }) = index {
        // What the index does not name is older, or was never finished: the last resort.
        let indexed: Vec<String> = [Some(latest), previous, best].into_iter().flatten().collect();
        names.retain(|name| !indexed.contains(name));
        names = [indexed, names].concat();
    }
    for name in names {
        match load(directory, &name, needs_best) {
            Ok(mut newest) => {
                if !damages.is_empty() {
                    let index = Index { latest: name, previous: None, best: newest.state.best() };
                    // The next checkpoint writes the index again, or fails with the same cause.
                    if let Err(error) = write_json(&directory.join(INDEX), &index) {
                        log::warn!("{error}");
                    }
                }
                newest.damages = damages;
                return Ok(Some(newest));
            }
            Err(damage) if damage.is_unread => return Err(vec![damage]),
            // The best one's damage is that of all that need it.
            Err(damage) if damages.contains(&damage) => {}
            Err(damage) => damages.push(damage),
        }
    }
    if damages.is_empty() { Ok(None) } else { Err(damages) }
}

/// The weights of the best epoch of `state`, or their moving averages where `averaged`.
pub(crate) fn load_best_weights(
    directory: &Path,
    state: &Checkpoint,
    averaged: bool,
) -> Result<ModuleRecord, TrainingError> {
    let missing = |what: &str| Damage::new(directory, format!("expected the {what} of the best epoch, found none"));
    let place = directory.join(state.best().ok_or_else(|| missing("checkpoint"))?);
    let (weights, moving) = load_weights(&place)?;
    if averaged { Ok(moving.ok_or_else(|| missing("moving averages"))?) } else { Ok(weights) }
}

fn load(directory: &Path, name: &str, needs_best: bool) -> Result<Newest, Damage> {
    let place = directory.join(name);
    let (state, sums) = read_state(&place)?;
    let (weights, averaged) = load_weights(&place)?;
    let optimizer = read(&place.join(OPTIMIZER), sums.optimizer, OptimizerRecord::from_bytes)?;
    if let Some(best) = state.best().filter(|best| needs_best && best != name) {
        load_weights(&directory.join(best))?;
    }
    Ok(Newest { place, state, weights, optimizer, averaged, damages: Vec::new() })
}

/// Weights, and their moving averages where there are such.
fn load_weights(place: &Path) -> Result<(ModuleRecord, Option<ModuleRecord>), Damage> {
    let (_, sums) = read_state(place)?;
    let weights = read(&place.join(MODEL), sums.model, ModuleRecord::from_bytes)?;
    let averaged = sums.ema.map(|crc32| read(&place.join(EMA), crc32, ModuleRecord::from_bytes)).transpose()?;
    Ok((weights, averaged))
}

fn read_state(place: &Path) -> Result<(Checkpoint, Sums), Damage> {
    let path = place.join(STATE);
    let text = fs::read(&path).map_err(Damage::of_read(&path))?;
    let malformed = |error| Damage::new(&path, format!("expected what a checkpoint holds: {error}"));
    let State { crc32, checkpoint } = serde_json::from_slice(&text).map_err(malformed)?;
    check(&path, crc32.checkpoint, checkpoint.to_string().as_bytes())?;
    Ok((serde_json::from_value(checkpoint).map_err(malformed)?, crc32))
}

/// Reads a file that has this CRC-32.
fn read<T>(path: &Path, crc32: u32, parse: fn(Bytes) -> Result<T, RecordError>) -> Result<T, Damage> {
    let bytes = fs::read(path).map_err(Damage::of_read(path))?;
    check(path, crc32, &bytes)?;
    // Burn's reader trusts in what it reads.
    match catch_unwind(AssertUnwindSafe(|| parse(Bytes::from_bytes_vec(bytes)))) {
        Ok(parsed) => parsed.map_err(|error| Damage::new(path, error)),
        Err(panic) => Err(Damage::new(path, message(&*panic))),
    }
}

fn check(path: &Path, wanted: u32, bytes: &[u8]) -> Result<(), Damage> {
    let found = crc32fast::hash(bytes);
    if found == wanted {
        return Ok(());
    }
    let size = bytes.len();
    let message =
        format!("expected CRC-32 {wanted:08x}, found {found:08x} in {size} bytes: it was cut short or altered");
    Err(Damage::new(path, message))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use burn::{
        module::Module,
        optim::{ModuleOptimizer, SgdConfig, momentum::MomentumConfig},
        tensor::Device,
    };
    use kindling_record::Metrics;

    use super::*;
    use crate::{
        checkpoint::shapes,
        tests::{Net, alter, place, record},
        weights as files,
    };

    /// Batches in an epoch.
    const BATCHES: usize = 4;

    fn model(number: usize) -> Net {
        Net::numbered(number, &Device::flex().autodiff())
    }

    fn optimizer() -> ModuleOptimizer {
        SgdConfig::new().with_momentum(Some(MomentumConfig::new())).init()
    }

    /// After so many epochs, of which `best` is the best, and batches.
    fn state(epochs: usize, best: usize, batch: usize) -> Checkpoint {
        let record = record(epochs, (best > 0).then_some(best));
        let parameters = shapes(&model(0));
        let sums = Metrics([("loss".to_owned(), 0.1 + 0.2), ("accuracy".to_owned(), f64::NEG_INFINITY)].into());
        let step = epochs * BATCHES + batch;
        Checkpoint { step, batch, sums, parameters, ..Checkpoint::at_start(record, 9, BATCHES) }
    }

    /// Saves checkpoints, each with weights of its own, and with their averages.
    fn saved(directory: &Path, states: &[(usize, usize, usize)]) {
        for (number, &(epochs, best, batch)) in states.iter().enumerate() {
            let averaged = model(number + 50).valid();
            let state = state(epochs, best, batch);
            super::super::save(directory, &state, &model(number), Some(averaged), &optimizer()).unwrap();
        }
    }

    /// The weights of a record, as a file has them.
    fn weights(record: ModuleRecord) -> Vec<u8> {
        files::write(&model(99).try_load_record(record).unwrap(), "net").unwrap()
    }

    /// The weights with which [`saved`] saves the state of this number.
    fn weights_of(number: usize) -> Vec<u8> {
        files::write(&model(number), "net").unwrap()
    }

    /// The directories in `directory`.
    fn found(directory: &Path) -> Vec<String> {
        let mut names = directories(directory).unwrap();
        names.sort();
        names
    }

    fn newest(directory: &Path, needs_best: bool) -> Option<String> {
        let newest = load_newest(directory, needs_best).ok()??;
        Some(newest.place.file_name().unwrap().to_str().unwrap().to_owned())
    }

    const FIRST: &str = "step-00000004-batch-000000";
    const SECOND: &str = "step-00000008-batch-000000";
    const THIRD: &str = "step-00000012-batch-000000";
    const MIDDLE: &str = "step-00000014-batch-000002";

    #[test]
    fn what_is_saved_is_loaded_again_with_every_bit() {
        let place = place();
        assert!(load_newest(place.path(), true).unwrap().is_none());
        assert!(load_newest(&place.path().join("none"), true).unwrap().is_none());
        saved(place.path(), &[(1, 1, 0), (2, 1, 0)]);
        let newest = load_newest(place.path(), true).unwrap().unwrap();
        assert_eq!(newest.place, place.path().join(SECOND));
        assert_eq!((newest.state, newest.damages), (state(2, 1, 0), Vec::new()));
        assert!(weights(newest.weights) == weights_of(1));
        let best = load_best_weights(place.path(), &state(2, 1, 0), false).unwrap();
        assert!(weights(best) == weights_of(0));
        let averages = load_best_weights(place.path(), &state(2, 1, 0), true).unwrap();
        assert!(weights(averages) == weights_of(50) && weights(newest.averaged.unwrap()) == weights_of(51));
        assert!(load_best_weights(place.path(), &state(0, 0, 1), false).is_err());
    }

    #[test]
    fn the_latest_the_previous_and_the_best_of_both_are_kept_and_nothing_of_others_is_removed() {
        let place = place();
        for foreign in ["step-1-batch-x", "step-", "backup", "steps-1-batch-1", "step-0000004-batch-"] {
            fs::create_dir(place.path().join(foreign)).unwrap();
        }
        fs::write(place.path().join("step-00000001-batch-000001"), "a file").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("backup", place.path().join("step-00000002-batch-000001")).unwrap();
        fs::create_dir(place.path().join(".staging-dead")).unwrap();
        saved(place.path(), &[(1, 1, 0), (2, 1, 0), (3, 1, 0), (3, 1, 2)]);
        assert_eq!(found(place.path()), [FIRST, THIRD, MIDDLE]);
        saved(place.path(), &[(4, 4, 0)]);
        // The first was the best when the previous one was taken.
        assert_eq!(found(place.path()), [FIRST, MIDDLE, "step-00000016-batch-000000"]);
        saved(place.path(), &[(5, 4, 0)]);
        assert_eq!(found(place.path()), ["step-00000016-batch-000000", "step-00000020-batch-000000"]);
        let all = fs::read_dir(place.path()).unwrap().count();
        // The index, and what is not Kindling's: five directories, a file, and a link.
        assert_eq!(all, 2 + 1 + 5 + 1 + usize::from(cfg!(unix)));
    }

    #[test]
    fn each_damage_leads_to_the_newest_that_is_whole_and_that_becomes_the_latest() {
        // Damaged parts, and what is then the newest whole one.
        let cases: [(&[&str], Option<&str>); 7] = [
            (&[], Some(MIDDLE)),
            (&[MIDDLE], Some(THIRD)),
            (&[THIRD], Some(MIDDLE)),
            (&[MIDDLE, THIRD], Some(FIRST)),
            // Without the best weights, none of the later ones can end as it would have.
            (&[FIRST], None),
            (&[MIDDLE, FIRST], None),
            (&[MIDDLE, THIRD, FIRST], None),
        ];
        for (damaged, expected) in cases {
            for file in [MODEL, OPTIMIZER, STATE] {
                // The best weights need no optimizer.
                if file == OPTIMIZER && damaged.contains(&FIRST) {
                    continue;
                }
                let place = place();
                saved(place.path(), &[(1, 1, 0), (2, 1, 0), (3, 1, 0), (3, 1, 2)]);
                for name in damaged {
                    alter(&place.path().join(name).join(file));
                }
                assert_eq!(newest(place.path(), true).as_deref(), expected, "{file} of {damaged:?}");
                let Some(expected) = expected else { continue };
                let index = read_index(place.path()).unwrap().unwrap();
                assert_eq!((index.latest.as_str(), index.best.as_deref()), (expected, Some(FIRST)));
                // The next checkpoint has it as its previous one.
                saved(place.path(), &[(9, 9, 0)]);
                assert_eq!(read_index(place.path()).unwrap().unwrap().previous.as_deref(), Some(expected));
            }
        }
    }

    #[test]
    fn a_run_that_ends_with_its_last_weights_needs_no_best_ones() {
        let place = place();
        saved(place.path(), &[(1, 1, 0), (2, 1, 0), (3, 1, 0)]);
        alter(&place.path().join(FIRST).join(MODEL));
        assert_eq!(newest(place.path(), false).as_deref(), Some(THIRD));
        assert_eq!(newest(place.path(), true), None);
    }

    #[test]
    fn a_best_checkpoint_that_is_the_latest_falls_back_on_the_best_before_it() {
        let place = place();
        saved(place.path(), &[(1, 1, 0), (2, 1, 0), (3, 3, 0)]);
        alter(&place.path().join(THIRD).join(MODEL));
        let newest = load_newest(place.path(), true).unwrap().unwrap();
        assert_eq!((newest.place, newest.damages.len()), (place.path().join(SECOND), 1));
        assert!(weights(load_best_weights(place.path(), &newest.state, false).unwrap()) == weights_of(0));
    }

    #[test]
    fn without_a_readable_index_the_directories_are_looked_through_from_the_newest_on() {
        for index in [None, Some("{\"latest\": "), Some("[]"), Some("")] {
            let place = place();
            saved(place.path(), &[(1, 1, 0), (2, 1, 0), (3, 1, 0), (3, 1, 2)]);
            let path = place.path().join(INDEX);
            match index {
                None => fs::remove_file(&path).unwrap(),
                Some(text) => fs::write(&path, text).unwrap(),
            }
            alter(&place.path().join(MIDDLE).join(STATE));
            let newest = load_newest(place.path(), true).unwrap().unwrap();
            assert_eq!(newest.place, place.path().join(THIRD));
            assert_eq!(newest.damages.iter().any(|damage| damage.path == path), index.is_some());
            assert_eq!(read_index(place.path()).unwrap().unwrap().latest, THIRD);
        }
    }

    #[test]
    fn all_damages_are_told_where_nothing_is_whole() {
        let place = place();
        saved(place.path(), &[(1, 1, 0), (2, 1, 0)]);
        fs::remove_file(place.path().join(SECOND).join(OPTIMIZER)).unwrap();
        alter(&place.path().join(FIRST).join(MODEL));
        let damages = load_newest(place.path(), true).err().unwrap();
        let paths: Vec<_> = damages.iter().map(|damage| damage.path.clone()).collect();
        assert_eq!(paths, [place.path().join(SECOND).join(OPTIMIZER), place.path().join(FIRST).join(MODEL)]);
        assert!(damages[1].message.starts_with("expected CRC-32 "), "{}", damages[1]);
    }
}
