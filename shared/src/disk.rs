//! Free space, the ballast that is thrown off when there is none left, and the lock that keeps two processes from one
//! data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the ballast takes. SQLite needs some space to delete anything, and to empty its log.
const BALLAST: u64 = 64 * 1024 * 1024;
/// It is thrown off when less than this is free.
const LAST: u64 = 16 * 1024 * 1024;
/// Between looks at the free space.
const LOOK: Duration = Duration::from_secs(1);

/// Bytes that an unprivileged process may still write to the file system of `path`.
///
/// # Errors
/// When the file system cannot be asked.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Whether so little is free that nothing should be accepted: `free` bytes of the file system and `reusable` ones inside
/// the store's file are less than `watermark` together. Log and queue need the file system's own, so a quarter has to be.
pub fn is_low(free: u64, reusable: u64, watermark: u64) -> bool {
    free.saturating_add(reusable) < watermark || free < watermark / 4
}

/// A file that only takes space, so that there is some to be had when the disk is full.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    watermark: u64,
}

/// What to do about the ballast.
#[derive(Debug, PartialEq, Eq)]
enum Trim {
    Leave,
    ThrowOff,
    TakeOn,
}

impl Ballast {
    /// The ballast of a data directory. Nothing should be accepted below `watermark` bytes of free space.
    pub fn new(dir: &Path, watermark: u64) -> Self {
        Self { path: dir.join("ballast"), watermark }
    }

    /// Takes it on and throws it off as the free space says; for ever.
    pub async fn keep(self) {
        let mut tick = tokio::time::interval(LOOK);
        loop {
            tick.tick().await;
            if let Err(error) = self.trim() {
                tracing::debug!(error = %error, "the ballast could not be changed");
            }
        }
    }

    /// One look.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn trim(&self) -> io::Result<()> {
        let free = free_bytes(self.path.parent().unwrap_or(&self.path))?;
        let held = std::fs::metadata(&self.path).is_ok_and(|file| file.len() >= BALLAST);
        match trim(free, held, self.watermark) {
            Trim::Leave => Ok(()),
            Trim::ThrowOff => {
                tracing::warn!(free_bytes = free, "the disk is full; the ballast is thrown off");
                std::fs::remove_file(&self.path)
            }
            Trim::TakeOn => {
                let file = OpenOptions::new().create(true).truncate(true).write(true).open(&self.path)?;
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, BALLAST)?;
                Ok(())
            }
        }
    }
}

fn trim(free: u64, held: bool, watermark: u64) -> Trim {
    if held && free < LAST {
        Trim::ThrowOff
    } else if !held && free > watermark.saturating_add(2 * BALLAST) {
        // It must not be what brings the free space below the watermark.
        Trim::TakeOn
    } else {
        Trim::Leave
    }
}

/// Holds a data directory; dropping it lets go.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Takes a data directory for this process alone, making it if need be, readable by its owner only.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when another process holds it.
pub fn lock_dir(dir: &Path) -> io::Result<DirLock> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(DirLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ballast_goes_when_the_disk_is_full_and_comes_back_with_space_to_spare() {
        const MIB: u64 = 1024 * 1024;
        for (free, held, expected) in [
            (1000 * MIB, false, Trim::TakeOn),
            (1000 * MIB, true, Trim::Leave),
            (300 * MIB, false, Trim::Leave),
            (100 * MIB, true, Trim::Leave),
            (15 * MIB, true, Trim::ThrowOff),
            (0, true, Trim::ThrowOff),
            (15 * MIB + BALLAST, false, Trim::Leave),
        ] {
            assert_eq!(trim(free, held, 256 * MIB), expected, "{free} {held}");
        }
    }

    #[test]
    fn the_ballast_takes_its_space_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let length = || std::fs::metadata(dir.path().join("ballast")).map(|file| file.len()).ok();
        Ballast::new(dir.path(), 0).trim().unwrap();
        assert_eq!(length(), Some(BALLAST));
        Ballast::new(dir.path(), 0).trim().unwrap();
        assert_eq!(length(), Some(BALLAST), "there is space");
        std::fs::remove_file(dir.path().join("ballast")).unwrap();
        Ballast::new(dir.path(), u64::MAX).trim().unwrap();
        assert_eq!(length(), None, "it must not bring the free space below the watermark");
    }

    #[test]
    fn free_pages_count_but_a_quarter_of_the_watermark_has_to_be_on_the_disk() {
        for (free, reusable, low) in
            [(100, 0, false), (99, 0, true), (60, 40, false), (25, 75, false), (24, 1000, true), (25, 74, true)]
        {
            assert_eq!(is_low(free, reusable, 100), low, "{free} + {reusable}");
        }
    }

    #[test]
    fn a_directory_is_held_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let held = lock_dir(&path).unwrap();
        assert_eq!(lock_dir(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        lock_dir(&path).unwrap();
        assert!(free_bytes(&path).unwrap() > 0);
    }
}
