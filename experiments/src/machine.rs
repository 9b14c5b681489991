//! The machine the program runs on.

use std::{env::consts, fs, thread};

use kindling_record::MachineRecord;

/// The machine as records have it.
pub(crate) fn describe() -> MachineRecord {
    MachineRecord { platform: format!("{} {}", consts::OS, consts::ARCH), processor: processor(), threads: threads() }
}

/// How many threads the backends use: what `RAYON_NUM_THREADS` says, or one for each core.
fn threads() -> usize {
    let asked_for = std::env::var("RAYON_NUM_THREADS").ok().and_then(|count| count.parse().ok());
    asked_for.filter(|&count| count > 0).unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The widest vector instructions of the processor that flex uses.
pub(crate) fn simd() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            return "AVX2";
        }
    }
    if cfg!(target_arch = "aarch64") { "NEON" } else { "baseline SIMD" }
}
