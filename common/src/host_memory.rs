//! The memory of the machine and of this process, as the kernel counts it. Each is `None` where the
//! kernel does not tell.

/// The bytes that are left to other programs where memory is page-locked, which the system cannot move.
const LEFT_UNLOCKED: u64 = 2 << 30;

/// The bytes that may be page-locked: those that programs can still take, less 2 GiB.
pub fn lockable_memory() -> u64 {
    available_memory().unwrap_or(0).saturating_sub(LEFT_UNLOCKED)
}

/// The bytes that programs can still take without swapping.
pub fn available_memory() -> Option<u64> {
    kibibytes("/proc/meminfo", "MemAvailable:")
}

/// The bytes that this process holds resident.
pub fn resident_memory() -> Option<u64> {
    kibibytes("/proc/self/status", "VmRSS:")
}

/// The most bytes that this process has held resident so far.
pub fn peak_resident_memory() -> Option<u64> {
    kibibytes("/proc/self/status", "VmHWM:")
}

fn kibibytes(file: &str, key: &str) -> Option<u64> {
    let text = fs_err::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
