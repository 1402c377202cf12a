//! Memory in huge pages. A decode step reads all weights once; with pages of 4 KiB a good part of
//! its time goes into TLB misses.

use std::io;
use std::ops::Range;

use memmap2::MmapMut;

/// Size and alignment of a huge page on x86-64, and on Arm with pages of 4 KiB.
pub(super) const HUGE_PAGE: usize = 2 << 20;

/// Zeroed bytes, aligned to a huge page. Pages that were never written take no physical memory.
pub struct Arena {
    map: MmapMut,
    start: usize,
    bytes: usize,
}

impl Arena {
    /// Reserves bytes and requests huge pages; falls back to small ones.
    ///
    /// # Errors
    /// When address space runs out.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(bytes + HUGE_PAGE)?;
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        #[cfg(target_os = "linux")]
        // A system built without huge pages refuses this; only speed depends on it.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map, start, bytes })
    }

    /// Reserves bytes in pages of the system's default size.
    ///
    /// # Errors
    /// As [`Arena::new`].
    pub(super) fn with_small_pages(bytes: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(bytes + HUGE_PAGE)?;
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::NoHugePage);
        Ok(Self { map, start, bytes })
    }

    /// A range of the bytes.
    pub fn get(&self, range: Range<usize>) -> &[u8] {
        &self.map[self.start..self.start + self.bytes][range]
    }

    pub(super) fn all_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.bytes]
    }

    /// A writable range of the bytes.
    pub fn get_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.bytes][range]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_zero_and_aligned_to_a_huge_page() {
        for make in [Arena::new, Arena::with_small_pages] {
            let mut arena = make(3 * HUGE_PAGE + 5).unwrap();
            assert_eq!(arena.get(0..1).as_ptr().align_offset(HUGE_PAGE), 0);
            assert!(arena.get(0..3 * HUGE_PAGE + 5).iter().all(|&byte| byte == 0));
            arena.get_mut(7..9).fill(3);
            assert_eq!(arena.get(6..10), [0, 3, 3, 0]);
            assert_eq!(arena.get(0..3 * HUGE_PAGE + 5).len(), 3 * HUGE_PAGE + 5);
        }
    }
}
