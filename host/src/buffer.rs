//! Memory for frames.

use core::fmt;
use core::ops::{Deref, DerefMut};

/// Where a buffer begins: at a page, as guest frames do. Lines of the frame are lines of the buffer then.
const ALIGNMENT: usize = 4096;

/// Memory for a frame, which begins at a page of 4096 bytes.
///
/// [`Live::frame`](crate::Live::frame) copies into any memory. A `vec![0; n]` of this size begins 16 bytes inside a
/// cache line, so that each line that is stored lies in two of the buffer; the copy methods that are fastest elsewhere
/// take half as long again there.
///
/// ```
/// use vgpu_perception_host::FrameBuffer;
/// let mut picture = FrameBuffer::new(3840 * 2160 * 4);
/// assert_eq!(picture.as_ptr().addr() % 4096, 0);
/// picture[0] = 1;
/// assert_eq!(picture.len(), 3840 * 2160 * 4);
/// ```
#[derive(Default)]
pub struct FrameBuffer {
    memory: Vec<u8>,
    /// Where in `memory` the buffer begins, and how long it is.
    begin: usize,
    len: usize,
}

impl FrameBuffer {
    /// `len` bytes of zeros. Memory is taken from the system as it is written to.
    #[must_use]
    pub fn new(len: usize) -> Self {
        if len == 0 {
            return Self::default();
        }
        let memory = vec![0_u8; len.saturating_add(ALIGNMENT)];
        let begin = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, begin, len }
    }

    /// Makes it `len` bytes long. Where that is more than it ever was, other memory takes its place, and what it held
    /// is gone.
    pub fn resize(&mut self, len: usize) {
        if len > self.capacity() {
            *self = Self::new(len);
        }
        self.len = len;
    }

    /// The length up to which [`resize`](Self::resize) keeps the memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.len().saturating_sub(self.begin)
    }
}

impl Deref for FrameBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(self.begin..self.begin + self.len).unwrap_or_default()
    }
}

impl DerefMut for FrameBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.begin..self.begin + self.len).unwrap_or_default()
    }
}

impl fmt::Debug for FrameBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameBuffer").field("len", &self.len).field("capacity", &self.capacity()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_at_a_page_at_every_length_and_keeps_its_memory() {
        let mut buffer = FrameBuffer::default();
        assert_eq!((buffer.len(), buffer.capacity()), (0, 0));
        let mut at = None;
        for len in [1, 4095, 4096, 1 << 20, 0, 3, 1 << 20, (1 << 20) + ALIGNMENT + 1] {
            let fits = len <= buffer.capacity();
            buffer.resize(len);
            assert_eq!(buffer.len(), len);
            buffer.fill(7);
            assert!(buffer.iter().all(|byte| *byte == 7), "{len}");
            let now = (buffer.capacity() > 0).then(|| buffer.memory.as_ptr().wrapping_add(buffer.begin).addr());
            assert_eq!(now.unwrap_or(0) % ALIGNMENT, 0, "{len}");
            assert!(!fits || now == at, "{len} keeps the memory");
            at = now;
        }
    }
}
