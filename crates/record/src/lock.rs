//! The lock of a run: the operating system's, and the lease beside it.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use crate::{
    Holder, RecordError, RunDirectory,
    atomic::remove_left_overs,
    lease::{self, Identity, Lease, PERIOD, Terms},
};

/// Held by the one process that may write a run. The system's lock ends with the process, however it ends, and its
/// lease is not renewed after that.
#[derive(Debug)]
pub struct RunLock {
    path: PathBuf,
    lease: Arc<Lease>,
    /// Ends the thread that renews the lease, when it is dropped.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Released after the lease.
    _file: File,
}

impl RunLock {
    fn new(directory: &Path, lease: Lease, file: File) -> io::Result<Self> {
        let lease = Arc::new(lease);
        let (stop, stopped) = mpsc::channel();
        let renewed = lease.clone();
        let thread = thread::Builder::new().name("lease".to_owned()).spawn(move || {
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                renewed.renew();
            }
        })?;
        let path = directory.to_path_buf();
        Ok(Self { path, lease, stop: Some(stop), thread: Some(thread), _file: file })
    }

    /// The directory of the run, which checks that this process still holds it before it replaces a file.
    #[must_use]
    pub fn directory(&self) -> RunDirectory {
        RunDirectory::of_holder(self.path.clone(), self.lease.clone())
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
        self.lease.release();
    }
}

/// Takes a directory for this process as [`RunDirectory::lock`] takes a run.
///
/// # Errors
/// [`RecordError::Busy`] when another process holds it.
pub fn lock_directory(directory: &Path) -> Result<RunLock, RecordError> {
    let path = directory.join("lock");
    let file =
        OpenOptions::new().create(true).write(true).truncate(false).open(&path).map_err(RecordError::io(&path))?;
    // `is_alive` in another process holds the lock for an instant; an owner holds it for longer than this.
    let deadline = Instant::now() + Duration::from_millis(300);
    let is_locked = loop {
        match file.try_lock() {
            Ok(()) => break true,
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            Err(TryLockError::WouldBlock) => {
                let path = directory.to_path_buf();
                return Err(RecordError::Busy { path, holder: holder(directory) });
            }
            Err(TryLockError::Error(error)) if has_no_locks(&error) => break false,
            Err(TryLockError::Error(error)) => return Err(RecordError::io(path)(error)),
        }
    };
    let identity = Identity::of_this_process();
    let reaches_all = is_locked && is_of_one_machine(&file);
    let is_gone = |other: &Identity| {
        is_of_earlier_start(other, &identity, reaches_all)
            || other.is_of_machine(&identity) && (is_locked || !other.is_running())
    };
    let terms = Terms { identity: &identity, period: PERIOD, is_gone: &is_gone, wait: &thread::sleep };
    let lease = Lease::take(directory, &terms)?;
    remove_left_overs(directory).inspect_err(|_| lease.release())?;
    RunLock::new(directory, lease, file).map_err(RecordError::io(path))
}

pub(crate) fn is_alive(directory: &Path) -> bool {
    let Ok(file) = File::open(directory.join("lock")) else { return false };
    let is_locked = match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => return true,
        locked => locked.is_ok(),
    };
    let reaches_all = is_locked && is_of_one_machine(&file);
    lease::look(directory).is_some_and(|(content, age)| {
        let here = Identity::of_this_process();
        if content.identity.is_of_machine(&here) {
            !is_locked && content.identity.is_running()
        } else {
            !is_of_earlier_start(&content.identity, &here, reaches_all) && lease::is_fresh(&content, age)
        }
    })
}

/// Whether a process, whose lock this one could take, is known to be of this machine before its last start. A machine
/// of another name may write to a local file system as well, where this one exports it, and its locks need not be seen
/// here.
fn is_of_earlier_start(other: &Identity, here: &Identity, reaches_all: bool) -> bool {
    reaches_all && other.host == here.host
}

pub(crate) fn holder(directory: &Path) -> Option<Holder> {
    let (content, _) = lease::look(directory).filter(|_| is_alive(directory))?;
    Some(content.holder(&Identity::of_this_process()))
}

/// Whether the file system has no locks: Lustre, for one, has none unless it is mounted so.
fn has_no_locks(error: &io::Error) -> bool {
    let errors = [Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOLCK].map(Errno::raw_os_error);
    error.kind() == ErrorKind::Unsupported || error.raw_os_error().is_some_and(|error| errors.contains(&error))
}

/// Whether the file is on a file system of this machine's own disks or memory, whose locks reach every process here. The
/// numbers are those of `man 2 statfs`.
#[cfg(target_os = "linux")]
fn is_of_one_machine(file: &File) -> bool {
    const LOCAL: [i128; 7] = [
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // XFS
        0x9123_683e, // Btrfs
        0x2fc1_2fc1, // ZFS
        0xf2f5_2010, // F2FS
        0x0102_1994, // tmpfs
        0x794c_7630, // overlayfs
    ];
    rustix::fs::fstatfs(file).is_ok_and(|found| LOCAL.contains(&i128::from(found.f_type)))
}

#[cfg(not(target_os = "linux"))]
fn is_of_one_machine(_: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let runs_dir = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(runs_dir.path(), "mlp").unwrap();
        assert!(!run.is_alive());
        let lock = run.lock().unwrap();
        assert!(run.is_alive());
        let holder = run.holder().unwrap();
        assert!(holder.is_here && holder.process == std::process::id());
        let Err(RecordError::Busy { holder: found, .. }) = run.lock() else { panic!("locked twice") };
        assert_eq!(found, Some(holder));
        lock.directory().ensure_held().unwrap();
        drop(lock);
        assert!(!run.is_alive() && run.holder().is_none());
        let left: Vec<_> = fs::read_dir(run.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
        run.lock().unwrap();
    }

    #[test]
    fn what_a_dead_process_of_this_machine_left_is_taken_at_once() {
        let runs_dir = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(runs_dir.path(), "mlp").unwrap();
        let lock = run.lock().unwrap();
        let lease = fs::read(run.path().join("lease")).unwrap();
        drop(lock);
        fs::write(run.path().join("lease"), lease).unwrap();
        fs::write(run.path().join("lease.after-0"), "left by another").unwrap();
        assert!(!run.is_alive());
        let lock = run.lock().unwrap();
        let held = lock.directory();
        let record = crate::directory::tests::run_in(runs_dir.path(), "other").read_record().unwrap();
        held.write_record(&record).unwrap();
        assert!(!run.path().join("lease.after-0").exists());
        fs::remove_file(run.path().join("lease")).unwrap();
        let lost = held.write_record(&record).unwrap_err().to_string();
        assert!(lost.contains("this process no longer holds the run:"), "{lost}");
    }

    #[test]
    fn a_fresh_lease_of_another_machine_counts_on_a_local_disk_and_one_from_before_a_restart_does_not() {
        let runs_dir = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(runs_dir.path(), "mlp").unwrap();
        let lock = run.lock().unwrap();
        let path = run.path().join("lease");
        let mut lease: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        drop(lock);
        lease["boot"] = "another".into();
        fs::write(&path, lease.to_string()).unwrap();
        let is_local = is_of_one_machine(&File::open(&path).unwrap());
        assert_eq!(run.is_alive(), !is_local);
        lease["host"] = "elsewhere".into();
        fs::write(&path, lease.to_string()).unwrap();
        assert!(run.is_alive(), "it may be a client of this machine's file system");
    }
}
