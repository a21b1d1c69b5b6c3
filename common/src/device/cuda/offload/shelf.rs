//! Memory of the host for tensors, which is kept from pass to pass: page-locking memory takes longer than filling it.

use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::MmapMut;

use super::super::Gpu;
use super::super::page_locked::{PageLocked, host_memory, touch};
use crate::Result;
use crate::cli::{self, Size};

/// Room on the host.
pub(super) trait Room {
    /// Bytes that there are.
    fn len(&self) -> usize;
}

/// Memory that no tensor uses.
pub(super) struct Shelf<M> {
    free: Vec<M>,
}

impl<M> Default for Shelf<M> {
    fn default() -> Self {
        Self { free: Vec::new() }
    }
}

impl<M: Room> Shelf<M> {
    /// The smallest memory with room for `bytes` bytes, where there is any.
    pub(super) fn take(&mut self, bytes: usize) -> Option<M> {
        let fitting = self.free.iter().enumerate().filter(|(_, memory)| memory.len() >= bytes);
        let (place, _) = fitting.min_by_key(|(_, memory)| memory.len())?;
        Some(self.free.swap_remove(place))
    }

    /// The largest memory, to be freed for one that is larger: so there is never more memory than the tensors of a pass
    /// and of the longest pass take.
    pub(super) fn take_largest(&mut self) -> Option<M> {
        let (place, _) = self.free.iter().enumerate().max_by_key(|(_, memory)| memory.len())?;
        Some(self.free.swap_remove(place))
    }

    /// Keeps memory for the next tensor.
    pub(super) fn put(&mut self, memory: M) {
        self.free.push(memory);
    }
}

/// Memory of the host for a tensor.
pub(super) enum HostMemory {
    /// Memory that a GPU copies from and to by itself.
    PageLocked(PageLocked<MmapMut>),
    /// Memory that could not be page-locked.
    Pageable(MmapMut),
}

impl HostMemory {
    /// Page-locks memory. Where the system refuses that, the memory is used as it is, with a warning.
    pub(super) fn new(gpu: &Gpu, bytes: usize) -> Result<Self> {
        static IS_WARNED: AtomicBool = AtomicBool::new(false);
        let mut memory = host_memory(bytes)?;
        touch(&mut memory);
        Ok(match PageLocked::lock_or_give_back(&gpu.context, memory) {
            Ok(memory) => Self::PageLocked(memory),
            Err((memory, error)) => {
                if !IS_WARNED.swap(true, Ordering::Relaxed) {
                    cli::warn(format_args!(
                        "{} of host memory cannot be page-locked ({error}): inputs of blocks are copied more slowly",
                        Size(bytes as u64)
                    ));
                }
                Self::Pageable(memory)
            }
        })
    }

    /// The bytes.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::PageLocked(memory) => memory.bytes_mut(),
            Self::Pageable(memory) => memory,
        }
    }
}

impl Room for HostMemory {
    fn len(&self) -> usize {
        match self {
            Self::PageLocked(memory) => memory.bytes().len(),
            Self::Pageable(memory) => memory.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Room for usize {
        fn len(&self) -> usize {
            *self
        }
    }

    /// Tensors of these sizes, which are all on the host at a time and then all taken back: what is allocated, and the
    /// most memory that there is.
    fn pass(shelf: &mut Shelf<usize>, sizes: &[usize]) -> usize {
        let mut allocated = 0;
        let taken: Vec<usize> = sizes
            .iter()
            .map(|&bytes| {
                shelf.take(bytes).unwrap_or_else(|| {
                    shelf.take_largest();
                    allocated += 1;
                    bytes
                })
            })
            .collect();
        taken.into_iter().for_each(|memory| shelf.put(memory));
        allocated
    }

    #[test]
    fn memory_is_allocated_once_and_never_more_than_the_longest_pass_takes() {
        let mut shelf = Shelf::default();
        assert_eq!(pass(&mut shelf, &[10; 4]), 4);
        assert_eq!(pass(&mut shelf, &[10; 4]), 0, "the same memory");
        assert_eq!(pass(&mut shelf, &[7; 3]), 0, "shorter passes use what there is");
        assert_eq!(pass(&mut shelf, &[20; 2]), 2, "longer passes put larger memory in its place");
        shelf.free.sort_unstable();
        assert_eq!(shelf.free, [10, 10, 20, 20]);
        assert_eq!(pass(&mut shelf, &[9, 15, 9, 15]), 0, "small tensors leave large memory to large ones");
        assert_eq!(pass(&mut shelf, &[20; 4]), 2);
        assert_eq!(shelf.free, [20; 4]);
    }
}
