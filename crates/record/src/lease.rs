//! Who writes a run, in a file beside the lock: on a folder that several machines share, a lock may reach one of them
//! only.
//!
//! The holder renews its lease once in a period. No clock of another machine is believed: a lease is stale when one who
//! wants the run has watched it for [`PERIODS`] periods and nothing in it has changed, or when its process was on this
//! machine and is gone. Leases are made whole and by one alone (a hard link to a name that is not there yet). One that
//! takes a stale one over first makes `lease.after-<token>`, named after its token: of two that try, one has the name.
//! The file takes the place of the old lease by a rename. The last holder may be alive after all, for a suspended
//! process renews nothing: what it still writes to its lease goes to a file that has no name any more, and before it
//! writes to the run it looks whether the lease is its own.

use std::{
    fs::{self, File, OpenOptions},
    hash::{BuildHasher, RandomState},
    io::{self, ErrorKind, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{RecordError, atomic::TEMPORARY, now};

/// How often a holder renews its lease.
pub(crate) const PERIOD: Duration = Duration::from_secs(15);
/// In how many periods without a renewal a lease is stale.
const PERIODS: u32 = 4;
/// How often a watcher looks, in a period.
const LOOKS: u32 = 10;
/// How the names of leases begin that are to follow another.
const AFTER: &str = "lease.after-";

/// A process that holds a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Name of its machine.
    pub host: String,
    /// Its number there.
    pub process: u32,
    /// Since when it holds the run, by its own clock (RFC 3339 in UTC).
    pub since: String,
    /// When it last renewed its lease, by its own clock.
    pub heartbeat: String,
    /// Whether it is a process of this machine, so that a signal would reach it.
    pub is_here: bool,
}

/// A process, by what no other has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) host: String,
    /// The start of the machine, and the space of process numbers in it: a container has its own. Empty where the
    /// system does not say.
    pub(crate) boot: String,
    pub(crate) process: u32,
    /// When the process started, in ticks of that machine: numbers are used again.
    pub(crate) start: Option<u64>,
}

impl Identity {
    /// This process.
    pub(crate) fn of_this_process() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let boot = format!("{} {}", read("/proc/sys/kernel/random/boot_id"), space.display()).trim().to_owned();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { host, boot, process: process::id(), start: start_of(process::id()) }
    }

    pub(crate) fn is_of_machine(&self, other: &Self) -> bool {
        self.host == other.host && self.boot == other.boot
    }

    /// Whether the process, of this machine, is still there.
    pub(crate) fn is_running(&self) -> bool {
        if self.start.is_some() {
            return start_of(self.process) == self.start;
        }
        let process = i32::try_from(self.process).ok().and_then(rustix::process::Pid::from_raw);
        process.is_some_and(|process| rustix::process::test_kill_process(process) != Err(rustix::io::Errno::SRCH))
    }
}

/// When a process started, in ticks since the machine did, where the system says so.
fn start_of(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program's name may have blanks and brackets; the start is the 22nd field, the 20th behind it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Content {
    #[serde(flatten)]
    pub(crate) identity: Identity,
    /// Drawn for each lease.
    token: String,
    since: String,
    heartbeat: String,
    /// Counts the renewals: a clock may stand still.
    beats: u64,
    period_seconds: f64,
}

impl Content {
    fn new(identity: &Identity, period: Duration) -> Self {
        let token = RandomState::new().hash_one((&identity.host, identity.process, SystemTime::now()));
        let (token, now) = (format!("{token:016x}"), now());
        let identity = identity.clone();
        Self { identity, token, since: now.clone(), heartbeat: now, beats: 0, period_seconds: period.as_secs_f64() }
    }

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).map(|bytes| [&bytes[..], b"\n"].concat()).unwrap_or_default()
    }

    pub(crate) fn holder(&self, here: &Identity) -> Holder {
        Holder {
            host: self.identity.host.clone(),
            process: self.identity.process,
            since: self.since.clone(),
            heartbeat: self.heartbeat.clone(),
            is_here: self.identity.is_of_machine(here),
        }
    }
}

/// A lease as it was found.
#[derive(Clone, PartialEq)]
struct Found {
    bytes: Vec<u8>,
    /// None where it is damaged.
    content: Option<Content>,
}

impl Found {
    /// What is at `path`, if anything is.
    fn read(path: &Path) -> Result<Option<Self>, RecordError> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(Self { content: serde_json::from_slice(&bytes).ok(), bytes })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RecordError::io(path)(error)),
        }
    }

    fn token(&self) -> &str {
        self.content.as_ref().map_or("damaged", |content| &content.token)
    }
}

/// How a lease is taken.
pub(crate) struct Terms<'a> {
    /// The process that wants it.
    pub(crate) identity: &'a Identity,
    pub(crate) period: Duration,
    /// Whether the holder of a lease, which has not released it, is known to be gone.
    pub(crate) is_gone: &'a dyn Fn(&Identity) -> bool,
    /// Waits so long.
    pub(crate) wait: &'a dyn Fn(Duration),
}

/// A lease that is held.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
    file: File,
    content: Mutex<Content>,
    /// When it was last found to be held.
    seen: Mutex<Instant>,
}

impl Lease {
    /// Takes the lease in `directory`; it waits where another machine's is there that may be stale.
    ///
    /// # Errors
    /// [`RecordError::Busy`] when another process holds it.
    pub(crate) fn take(directory: &Path, terms: &Terms<'_>) -> Result<Self, RecordError> {
        let path = directory.join("lease");
        let mut earlier = Vec::new();
        let (content, file) = loop {
            // Under a new name each time: one that was passed over comes back as another.
            let content = Content::new(terms.identity, terms.period);
            let own = own_file(directory, &content.token);
            let tried = fs::write(&own, content.bytes()).map_err(RecordError::io(&own));
            let tried = tried.and_then(|()| Self::attempt(&path, &own, &earlier, terms));
            drop(fs::remove_file(&own));
            tried?;
            match held(&path, &content.token) {
                Some(file) => break (content, file),
                None => earlier.push(content.token),
            }
        };
        remove_followers(directory);
        Ok(Self { path, file, content: Mutex::new(content), seen: Mutex::new(Instant::now()) })
    }

    /// Gives `own` the name of the lease, if nothing has it, or else the last place in the line behind a stale one, and
    /// then its name; nothing where others were faster. `earlier` are the tokens of attempts before this one.
    fn attempt(path: &Path, own: &Path, earlier: &[String], terms: &Terms<'_>) -> Result<(), RecordError> {
        if link(own, path)? {
            return Ok(());
        }
        let Some(first) = Found::read(path)? else { return Ok(()) };
        let directory = path.parent().unwrap_or(path);
        // The lease, and those that were to follow it.
        let (mut last, mut current, mut followers) = (path.to_path_buf(), first.clone(), Vec::new());
        loop {
            if !earlier.iter().any(|token| token == current.token()) && !current.is_stale(&last, terms)? {
                return Ok(());
            }
            last = directory.join(format!("{AFTER}{}", current.token()));
            if link(own, &last)? {
                break;
            }
            let Some(next) = Found::read(&last)? else { return Ok(()) };
            followers.push(own_file(directory, next.token()));
            current = next;
        }
        // Those before this one in the line can no longer come to it, if they are alive after all.
        for follower in &followers {
            drop(fs::remove_file(follower));
        }
        if Found::read(path)?.is_some_and(|found| found == first)
            && let Err(error) = fs::rename(own, path)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(RecordError::io(path)(error));
        }
        Ok(())
    }

    /// Says that the holder is alive. A failure is left to the next renewal.
    pub(crate) fn renew(&self) {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        content.beats += 1;
        content.heartbeat = now();
        // Longer than before or as long, and into this very file, whatever has its name by now.
        let _ = self.file.write_all_at(&content.bytes(), 0).and_then(|()| self.file.sync_data());
    }

    /// Checks that nobody took the lease over.
    ///
    /// # Errors
    /// [`RecordError::Lost`], with the process that has it instead, where its file is still there.
    pub(crate) fn ensure_held(&self) -> Result<(), RecordError> {
        let own = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        // What cannot be read for another reason is left to the writing that comes next.
        let Ok(found) = Found::read(&self.path) else { return Ok(()) };
        if found.as_ref().is_some_and(|found| found.token() == own.token) {
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            return Ok(());
        }
        let holder = found.and_then(|found| found.content).map(|content| content.holder(&own.identity));
        Err(RecordError::Lost { path: self.path.parent().map(Path::to_path_buf).unwrap_or_default(), holder })
    }

    /// As [`ensure_held`](Self::ensure_held), at the price of a look at the clock where that was done a moment ago.
    pub(crate) fn ensure_held_lately(&self) -> Result<(), RecordError> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.elapsed() < Duration::from_secs(2) { Ok(()) } else { self.ensure_held() }
    }

    /// Gives it up.
    pub(crate) fn release(&self) {
        if self.ensure_held().is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Found {
    /// Whether this lease, at `path`, is stale. Where only watching tells, this watches it.
    ///
    /// # Errors
    /// [`RecordError::Busy`] when it is renewed.
    fn is_stale(&self, path: &Path, terms: &Terms<'_>) -> Result<bool, RecordError> {
        if self.content.as_ref().is_some_and(|content| (terms.is_gone)(&content.identity)) {
            return Ok(true);
        }
        let seconds = self.content.as_ref().map_or(0.0, |content| content.period_seconds.clamp(0.0, 3600.0));
        let look = terms.period.max(Duration::from_secs_f64(seconds)) / LOOKS;
        // Looks are counted instead of time: a watcher that was suspended has not watched.
        for _ in 0..PERIODS * LOOKS {
            (terms.wait)(look);
            match Found::read(path)? {
                None => return Ok(false),
                Some(found) if found == *self => {}
                Some(found) => {
                    let holder = found.content.map(|content| content.holder(terms.identity));
                    return Err(RecordError::Busy {
                        path: path.parent().map(Path::to_path_buf).unwrap_or_default(),
                        holder,
                    });
                }
            }
        }
        Ok(true)
    }
}

/// The lease in `directory`, and how long ago it was renewed by the clocks of this machine and of the file system.
pub(crate) fn look(directory: &Path) -> Option<(Content, Duration)> {
    let file = File::open(directory.join("lease")).ok()?;
    let age = file.metadata().and_then(|metadata| metadata.modified()).ok()?.elapsed().unwrap_or_default();
    Some((serde_json::from_reader(file).ok()?, age))
}

/// Whether a lease of another machine that was renewed so long ago is to be believed.
pub(crate) fn is_fresh(content: &Content, age: Duration) -> bool {
    age.as_secs_f64() < content.period_seconds * f64::from(PERIODS)
}

/// What is to become the lease with this token.
fn own_file(directory: &Path, token: &str) -> PathBuf {
    directory.join(format!("{TEMPORARY}lease-{token}"))
}

/// The file of the lease, if it has this token.
fn held(path: &Path, token: &str) -> Option<File> {
    let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
    let content: Content = serde_json::from_reader(&file).ok()?;
    (content.token == token).then_some(file)
}

/// Gives the file `own` a second name, which nothing has yet; false where something has it, or `own` is gone.
fn link(own: &Path, name: &Path) -> Result<bool, RecordError> {
    let made = fs::hard_link(own, name).or_else(|error| match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotFound => Err(error),
        // A file system without links.
        _ => {
            let bytes = fs::read(own)?;
            OpenOptions::new().create_new(true).write(true).open(name)?.write_all(&bytes)
        }
    });
    match made {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => Ok(false),
        Err(error) => Err(RecordError::io(name)(error)),
    }
}

/// Removes what was made to follow leases that are no more.
fn remove_followers(directory: &Path) {
    let is_follower = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(AFTER);
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(io::Result::ok);
    entries.filter(is_follower).for_each(|entry| drop(fs::remove_file(entry.path())));
}

#[cfg(test)]
mod tests;
