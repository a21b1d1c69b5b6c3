//! Whether the disk has room for what is to come.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::cli::Size;
use common::{Context, Result};

use crate::partial::PartialFile;

/// Fails where the file system below `path` has less room than the files still need.
pub fn check_room<'a>(path: &Path, files: impl Iterator<Item = &'a PartialFile>) -> Result<()> {
    let needed = files.map(needed).try_fold(0_u64, u64::checked_add).unwrap_or(u64::MAX);
    let free = free(path)?;
    if needed > free {
        return Err(common::error!("{}: {} needed, {} free", path.display(), Size(needed), Size(free))
            .hint("free some disk space, or choose another disk with -o"));
    }
    Ok(())
}

/// What a file needs beyond what an earlier run has reserved for it.
fn needed(file: &PartialFile) -> u64 {
    let reserved = fs_err::metadata(&file.data).map_or(0, |found| found.blocks() * 512);
    file.size.saturating_sub(reserved)
}

/// Free bytes of the file system that holds `path`.
pub fn free(path: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(path)
        .map_err(std::io::Error::from)
        .with_context(|| format!("cannot ask for the free space of {}", path.display()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partial::{CHUNK, chunk_count};

    #[test]
    fn space_that_is_taken_already_counts() {
        let directory = tempfile::tempdir().unwrap();
        let file = |size| PartialFile {
            data: directory.path().join("data"),
            map: directory.path().join("map"),
            size,
            identity: "x".into(),
        };
        assert_eq!(needed(&file(3 << 20)), 3 << 20);
        file(3 << 20).prepare().unwrap();
        let writer = file(3 << 20).open().unwrap();
        for index in 0..chunk_count(3 << 20) {
            writer.write_chunk(index, &[1; CHUNK as usize]).unwrap();
        }
        assert_eq!(needed(&file(3 << 20)), 0);
        check_room(directory.path(), [file(4 << 20)].iter()).unwrap();
        let error = check_room(directory.path(), [file(1 << 60), file(u64::MAX)].iter()).unwrap_err();
        assert!(error.to_string().contains("needed"), "{error}");
    }
}
