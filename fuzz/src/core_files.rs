//! Headers of dumps: what is taken is a map inside the file, what is refused says why, in bounded work.

use arbitrary::{Result, Unstructured};
use vgpu_perception_mapped::{CoreError, CoreLayout, ReadAt};

/// See [`crate`].
pub fn core_files(data: &[u8]) {
    // As it is, with its own length and with one that it claims.
    check(data, data.len() as u64);
    check(data, 1 << 40);
    let _ = made(&mut Unstructured::new(data));
}

/// A dump whose headers are mostly right.
fn made(u: &mut Unstructured<'_>) -> Result<()> {
    let lime: bool = u.arbitrary()?;
    let count = u.int_in_range(0..=8_u16)?;
    let mut dump = Vec::new();
    if !lime {
        dump.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0\0\0\0\0\0\0\0\0");
        dump.extend(64_u64.to_le_bytes());
        dump.extend(u.int_in_range(0..=0x400_u64)?.to_le_bytes());
        dump.extend([0_u8; 6]);
        let counted = if u.ratio(1, 8)? { 0xffff } else { count };
        for field in [56, counted, 64, 1, 0] {
            dump.extend(field.to_le_bytes());
        }
    }
    for _ in 0..count {
        let start = u.arbitrary::<u64>()? >> u.int_in_range(0..=60)?;
        let len = u.arbitrary::<u64>()? >> u.int_in_range(20..=63)?;
        if lime {
            dump.extend(b"EMiL\x01\0\0\0");
            for field in [start, start.wrapping_add(len), 0] {
                dump.extend(field.to_le_bytes());
            }
            dump.resize(dump.len() + usize::try_from(len.min(0x3000)).unwrap_or(0) + 1, 0);
        } else {
            let kind = u32::from(u.int_in_range(0..=4_u8)?);
            dump.extend(kind.to_le_bytes());
            dump.extend([0; 4]);
            let offset = u.arbitrary::<u64>()? >> u.int_in_range(40..=63)?;
            for field in [offset, 0, start, len, len, 0] {
                dump.extend(field.to_le_bytes());
            }
        }
    }
    dump.extend(u.bytes(u.len().min(2048))?);
    let len = if u.arbitrary()? { dump.len() as u64 } else { u.arbitrary::<u64>()? >> u.int_in_range(8..=40)? };
    check(&dump, len);
    Ok(())
}

/// Counts what is read of a dump; what lies behind its bytes is zeros.
struct Counted<'d> {
    bytes: &'d [u8],
    read: core::cell::Cell<u64>,
}

impl ReadAt for Counted<'_> {
    fn read_at(&self, dst: &mut [u8], at: u64) -> std::io::Result<()> {
        self.read.set(self.read.get() + dst.len() as u64);
        for (to, at) in dst.iter_mut().zip(at..) {
            let index = usize::try_from(at).ok();
            *to = index.and_then(|index| self.bytes.get(index)).copied().unwrap_or(0);
        }
        Ok(())
    }
}

fn check(bytes: &[u8], len: u64) {
    let dump = Counted { bytes, read: core::cell::Cell::new(0) };
    let result = CoreLayout::read(&dump, len);
    // Headers of 56 bytes, and a mebibyte of notes.
    assert!(dump.read.get() <= 56 * CoreLayout::HEADERS as u64 + (1 << 20) + 4096, "{} bytes", dump.read.get());
    match result {
        Ok(layout) => {
            let mut end = 0;
            assert!(!layout.map.segments().is_empty());
            for segment in layout.map.segments() {
                assert!(segment.gpa.get() >= end && segment.gpa.get() % 4096 == 0, "{segment}");
                assert!(segment.len > 0 && segment.len % 4096 == 0 && segment.offset % 8 == 0, "{segment}");
                assert!(segment.offset.checked_add(segment.len).is_some_and(|past| past <= len), "{segment}");
                end = segment.gpa.get() + segment.len;
            }
        }
        Err(error @ (CoreError::Open(_) | CoreError::Io(_))) => panic!("no file is touched: {error}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
