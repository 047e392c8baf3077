//! How much memory this process may use: the cgroup's limit, or the machine's.

use std::fs;
use std::path::{Path, PathBuf};

/// A limit, and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MemoryLimit {
    pub(super) bytes: u64,
    pub(super) of: &'static str,
}

/// The lowest limit that applies; `None` when the system does not say.
pub(super) fn limit() -> Option<MemoryLimit> {
    limit_under(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

fn limit_under(proc: &Path, cgroups: &Path) -> Option<MemoryLimit> {
    let machine = fs::read_to_string(proc.join("meminfo")).ok().and_then(|text| total(&text));
    let machine = machine.map(|bytes| MemoryLimit { bytes, of: "machine" });
    let cgroup = cgroup_limit(proc, cgroups).map(|bytes| MemoryLimit { bytes, of: "cgroup" });
    machine.into_iter().chain(cgroup).min_by_key(|limit| limit.bytes)
}

/// `MemTotal` in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest of the limits of our cgroup and those above it. Inside a container the own cgroup is
/// usually mounted as the root, so the root is looked at even when our path does not lie below it.
fn cgroup_limit(proc: &Path, cgroups: &Path) -> Option<u64> {
    let membership = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let mut files: Vec<PathBuf> =
        vec![cgroups.join("memory.max"), cgroups.join("memory/memory.limit_in_bytes")];
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (cgroups.to_owned(), "memory.max"),
            "memory" => (cgroups.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        let path = Path::new(path.trim_start_matches('/'));
        files.extend(path.ancestors().map(|group| root.join(group).join(file)));
    }
    let read = |file: &PathBuf| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    files.iter().filter_map(read).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_applies() {
        let root = tempfile::tempdir().expect("a directory");
        let (proc, cgroups) = (root.path().join("proc"), root.path().join("cgroup"));
        let put = |path: PathBuf, text: &str| {
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        };
        assert_eq!(limit_under(&proc, &cgroups), None);

        put(proc.join("meminfo"), "MemTotal:       16000 kB\nMemFree: 1 kB\n");
        let machine = Some(MemoryLimit { bytes: 16_384_000, of: "machine" });
        assert_eq!(limit_under(&proc, &cgroups), machine);

        put(proc.join("self/cgroup"), "0::/a/b\n");
        put(cgroups.join("a/b/memory.max"), "max\n");
        assert_eq!(limit_under(&proc, &cgroups), machine);
        put(cgroups.join("a/memory.max"), "4096000\n");
        assert_eq!(limit_under(&proc, &cgroups), Some(MemoryLimit { bytes: 4_096_000, of: "cgroup" }));
    }
}
