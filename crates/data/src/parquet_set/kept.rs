use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::DataError;

/// So many values are kept however large they are: images that are decoded together are in two of them.
const FEWEST: usize = 2;

/// Values that are read when they are asked for. Those that were used last are kept, up to a number of bytes in all.
pub(super) struct Kept<K, V> {
    most_bytes: usize,
    /// The one that was used last is at the end.
    entries: Mutex<Vec<Entry<K, V>>>,
}

struct Entry<K, V> {
    key: K,
    /// 0 until the value is there.
    bytes: usize,
    value: Place<V>,
}

/// What holds a value; locked while it is read.
type Place<V> = Arc<Mutex<Option<Arc<V>>>>;

impl<K: Copy + Eq, V> Kept<K, V> {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { most_bytes, entries: Mutex::new(Vec::new()) }
    }

    /// Returns the value of `key`. Where it is not kept, `read` returns it with its size in bytes: once, however many
    /// threads ask, while other values can be asked for.
    ///
    /// # Errors
    /// Those of `read`, of which nothing is kept.
    pub(super) fn get(
        &self,
        key: K,
        read: impl FnOnce() -> Result<(V, usize), DataError>,
    ) -> Result<Arc<V>, DataError> {
        let place = self.used(key);
        let mut value = locked(&place);
        if let Some(value) = &*value {
            return Ok(value.clone());
        }
        let (read, bytes) = read()?;
        let read = Arc::new(read);
        *value = Some(read.clone());
        self.shrink(key, bytes);
        Ok(read)
    }

    /// Makes the entry of `key` the last one, and returns what holds its value.
    fn used(&self, key: K) -> Place<V> {
        let mut entries = locked(&self.entries);
        let known = entries.iter().position(|entry| entry.key == key).map(|at| entries.remove(at));
        let entry = known.unwrap_or_else(|| Entry { key, bytes: 0, value: Arc::default() });
        let place = entry.value.clone();
        entries.push(entry);
        place
    }

    /// Notes the size of a value, and drops those that were not used for the longest time while there are too many bytes.
    fn shrink(&self, key: K, bytes: usize) {
        let mut entries = locked(&self.entries);
        if let Some(entry) = entries.iter_mut().find(|entry| entry.key == key) {
            entry.bytes = bytes;
        }
        while entries.len() > FEWEST && entries.iter().map(|entry| entry.bytes).sum::<usize>() > self.most_bytes {
            entries.remove(0);
        }
    }
}

/// Locks what a thread that panicked may have left: a value is there as a whole or not at all.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{
            Barrier,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        thread,
    };

    use super::*;

    #[test]
    fn a_value_is_read_once_by_all_threads_that_ask_for_it() {
        let (kept, reads, start) = (Kept::new(100), AtomicUsize::new(0), Barrier::new(4));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    let value = kept.get(7, || Ok((reads.fetch_add(1, SeqCst), 10))).unwrap();
                    assert_eq!(*value, 0);
                });
            }
        });
        assert_eq!(reads.load(SeqCst), 1);
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first_and_two_stay_however_large() {
        let kept = Kept::new(30);
        // Whether a value had to be read.
        let is_read = |key: u32, bytes: usize| {
            let mut is_read = false;
            let read = || {
                is_read = true;
                Ok((key, bytes))
            };
            assert_eq!(*kept.get(key, read).unwrap(), key);
            is_read
        };
        assert_eq!([1, 2, 3].map(|key| is_read(key, 10)), [true; 3]);
        assert!(!is_read(1, 10));
        assert!(is_read(4, 10));
        assert_eq!([1, 3, 4].map(|key| is_read(key, 10)), [false; 3]);
        assert!(is_read(2, 10));
        assert!(is_read(5, 100) && is_read(6, 100));
        assert_eq!([5, 6, 5].map(|key| is_read(key, 100)), [false; 3]);
        assert!(is_read(2, 10));
    }

    #[test]
    fn a_value_that_cannot_be_read_is_asked_for_again() {
        let kept = Kept::new(10);
        kept.get(1, || Err(DataError::io("file")(io::ErrorKind::NotFound.into()))).unwrap_err();
        assert_eq!(*kept.get(1, || Ok(("value", 5))).unwrap(), "value");
    }
}
