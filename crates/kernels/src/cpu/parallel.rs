//! Work shared among threads that wait by spinning.
//!
//! The operations of a training step take tens of microseconds each and follow one another at once. A thread that sleeps
//! between them is woken too late to help, so the pool's threads spin for a while before they sleep.

use std::{
    hint,
    num::NonZero,
    ptr,
    sync::{
        Mutex, OnceLock, TryLockError,
        atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// How long a thread without work spins before it sleeps. Longer than what a training step does between operations.
const PATIENCE: Duration = Duration::from_micros(200);

/// A call of [`for_each`] that the helpers may join.
struct Job<'a> {
    work: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
}

impl Job<'_> {
    fn run(&self) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                return;
            }
            (self.work)(task);
        }
    }
}

struct Helper {
    thread: Thread,
    shared: &'static Mailbox,
}

/// Where a helper finds its job.
#[derive(Default)]
struct Mailbox {
    /// Null when there is none, the job while it is offered, and [`TAKEN`] while the helper works on it.
    job: AtomicPtr<Job<'static>>,
    asleep: AtomicBool,
    panicked: AtomicBool,
}

/// The address of no job.
const TAKEN: *mut Job<'static> = ptr::without_provenance_mut(1);

struct Pool {
    helpers: Vec<Helper>,
}

impl Pool {
    fn new(threads: usize) -> Self {
        let helpers = (1..threads)
            .filter_map(|index| {
                let shared: &'static Mailbox = Box::leak(Box::default());
                let builder = thread::Builder::new().name(format!("kernels-{index}"));
                // Where the system refuses a thread, there is one less.
                let handle = builder.spawn(move || help(shared)).ok()?;
                Some(Helper { thread: handle.thread().clone(), shared })
            })
            .collect();
        Self { helpers }
    }
}

fn help(mailbox: &Mailbox) {
    loop {
        let mut since = Instant::now();
        let mut spins = 0_u32;
        let job = loop {
            let job = mailbox.job.load(Ordering::Relaxed);
            if !job.is_null() && mailbox.job.compare_exchange(job, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                break job;
            }
            hint::spin_loop();
            spins += 1;
            if spins.is_multiple_of(64) && since.elapsed() > PATIENCE {
                mailbox.asleep.store(true, Ordering::SeqCst);
                if mailbox.job.load(Ordering::SeqCst).is_null() {
                    thread::park();
                }
                mailbox.asleep.store(false, Ordering::SeqCst);
                since = Instant::now();
            }
        };
        // SAFETY: `for_each` keeps a job that is taken until the mailbox is empty.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| unsafe { (*job).run() }));
        if done.is_err() {
            mailbox.panicked.store(true, Ordering::Relaxed);
        }
        mailbox.job.store(ptr::null_mut(), Ordering::Release);
    }
}

/// Threads that work together: as many as the variable `RAYON_NUM_THREADS` says, which Burn's own operations follow, or
/// as the machine runs at once.
#[must_use]
pub fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| {
        let wanted = std::env::var("RAYON_NUM_THREADS").ok().and_then(|threads| threads.parse().ok());
        wanted.filter(|&threads| threads > 0).unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZero::get))
    })
}

fn pool() -> &'static Mutex<Pool> {
    static POOL: OnceLock<Mutex<Pool>> = OnceLock::new();
    POOL.get_or_init(|| Mutex::new(Pool::new(threads())))
}

/// Runs `work` for every number below `tasks`, on this thread and on the pool's.
///
/// Which thread runs a task is not determined, so a task must not care. A call from within a task, or while another
/// thread uses the pool, runs on its own thread alone.
///
/// # Panics
/// When a task does.
pub(crate) fn for_each(tasks: usize, work: impl Fn(usize) + Sync) {
    if tasks <= 1 {
        (0..tasks).for_each(work);
        return;
    }
    let pool = match pool().try_lock() {
        Ok(pool) => pool,
        // A task of an earlier call panicked, which left nothing undone.
        Err(TryLockError::Poisoned(pool)) => pool.into_inner(),
        Err(TryLockError::WouldBlock) => {
            (0..tasks).for_each(work);
            return;
        }
    };
    let job = Job { work: &work, tasks, next: AtomicUsize::new(0) };
    let helpers = &pool.helpers[..pool.helpers.len().min(tasks - 1)];
    let offered = (&raw const job).cast_mut().cast();
    let finish = Finish { helpers, offered };
    for helper in helpers {
        helper.shared.panicked.store(false, Ordering::Relaxed);
        helper.shared.job.store(offered, Ordering::SeqCst);
        if helper.shared.asleep.load(Ordering::SeqCst) {
            helper.thread.unpark();
        }
    }
    job.run();
    drop(finish);
    let panicked = helpers.iter().any(|helper| helper.shared.panicked.load(Ordering::Relaxed));
    drop(pool);
    assert!(!panicked, "a task panicked");
}

/// Takes the job back from helpers that have not come for it, and waits for the others, also when a task on this thread
/// panics.
struct Finish<'a> {
    helpers: &'a [Helper],
    offered: *mut Job<'static>,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        for Helper { shared, .. } in self.helpers {
            if shared.job.compare_exchange(self.offered, ptr::null_mut(), Ordering::Acquire, Ordering::Acquire).is_err()
            {
                while !shared.job.load(Ordering::Acquire).is_null() {
                    hint::spin_loop();
                }
            }
        }
    }
}
