//! CPU time and memory of processes, from `/proc`.
//!
//! CPU is user and system time of a process and all below it, ended children included. Memory is the peak of resident
//! memory since the measurement began; of a tree, whose processes share memory, the proportional sizes at its end.

use std::collections::HashMap;
use std::fs;

/// USER_HZ of every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process that is measured, under the name that tables show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched {
    /// Its name in tables.
    pub(crate) name: &'static str,
    /// Its id.
    pub(crate) pid: u32,
    /// Whether its memory is that of many processes.
    pub(crate) tree: bool,
}

impl Watched {
    /// One process.
    pub(crate) fn one(name: &'static str, pid: u32) -> Self {
        Self { name, pid, tree: false }
    }

    /// A server of many processes.
    pub(crate) fn tree(name: &'static str, pid: u32) -> Self {
        Self { name, pid, tree: true }
    }
}

/// What a process used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Its name in tables.
    pub(crate) name: &'static str,
    /// CPU seconds.
    pub(crate) cpu: f64,
    /// Peak of resident memory, MiB.
    pub(crate) memory: f64,
}

/// A measurement under way.
#[derive(Debug)]
pub(crate) struct Meter {
    watched: Vec<(Watched, f64)>,
}

impl Meter {
    /// Begins to measure.
    pub(crate) fn start(watched: impl IntoIterator<Item = Watched>) -> Self {
        let processes = Processes::read();
        let begin = |watched: Watched| {
            // 5 forgets the peak. Where it may not be written the peak is that of the whole life.
            fs::write(format!("/proc/{}/clear_refs", watched.pid), "5").ok();
            (watched, processes.cpu(watched.pid))
        };
        Self { watched: watched.into_iter().map(begin).collect() }
    }

    /// Adds a process that was started after the measurement began: all that it ever used counts.
    pub(crate) fn add(&mut self, watched: Watched) {
        self.watched.push((watched, 0.0));
    }

    /// Ends the measurement.
    pub(crate) fn finish(self) -> Vec<Usage> {
        let processes = Processes::read();
        let end = |(watched, before): (Watched, f64)| Usage {
            name: watched.name,
            cpu: (processes.cpu(watched.pid) - before).max(0.0),
            memory: processes.memory(watched),
        };
        self.watched.into_iter().map(end).collect()
    }
}

/// CPU seconds of this process so far.
pub(crate) fn own_cpu() -> f64 {
    Processes::read().cpu(std::process::id())
}

/// All processes at one moment: parent and CPU ticks.
struct Processes(HashMap<u32, (u32, u64)>);

impl Processes {
    fn read() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        Self(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(stat).collect())
    }

    /// Ticks of a process and all below it. What ended and was reaped is in its parent's last two fields, but for our
    /// own process: children of ours that ended are nobody's business any more.
    fn cpu(&self, root: u32) -> f64 {
        let below = if root == std::process::id() { vec![root] } else { self.tree(root) };
        let ticks: u64 = below.iter().filter_map(|pid| self.0.get(pid)).map(|(_, ticks)| ticks).sum();
        ticks as f64 / TICKS_PER_SECOND
    }

    fn memory(&self, watched: Watched) -> f64 {
        let kib = if watched.tree {
            self.tree(watched.pid).iter().map(|pid| field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")).sum()
        } else {
            field(&format!("/proc/{}/status", watched.pid), "VmHWM:")
        };
        kib / 1024.0
    }

    fn tree(&self, root: u32) -> Vec<u32> {
        let mut found = vec![root];
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            found.extend(self.0.iter().filter(|(_, (p, _))| *p == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        found
    }
}

/// Parent and ticks of a process.
fn stat(pid: u32) -> Option<(u32, (u32, u64))> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // After the name: parent is the 2nd field, user and system time the 12th and 13th, those of reaped children follow.
    let own = if pid == std::process::id() { 11..13 } else { 11..15 };
    let ticks = fields.get(own)?.iter().flat_map(|field| field.parse::<u64>()).sum();
    Some((pid, (fields.get(1)?.parse().ok()?, ticks)))
}

/// A number of KiB in a file of `/proc`; 0 when the process has ended.
fn field(file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}
