//! Memory in huge pages. A decode step reads all weights once; with pages of 4 KiB a good part of
//! its time goes into looking up where they lie.

use std::io;
use std::ops::Range;

use memmap2::MmapMut;

/// Size and alignment of a huge page on x86-64 and, with pages of 4 KiB, on Arm.
pub const HUGE_PAGE: usize = 2 << 20;

/// Zeroed bytes that begin at a huge page's boundary. What was not written to takes no memory.
pub struct Arena {
    map: MmapMut,
    start: usize,
    bytes: usize,
}

impl Arena {
    /// Reserves bytes and asks for huge pages; where the system has none, plain ones do.
    ///
    /// # Errors
    /// When the system gives no more address space.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(bytes + HUGE_PAGE)?;
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        #[cfg(target_os = "linux")]
        // Refused by kernels that were built without; speed is all that depends on it.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map, start, bytes })
    }

    /// Reserves bytes in pages of the system's usual size.
    ///
    /// # Errors
    /// As [`Arena::new`].
    pub fn with_plain_pages(bytes: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(bytes + HUGE_PAGE)?;
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::NoHugePage);
        Ok(Self { map, start, bytes })
    }

    /// Some of the bytes.
    pub fn get(&self, range: Range<usize>) -> &[u8] {
        &self.map[self.start..self.start + self.bytes][range]
    }

    /// All bytes, to be written.
    pub(super) fn all_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.bytes]
    }

    /// Some of the bytes, to be written.
    pub fn get_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.bytes][range]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_zero_and_begin_at_a_boundary() {
        for make in [Arena::new, Arena::with_plain_pages] {
            let mut arena = make(3 * HUGE_PAGE + 5).unwrap();
            assert_eq!(arena.get(0..1).as_ptr().align_offset(HUGE_PAGE), 0);
            assert!(arena.get(0..3 * HUGE_PAGE + 5).iter().all(|&byte| byte == 0));
            arena.get_mut(7..9).fill(3);
            assert_eq!(arena.get(6..10), [0, 3, 3, 0]);
            assert_eq!(arena.get(0..3 * HUGE_PAGE + 5).len(), 3 * HUGE_PAGE + 5);
        }
    }
}
