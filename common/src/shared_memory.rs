//! Memory of the host that several processes share: each process writes a part of it, and all read the whole.
//!
//! The memory is a file without a name that never reaches a disk. It is gone with the last process that has it open or
//! mapped, however that process ends.

use std::fs::File;
use std::ops::Deref;
use std::slice;

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::{Context, Result, error};

/// Bytes of a page, at most: memory is mapped from multiples of this on.
const PAGE: u64 = 64 << 10;

/// Bytes that [`SharedMemory::fill`] takes for `len` bytes.
pub fn shared_bytes(len: u64) -> u64 {
    len.max(1).next_multiple_of(PAGE)
}

/// Waits until all processes have called this.
pub(crate) type Meet = Box<dyn Fn() -> Result<()>>;

/// Memory that processes of a machine fill together, one run of bytes after the other.
pub struct SharedMemory {
    file: File,
    /// The bytes that there is room for.
    bytes: u64,
    /// The bytes that are filled.
    filled: u64,
    /// The number of this process, from 0.
    index: usize,
    /// The number of processes.
    processes: usize,
    meet: Meet,
}

impl SharedMemory {
    /// Room for `bytes` bytes in `file`, which process `index` of `processes` has open. Every process that `meet` waits for
    /// calls this.
    pub(crate) fn new(
        file: File,
        bytes: u64,
        (index, processes): (usize, usize),
        meet: Meet,
    ) -> Result<Self> {
        if index == 0 {
            file.set_len(bytes).with_context(|| format!("{bytes} bytes of shared memory"))?;
        }
        meet()?;
        Ok(Self { file, bytes, filled: 0, index, processes, meet })
    }

    /// The next `len` bytes. `write` is told where the part of this process begins, and writes it. Returns when all
    /// processes have written their parts. Every process that `meet` waits for calls this, those that share this memory with
    /// the same `len`.
    pub fn fill(&mut self, len: usize, write: impl FnOnce(usize, &mut [u8])) -> Result<SharedBytes> {
        let offset = self.filled;
        self.filled += shared_bytes(len as u64);
        if self.filled > self.bytes {
            return Err(error!(Bug, "{len} bytes from {offset} on, in shared memory of {}", self.bytes));
        }
        let map = MmapOptions::new().offset(offset).len(len.max(1)).map_raw(&self.file);
        let map = map.with_context(|| format!("cannot map {len} bytes of shared memory"))?;
        // Large pages are filled and locked faster. Where there are none, small ones do.
        let _ = map.advise(Advice::HugePage);
        let part = len.div_ceil(self.processes).next_multiple_of(PAGE as usize);
        let [start, end] = [self.index, self.index + 1].map(|process| len.min(process * part));
        // SAFETY: the part lies within the map, whose bytes the file has. No other process writes to it, and nothing
        // reads it before all have met.
        #[allow(unsafe_code)]
        let own = unsafe { slice::from_raw_parts_mut(map.as_mut_ptr().add(start), end - start) };
        write(start, own);
        (self.meet)()?;
        Ok(SharedBytes { map, len })
    }
}

/// Bytes that all processes have filled.
pub struct SharedBytes {
    map: MmapRaw,
    len: usize,
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the map has this many bytes, and no process writes to them once `SharedMemory::fill` has returned.
        #[allow(unsafe_code)]
        unsafe {
            slice::from_raw_parts(self.map.as_ptr(), self.len)
        }
    }
}
