//! A guest's RAM as the sparse file that a hypervisor would share.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use vgpu_perception::Gpa;

use crate::ram::Ram;

/// Where a stretch of guest RAM lies in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSegment {
    /// Its first address.
    pub gpa: Gpa,
    /// Its length in bytes.
    pub len: u64,
    /// The offset of its first byte in the file.
    pub offset: u64,
}

impl Ram {
    /// Where [`to_file`](Self::to_file) puts each segment: one after the other, as hypervisors do.
    #[must_use]
    pub fn file_segments(&self) -> Vec<FileSegment> {
        let mut offset = 0;
        let place = |extent: vgpu_perception::Extent| {
            let segment = FileSegment { gpa: extent.start, len: extent.len, offset };
            offset += extent.len;
            segment
        };
        self.segments().into_iter().map(place).collect()
    }

    /// Writes the RAM to a new sparse file at `path` and says where each segment went.
    ///
    /// # Errors
    /// What the file system says.
    pub fn to_file(&self, path: &Path) -> io::Result<Vec<FileSegment>> {
        let segments = self.file_segments();
        let mut file = File::create(path)?;
        self.write_to(&mut file, &segments)?;
        Ok(segments)
    }

    /// Writes the pages that hold data to `file` as `segments` say; all else stays a hole.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write_to(&self, file: &mut File, segments: &[FileSegment]) -> io::Result<()> {
        let end = segments.iter().map(|segment| segment.offset + segment.len).max().unwrap_or(0);
        if file.metadata()?.len() < end {
            file.set_len(end)?;
        }
        for gpa in self.present_pages() {
            let inside = |segment: &&FileSegment| gpa.get().wrapping_sub(segment.gpa.get()) < segment.len;
            if let Some(segment) = segments.iter().find(inside) {
                file.seek(SeekFrom::Start(segment.offset + (gpa.get() - segment.gpa.get())))?;
                file.write_all(&self.bytes(gpa, 4096))?;
            }
        }
        file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_file_is_sparse_and_segments_follow_each_other() {
        let ram = Ram::split(1 << 30, 512 << 20);
        ram.write_u64(Gpa::new(0x3000), 0x1122_3344_5566_7788);
        ram.write_u64(Gpa::new((4 << 30) + 0x2000), 0x99);
        let path = std::env::temp_dir().join(format!("vgpu-testkit-sparse-{}", std::process::id()));
        let segments = ram.to_file(&path).unwrap();
        let blocks = std::fs::metadata(&path).unwrap().blocks();
        let mut bytes = vec![0; 8];
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::Start(segments[1].offset + 0x2000)).unwrap();
        io::Read::read_exact(&mut file, &mut bytes).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(segments[1].offset, 512 << 20);
        assert_eq!(bytes, 0x99_u64.to_le_bytes());
        assert!(blocks * 512 < 1 << 20, "{blocks} blocks are allocated for two pages");
    }
}
