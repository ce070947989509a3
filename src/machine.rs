//! What this machine grants to the process: cores and memory.

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

/// A size in bytes from a line `NAME: n kB` of a file under `/proc`.
pub fn proc_field_bytes(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// The cores that this process may use: those of the machine, limited by affinity and the cgroup's quota.
pub fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// The memory limit of this process's cgroup in bytes; `None` where there is none. Version 2, else version 1.
pub fn memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().filter_map(|line| limit_of(line, Path::new("/sys/fs/cgroup"))).min()
}

/// The least limit of one of the groups of `/proc/self/cgroup`, `hierarchy:controllers:path`, and of its parents: a container
/// sees itself as the root, a service of the host stands below it.
fn limit_of(group: &str, mounted: &Path) -> Option<u64> {
    let mut fields = group.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, Path::new(fields.next()?.trim_start_matches('/')));
    let (root, file) = match controllers {
        "" => (mounted.to_owned(), "memory.max"),
        _ if controllers.split(',').any(|name| name == "memory") => (mounted.join("memory"), "memory.limit_in_bytes"),
        _ => return None,
    };
    let limit = |path: &Path| fs::read_to_string(root.join(path).join(file)).ok()?.trim().parse().ok();
    // Version 1 says "no limit" as a number beyond any machine.
    path.ancestors().filter_map(limit).filter(|limit: &u64| *limit < 1 << 60).min()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_least_limit_on_the_way_to_the_root_counts() {
        let mounted = tempfile::tempdir().unwrap();
        let write = |file: &str, limit: &str| {
            let path = mounted.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{limit}\n")).unwrap();
        };
        write("system.slice/memory.max", "3000");
        write("system.slice/worker.service/memory.max", "max");
        write("memory/docker/memory.limit_in_bytes", "5000");
        write("memory/memory.limit_in_bytes", "9223372036854771712");
        let limit = |group| limit_of(group, mounted.path());
        assert_eq!(limit("0::/system.slice/worker.service"), Some(3000));
        write("memory.max", "2000");
        assert_eq!(limit("0::/system.slice/worker.service"), Some(2000));
        // A path that only the host has: what a container sees of itself is the root.
        assert_eq!(limit("0::/kubepods/elsewhere"), Some(2000));
        assert_eq!(limit("0::/"), Some(2000));
        assert_eq!(limit("9:cpu,memory:/docker"), Some(5000));
        assert_eq!(limit("9:memory:/"), None);
        assert_eq!(limit("4:cpuset:/docker"), None);
        assert_eq!(limit("nonsense"), None);
    }
}
