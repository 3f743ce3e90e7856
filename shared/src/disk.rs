//! Free space, and the lock that keeps two processes from one data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Bytes that an unprivileged process may still write to the file system of `path`.
///
/// # Errors
/// When the file system cannot be asked.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail * stat.f_frsize)
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
