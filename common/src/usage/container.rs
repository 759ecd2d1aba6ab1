//! How much memory this process may use, as Linux says it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The smallest limit of the control groups that the process is in, or else the machine's memory, in bytes. `root`
/// is where the system's files are: `/`. `None` where the system does not tell.
#[must_use]
pub(super) fn limit_bytes(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups
        .lines()
        .filter_map(memory_file)
        .flat_map(|(mount, group, file)| group_limits(root.join(mount), group, file));
    limits.chain(machine_bytes(root)).min()
}

/// Where the limit of a group is said: of a line of `/proc/self/cgroup`, the mount point, the group's path, and the
/// file's name.
///
/// Source: cgroups(7), "/proc files"; the kernel's documentation of `memory.max` (cgroup-v2) and
/// `memory.limit_in_bytes` (cgroup-v1).
fn memory_file(line: &str) -> Option<(&'static str, &str, &'static str)> {
    let mut fields = line.splitn(3, ':');
    let (_hierarchy, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
    if controllers.is_empty() {
        return Some(("sys/fs/cgroup", group, "memory.max"));
    }
    let has_memory = controllers.split(',').any(|name| name == "memory");
    has_memory.then_some(("sys/fs/cgroup/memory", group, "memory.limit_in_bytes"))
}

/// The limits of a group and of those around it. A container sees its own group as the root, whatever path it is
/// told; so those that are not there are passed over.
fn group_limits(mount: PathBuf, group: &str, file: &'static str) -> impl Iterator<Item = u64> {
    let groups = Path::new(group.trim_start_matches('/')).ancestors();
    // No limit is the word `max`, which is no number.
    groups.filter_map(move |group| {
        let text = fs::read_to_string(mount.join(group).join(file)).ok()?;
        text.trim().parse().ok()
    })
}

fn machine_bytes(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let n_kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(n_kib * 1024)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn check(files: &[(&str, &str)], expected: Option<u64>) {
        let root = TempDir::new().expect("a temporary folder");
        for (name, text) in files {
            let path = root.path().join(name);
            let folder = path.parent().expect("below the root");
            fs::create_dir_all(folder).expect("a writable folder");
            fs::write(path, text).expect("a writable folder");
        }
        assert_eq!(limit_bytes(root.path()), expected, "{files:?}");
    }

    #[test]
    fn the_smallest_limit_counts() {
        let machine = ("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 1 kB\n");
        check(&[], None);
        check(&[machine], Some(1_024_000));
        let two = ("proc/self/cgroup", "0::/a/b\n");
        let unlimited = ("sys/fs/cgroup/a/b/memory.max", "max\n");
        let around = ("sys/fs/cgroup/a/memory.max", "5000\n");
        check(&[machine, two, unlimited, around], Some(5000));
        // A container with a group namespace of its own.
        let own = ("proc/self/cgroup", "0::/\n");
        check(
            &[machine, own, ("sys/fs/cgroup/memory.max", "7000\n")],
            Some(7000),
        );
        // Version 1, where a container is told its path on the host.
        let one = (
            "proc/self/cgroup",
            "4:cpu,memory:/pods/x\n1:name=systemd:/\n",
        );
        let limit = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9000\n");
        check(&[machine, one, limit], Some(9000));
        let none = (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        check(&[machine, one, none], Some(1_024_000));
    }
}
