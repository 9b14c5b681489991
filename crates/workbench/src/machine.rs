//! The machine the program runs on.

use std::{env::consts, fs, process::Command};

use kindling_record::MachineRecord;

/// The machine as records have it.
pub(crate) fn describe() -> MachineRecord {
    MachineRecord {
        platform: format!("{} {}", consts::OS, consts::ARCH),
        processor: processor(),
        threads: kindling_kernels::threads(),
    }
}

/// The memory in bytes, where the system reports it.
pub(crate) fn memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// NVIDIA's GPUs with driver and memory, in the order of their indices, where its driver is installed.
pub(crate) fn nvidia_gpus() -> Vec<String> {
    let query = ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"];
    let Ok(output) = Command::new("nvidia-smi").args(query).output() else { return Vec::new() };
    if !output.status.success() {
        return Vec::new();
    }
    let describe = |line: &str| {
        let mut parts = line.split(", ");
        let (name, driver, memory) = (parts.next()?, parts.next()?, parts.next()?);
        Some(format!("{name} (driver {driver}, {memory})"))
    };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(describe).collect()
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
