//! How much memory this process may still take, and has taken.

use std::fs;

/// Bytes that can be allocated before the machine swaps or the process is killed: the kernel's
/// estimate, or what the control group still allows where that is less. Nothing where neither is known.
pub fn available_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| machine_available(&text));
    let group = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| {
            let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
            let folder = format!("/sys/fs/cgroup{path}");
            let limit = fs::read_to_string(format!("{folder}/memory.max")).ok()?;
            let used = fs::read_to_string(format!("{folder}/memory.current")).ok()?;
            let stat = fs::read_to_string(format!("{folder}/memory.stat")).unwrap_or_default();
            group_available(&limit, &used, &stat)
        });
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (known, None) | (None, known) => known,
    }
}

/// The most memory that this process has had so far. Nothing where the system does not say.
pub fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    kibibytes(&status, "VmHWM:")
}

fn machine_available(meminfo: &str) -> Option<u64> {
    kibibytes(meminfo, "MemAvailable:")
}

/// The bytes of a line `NAME   123 kB`.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kibibytes)
}

/// Control group version 2; a limit of "max" is none. Cached files count as used there, and give way: a model
/// that was just fetched must not look like memory that is gone.
fn group_available(limit: &str, used: &str, stat: &str) -> Option<u64> {
    let limit: u64 = limit.trim().parse().ok()?;
    let used: u64 = used.trim().parse().ok()?;
    let cached = |name: &str| {
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(key, _)| *key == name);
        found.map_or(0, |(_, bytes)| bytes.trim().parse().unwrap_or(0))
    };
    let files: u64 = cached("inactive_file") + cached("active_file");
    Some(limit.saturating_sub(used.saturating_sub(files)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_understood() {
        let meminfo = "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(machine_available(meminfo), Some(2 << 20));
        assert_eq!(machine_available("MemTotal: 1 kB"), None);
        #[cfg(target_os = "linux")]
        assert!(peak_bytes().is_some_and(|peak| peak > 1 << 20));
        assert_eq!(group_available("8000\n", "3000\n", ""), Some(5000));
        assert_eq!(group_available("max\n", "3000\n", ""), None);
        let stat = "anon 400\nfile 2700\ninactive_file 2000\nactive_file 600\n";
        assert_eq!(group_available("8000\n", "3000\n", stat), Some(7600));
    }
}
