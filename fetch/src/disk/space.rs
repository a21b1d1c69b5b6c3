//! Whether the disk has room for what is to come.

use common::Result;
use common::cli::Size;

use crate::disk::folder::Folder;
use crate::disk::partial::PartialFile;

/// Fails where the file system of `folder` has less room than the files still need.
pub(crate) fn check_room<'a>(folder: &Folder, files: impl Iterator<Item = &'a PartialFile>) -> Result<()> {
    let needed = files.map(needed).try_fold(0_u64, u64::checked_add).unwrap_or(u64::MAX);
    let free = folder.free()?;
    if needed > free {
        return Err(common::error!(
            "{}: {} needed, {} free",
            folder.path().display(),
            Size(needed),
            Size(free)
        )
        .hint("free some disk space, or choose another disk with -o"));
    }
    Ok(())
}

/// The bytes that a file needs beyond those that an earlier run has reserved for it.
fn needed(file: &PartialFile) -> u64 {
    let found = file.data.look().ok().flatten();
    let reserved = found.map_or(0, |found| u64::try_from(found.st_blocks).unwrap_or(0).saturating_mul(512));
    file.size.saturating_sub(reserved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::partial::{CHUNK, chunk_count};

    #[test]
    fn space_that_is_taken_already_counts() {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::make(directory.path()).unwrap();
        let file = |size| PartialFile {
            data: folder.entry("data"),
            map: folder.entry("map"),
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
        check_room(&folder, [file(4 << 20)].iter()).unwrap();
        let error = check_room(&folder, [file(1 << 60), file(u64::MAX)].iter()).unwrap_err();
        assert!(error.to_string().contains("needed"), "{error}");
    }
}
