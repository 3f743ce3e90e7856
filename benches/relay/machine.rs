//! Where this was measured: what a reader of the figures must know.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The machine, for the report.
pub(crate) fn describe() -> anyhow::Result<Value> {
    let directory = std::env::temp_dir();
    let file_system = file_system(&directory)?;
    anyhow::ensure!(
        file_system != "tmpfs" && file_system != "ramfs",
        "{} is in memory ({file_system}), where an fsync says nothing: set TMPDIR to a directory on a disk",
        directory.display()
    );
    let line = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = text
            .lines()
            .find_map(|line| Some(line.strip_prefix(name)?.trim_start_matches([':', ' ', '\t']).to_owned()));
        found.unwrap_or_default()
    };
    Ok(json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "processor": line("/proc/cpuinfo", "model name"),
        "memory": line("/proc/meminfo", "MemTotal"),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "data": directory,
        "file_system": file_system,
    }))
}

/// The type of the file system that a directory is on.
fn file_system(directory: &Path) -> anyhow::Result<String> {
    let directory = fs::canonicalize(directory)?;
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        Some((PathBuf::from(fields.next()?), fields.next()?.to_owned()))
    };
    let above = mounts.lines().filter_map(mount).filter(|(point, _)| directory.starts_with(point));
    Ok(above.max_by_key(|(point, _)| point.components().count()).map_or_else(String::new, |(_, kind)| kind))
}
