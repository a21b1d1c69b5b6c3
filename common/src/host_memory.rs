//! The memory of the machine and of this process, as the kernel counts it. Each is `None` where the
//! kernel does not tell.

use std::path::{Path, PathBuf};

/// Where control groups are mounted.
const GROUPS: &str = "/sys/fs/cgroup";
/// The names of a control group's bound and of what it uses, in both versions of control groups.
const BOUND_AND_USED: [[&str; 2]; 2] =
    [["memory.max", "memory.current"], ["memory.limit_in_bytes", "memory.usage_in_bytes"]];

/// The bytes that are left to other programs where memory is page-locked, which the system cannot move.
const LEFT_UNLOCKED: u64 = 2 << 30;

/// The bytes that may be page-locked: those that programs of the machine, and of the container or job that this
/// process belongs to, can still take, less 2 GiB.
pub fn lockable_memory() -> u64 {
    let own = fs_err::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let left = left_by_groups(&own, Path::new(GROUPS)).unwrap_or(u64::MAX);
    available_memory().unwrap_or(0).min(left).saturating_sub(LEFT_UNLOCKED)
}

/// The memory of a machine that its processes may page-lock, for weights that are streamed and for inputs of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockableMemory {
    bytes: u64,
    processes: usize,
    /// Whether all processes read one copy of the weights.
    is_shared: bool,
}

impl LockableMemory {
    /// Memory of a process that is alone on its machine.
    pub fn of_one(bytes: u64) -> Self {
        Self::of_machine(bytes, 1, false)
    }

    /// Memory of all `processes` processes of a machine, which share the copy of the weights or have one each.
    pub fn of_machine(bytes: u64, processes: usize, is_shared: bool) -> Self {
        Self { bytes, processes, is_shared: is_shared && processes > 1 }
    }

    /// The bytes that are left to weights, beside inputs of `inputs` bytes in each process.
    pub fn beside_inputs(self, inputs: u64) -> u64 {
        let processes = self.processes as u64;
        let left = self.bytes.saturating_sub(processes.saturating_mul(inputs));
        if self.is_shared { left } else { left / processes }
    }

    /// The bytes that are left to the inputs of each process, beside weights of `weights` bytes.
    pub fn beside_weights(self, weights: u64) -> u64 {
        let processes = self.processes as u64;
        let copies = if self.is_shared { 1 } else { processes };
        self.bytes.saturating_sub(copies.saturating_mul(weights)) / processes
    }

    /// How often weights lie in the memory of a machine, for people; `None` where it has one process.
    pub fn copies(self) -> Option<String> {
        let processes = self.processes;
        (processes > 1).then(|| match self.is_shared {
            true => format!("once for the {processes} processes of a machine"),
            false => format!("in each of the {processes} processes of a machine"),
        })
    }
}

/// The bytes that control groups leave to a process: the least of the groups in `own`, as `/proc/self/cgroup` lists
/// them, and of those around them. A container may not see its own group below `root`, and then sees its bound there.
fn left_by_groups(own: &str, root: &Path) -> Option<u64> {
    let groups = own.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let path = path.trim_start_matches('/');
        let mount = match controllers {
            "" => root.to_path_buf(),
            _ if controllers.split(',').any(|controller| controller == "memory") => root.join("memory"),
            _ => return None,
        };
        Some((mount.join(path), mount))
    });
    let around = |(group, mount): (PathBuf, PathBuf)| {
        let groups = group.ancestors().map(Path::to_path_buf).collect::<Vec<_>>();
        groups.into_iter().take_while(move |group| group.starts_with(&mount))
    };
    groups.flat_map(around).filter_map(|group| left_in(&group)).min()
}

/// The bytes that a control group has left, where it has a bound. Its copies of files are given up when it needs more.
fn left_in(group: &Path) -> Option<u64> {
    let read = |name: &str| fs_err::read_to_string(group.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let [bound, used] = BOUND_AND_USED.iter().find_map(|names| {
        let [bound, used] = names.map(number);
        Some([bound?, used?])
    })?;
    let of_files = |line: &str| {
        let (key, bytes) = line.split_once(' ')?;
        matches!(key, "active_file" | "inactive_file").then(|| bytes.trim().parse::<u64>().ok()).flatten()
    };
    let files = read("memory.stat").unwrap_or_default().lines().filter_map(of_files).sum();
    Some(bound.saturating_sub(used.saturating_sub(files)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn group(root: &Path, path: &str, files: &[(&str, &str)]) {
        let directory = root.join(path);
        std::fs::create_dir_all(&directory).unwrap();
        for (name, text) in files {
            std::fs::write(directory.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_tightest_control_group_counts_without_its_copies_of_files() {
        let root = tempfile::tempdir().unwrap();
        let left = |own: &str| left_by_groups(own, root.path());
        assert_eq!(left("0::/jobs/7\n"), None, "without control groups");
        group(root.path(), "jobs/7", &[("memory.max", "max\n"), ("memory.current", "50\n")]);
        assert_eq!(left("0::/jobs/7\n"), None, "without a bound");
        let stat = "anon 600\nfile 300\ninactive_file 200\nactive_file 100\nfile_mapped 7\n";
        group(
            root.path(),
            "jobs",
            &[("memory.max", "1000\n"), ("memory.current", "900\n"), ("memory.stat", stat)],
        );
        assert_eq!(left("0::/jobs/7\n"), Some(1000 - (900 - 300)), "the group around it");
        group(root.path(), "jobs/7", &[("memory.max", "200\n")]);
        assert_eq!(left("0::/jobs/7\n"), Some(200 - 50));
        assert_eq!(left("0::/elsewhere\n"), None);
        // A container whose group is not in sight has its bound at the root.
        group(root.path(), "", &[("memory.max", "70"), ("memory.current", "90")]);
        assert_eq!(left("0::/docker/1\n"), Some(0), "more in use than there may be");
    }

    #[test]
    fn weights_that_are_shared_count_once() {
        let all = |memory: LockableMemory| {
            [
                memory.beside_inputs(0),
                memory.beside_inputs(100),
                memory.beside_weights(0),
                memory.beside_weights(600),
            ]
        };
        assert_eq!(all(LockableMemory::of_one(1000)), [1000, 900, 1000, 400]);
        assert_eq!(all(LockableMemory::of_machine(1000, 4, true)), [1000, 600, 250, 100]);
        assert_eq!(all(LockableMemory::of_machine(1000, 4, false)), [250, 150, 250, 0]);
        assert_eq!(LockableMemory::of_machine(u64::MAX, 4, true).beside_inputs(u64::MAX), 0);
        assert_eq!(LockableMemory::of_machine(7, 1, true), LockableMemory::of_one(7));
        assert_eq!(LockableMemory::of_one(7).copies(), None);
        let copies = |is_shared| LockableMemory::of_machine(7, 4, is_shared).copies().unwrap();
        assert_eq!(copies(true), "once for the 4 processes of a machine");
        assert_eq!(copies(false), "in each of the 4 processes of a machine");
    }

    #[test]
    fn the_first_version_of_control_groups_is_read_too() {
        let root = tempfile::tempdir().unwrap();
        let files = [("memory.limit_in_bytes", "500\n"), ("memory.usage_in_bytes", "120\n")];
        group(root.path(), "memory/slurm/job", &files);
        let own = "5:devices:/slurm\n4:hugetlb,memory:/slurm/job/step\n0::/\n";
        assert_eq!(left_by_groups(own, root.path()), Some(380));
        assert_eq!(left_by_groups("5:devices:/slurm/job\n", root.path()), None);
    }
}
