//! The bytes of a block's weights, one weight after the other, as they lie in a slot.

use std::ops::Range;

use rayon::prelude::*;

use super::super::buffer_bytes;
use crate::checkpoint::Bytes;

/// Bytes that a thread copies at a time.
const PIECE: usize = 1 << 20;

/// Parts of files and of memory that make the bytes of a slot. Between weights there may be gaps, which are zeros.
#[derive(Default)]
pub(super) struct Image {
    /// The parts, each with the place of its first byte, in ascending order.
    parts: Vec<(usize, Bytes)>,
    len: usize,
}

impl Image {
    /// Adds a weight that is made of `parts`, one after the other, and returns the place of its bytes. Each weight takes
    /// what a buffer of its own would, so that it begins where a buffer may begin.
    pub(super) fn push(&mut self, parts: impl IntoIterator<Item = Bytes>) -> Range<usize> {
        let start = self.len;
        let mut end = start;
        for part in parts {
            let first = end;
            end += part.len();
            if !part.is_empty() {
                self.parts.push((first, part));
            }
        }
        self.len = start + buffer_bytes::<u8>(end - start) as usize;
        start..end
    }

    /// The number of bytes that the image takes of a slot.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Writes the bytes from `start` on to `out`, on all threads.
    pub(super) fn read(&self, start: usize, out: &mut [u8]) {
        out.par_chunks_mut(PIECE).enumerate().for_each(|(piece, out)| self.copy(start + piece * PIECE, out));
    }

    fn copy(&self, start: usize, out: &mut [u8]) {
        let end = start + out.len();
        let mut filled = start;
        let first = self.parts.partition_point(|(place, bytes)| place + bytes.len() <= start);
        for (place, bytes) in &self.parts[first..] {
            if *place >= end {
                break;
            }
            let (from, to) = (start.max(*place), end.min(place + bytes.len()));
            out[filled - start..from - start].fill(0);
            out[from - start..to - start].copy_from_slice(&bytes[from - place..to - place]);
            filled = to;
        }
        out[filled - start..].fill(0);
    }

    /// Asks the system to read all of it from disk now, in the background.
    pub(super) fn prefetch(&self) {
        self.parts.iter().for_each(|(_, bytes)| bytes.prefetch());
    }

    /// Gives memory of files that are mapped back to the system.
    pub(super) fn release(&self) {
        self.parts.iter().for_each(|(_, bytes)| bytes.release());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(from: u8, len: usize) -> Bytes {
        (0..len).map(|i| from.wrapping_add(i as u8)).collect::<Vec<_>>().into()
    }

    #[test]
    fn weights_lie_where_buffers_of_their_own_would_begin() {
        let mut image = Image::default();
        assert_eq!(image.push([bytes(1, 600)]), 0..600);
        assert_eq!(image.push([bytes(2, 10), bytes(3, 0), bytes(4, 20)]), 1024..1054, "parts without a gap");
        assert_eq!(image.push([]), 1536..1536);
        assert_eq!(image.push([bytes(5, 512)]), 2048..2560);
        assert_eq!(image.len(), 2560, "what four buffers take");
    }

    #[test]
    fn any_range_is_read_with_zeros_in_the_gaps() {
        let mut image = Image::default();
        for (from, len) in [(1, 600), (7, 512), (90, 3), (200, 2000)] {
            image.push([bytes(from, len / 2), bytes(from + 50, len - len / 2)]);
        }
        let mut whole = vec![9; image.len()];
        image.read(0, &mut whole);
        assert_eq!((whole[0], whole[300], whole[599], whole[600], whole[1023]), (1, 51, 94, 0, 0));
        assert_eq!((whole[1024], whole[1536 + 2], whole[1536 + 3]), (7, 141, 0));
        for start in (0..image.len()).step_by(37) {
            for len in [0, 1, 24, 511, 1500] {
                let mut part = vec![9; len.min(image.len() - start)];
                image.read(start, &mut part);
                assert_eq!(part, whole[start..start + part.len()], "{start} {len}");
            }
        }
    }

    #[test]
    fn large_images_are_read_by_all_threads() {
        let mut image = Image::default();
        image.push([bytes(0, 3 * PIECE + 5), bytes(77, PIECE)]);
        let mut out = vec![9; image.len() - 3];
        image.read(3, &mut out);
        assert!((0..3 * PIECE + 2).all(|i| out[i] == (i + 3) as u8));
        assert_eq!((out[3 * PIECE + 2], out[4 * PIECE + 1], out[4 * PIECE + 2]), (77, 76, 0));
    }
}
