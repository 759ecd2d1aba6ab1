//! What this process takes of the machine, and what it may take, as Linux says it.

mod container;

use std::{fs, path::Path};

use rustix::time::{ClockId, clock_gettime};

use crate::metrics::{Level, Seconds};

/// Names in `/proc/self/status`; `proc_pid_status(5)`.
const RESIDENT: &str = "VmRSS:";

/// Memory of this process that is in use, in bytes; 0 where the system does not tell.
#[must_use]
pub fn resident_bytes() -> u64 {
    status_bytes(RESIDENT)
}

/// The smallest limit of the control groups that this process is in, or else the machine's memory, in bytes. `None`
/// where the system does not tell.
#[must_use]
pub fn memory_limit_bytes() -> Option<u64> {
    container::limit_bytes(Path::new("/"))
}

/// A value of `/proc/self/status` by its name with the colon, in bytes; 0 where the system does not tell.
#[must_use]
pub fn status_bytes(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    let n_kib = value.and_then(|value| value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    n_kib.unwrap_or_default() * 1024
}

/// Brings a program's metrics of itself up to date: memory in use, memory that it may use, CPU time so far.
pub fn measure(resident_memory_bytes: &Level, memory_limit_bytes: &Level, cpu_seconds: &Seconds) {
    resident_memory_bytes.set(resident_bytes());
    memory_limit_bytes.set(self::memory_limit_bytes().unwrap_or_default());
    let cpu_time = clock_gettime(ClockId::ProcessCPUTime);
    let so_far = cpu_time.tv_sec as f64 + cpu_time.tv_nsec as f64 / 1e9;
    let added = so_far - cpu_seconds.get();
    cpu_seconds.inc_by(added.max(0.0));
}
