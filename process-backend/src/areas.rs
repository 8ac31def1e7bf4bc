//! What a process has mapped: the lines of `/proc/PID/maps`, and what of them must not change under a guest.

use core::fmt;

/// One line of `/proc/PID/maps` (`proc_pid_maps(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Area {
    /// Its first address.
    pub start: u64,
    /// The address after its last byte.
    pub end: u64,
    /// Whether the process may read it.
    pub readable: bool,
    /// Whether the process may write to it.
    pub writable: bool,
    /// Whether the process may run what is in it.
    pub executable: bool,
    /// Whether it is shared (`MAP_SHARED`): the process and the file, or its relatives, see each other's stores.
    pub shared: bool,
    /// Where in the file it starts, in bytes; 0 for anonymous memory.
    pub offset: u64,
    /// The device of the file, major and minor.
    pub device: (u32, u32),
    /// The number of the file on its device; 0 for anonymous memory.
    pub inode: u64,
    /// What the kernel calls it: a path as the process saw it, perhaps with ` (deleted)`, `[heap]`, or nothing. Bytes
    /// below a space are escaped by the kernel.
    pub name: String,
}

impl Area {
    /// Its bytes.
    #[expect(clippy::len_without_is_empty, reason = "no line has no bytes: `parse_area` refuses it")]
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether no file is behind it: what was never touched is zeros.
    #[must_use]
    pub const fn is_anonymous(&self) -> bool {
        self.inode == 0
    }

    /// Whether it is hugetlbfs memory of a program that asked for it without a file (`MAP_HUGETLB`).
    #[must_use]
    pub fn is_anonymous_huge(&self) -> bool {
        self.name.starts_with("/anon_hugepage")
    }
}

/// Reads one line of `/proc/PID/maps`; `None` where it is none.
#[must_use]
pub fn parse_area(line: &str) -> Option<Area> {
    let mut rest = line;
    let mut field = || {
        let trimmed = rest.trim_start_matches(' ');
        let end = trimmed.find(' ').unwrap_or(trimmed.len());
        let (field, after) = trimmed.split_at(end);
        rest = after;
        field
    };
    let (range, rights, offset, device, inode) = (field(), field(), field(), field(), field());
    let (start, end) = range.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let [read, write, execute, share] = rights.as_bytes() else { return None };
    let (major, minor) = device.split_once(':')?;
    let decimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    if start >= end || !matches!(share, b's' | b'p') {
        return None;
    }
    Some(Area {
        start,
        end,
        readable: *read == b'r',
        writable: *write == b'w',
        executable: *execute == b'x',
        shared: *share == b's',
        offset: hex(offset)?,
        device: (u32::try_from(hex(major)?).ok()?, u32::try_from(hex(minor)?).ok()?),
        inode: decimal(inode)?,
        name: rest.trim_start_matches(' ').trim_end_matches('\n').to_owned(),
    })
}

/// `from_str_radix` would take a sign.
fn hex(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// What stands behind a stretch of addresses, whichever areas the kernel cuts it into: advice on a part of it, or a
/// NUMA policy, splits an area and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backing {
    /// Its first address.
    pub(crate) start: u64,
    /// The address after its last byte.
    pub(crate) end: u64,
    shared: bool,
    device: (u32, u32),
    inode: u64,
    /// Where the file's first byte would be mapped; of anonymous memory 0.
    zero: u64,
    /// Whether memory that the process never touched is zeros, and reading it might allocate it.
    pub(crate) has_holes: bool,
}

impl Backing {
    fn of(area: &Area, start: u64, end: u64) -> Self {
        let anonymous = area.is_anonymous();
        let zero = if anonymous { 0 } else { area.start.wrapping_sub(area.offset) };
        Self {
            start,
            end,
            shared: area.shared,
            device: area.device,
            inode: area.inode,
            zero,
            has_holes: anonymous || area.is_anonymous_huge(),
        }
    }

    /// Whether `next` goes on where this one ends, as one mapping would.
    fn goes_on(&self, next: &Self) -> bool {
        (self.shared, self.device, self.inode, self.zero, self.has_holes)
            == (next.shared, next.device, next.inode, next.zero, next.has_holes)
            && self.end == next.start
    }
}

/// What stands behind `start .. end`, with neighbours that are one mapping joined.
///
/// # Errors
/// [`Uncovered`] with the first address that is not mapped, or not for reading.
pub(crate) fn backing(areas: &[Area], start: u64, end: u64) -> Result<Vec<Backing>, Uncovered> {
    let mut list: Vec<Backing> = Vec::new();
    let mut at = start;
    let first = areas.partition_point(|area| area.end <= start);
    for area in areas.iter().skip(first) {
        if at >= end || area.start > at {
            break;
        }
        if !area.readable {
            return Err(Uncovered { addr: at, unreadable: true });
        }
        let next = Backing::of(area, at, area.end.min(end));
        at = next.end;
        match list.last_mut() {
            Some(last) if last.goes_on(&next) => last.end = next.end,
            _ => list.push(next),
        }
    }
    if at < end { Err(Uncovered { addr: at, unreadable: false }) } else { Ok(list) }
}

/// An address that a process has nothing readable at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uncovered {
    pub(crate) addr: u64,
    pub(crate) unreadable: bool,
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.shared { "shared" } else { "private" };
        write!(f, "{:#x}-{:#x} {kind}", self.start, self.end)?;
        if self.inode != 0 {
            let (major, minor) = self.device;
            write!(f, " inode {} of device {major:x}:{minor:x}", self.inode)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(start: u64, end: u64, offset: u64, inode: u64) -> Area {
        Area {
            start,
            end,
            readable: true,
            writable: true,
            executable: false,
            shared: false,
            offset,
            device: (0, 1),
            inode,
            name: String::new(),
        }
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let found = parse_area("7f1c00000000-7f1c40000000 rw-p 00000000 00:00 0 ").unwrap();
        assert_eq!((found.start, found.len(), found.shared), (0x7f1c_0000_0000, 1 << 30, false));
        assert!(found.is_anonymous() && found.readable && found.writable && found.name.is_empty());
        let line = "7f1c00000000-7f1c40000000 r--s 00001000 00:1f 8193                       /dev/shm/a b (deleted)";
        let found = parse_area(line).unwrap();
        assert_eq!((found.offset, found.device, found.inode), (0x1000, (0, 0x1f), 8193));
        assert_eq!(found.name, "/dev/shm/a b (deleted)");
        assert!(found.shared && !found.writable);
    }

    #[test]
    fn what_is_no_line_is_none() {
        for line in [
            "",
            "7f00-7f00 rw-p 0 00:00 0",
            "7f01-7f00 rw-p 0 00:00 0",
            "-7f00 rw-p 0 00:00 0",
            "7e00-7f00 rw-x 0 00:00 0",
            "7e00-7f00 rw- 0 00:00 0",
            "+7e00-7f00 rw-p 0 00:00 0",
            "7e00-7f00 rw-p 0 00:00 +1",
            "7e00-7f00 rw-p 0 0000 0",
            "7e00-11111111111111111 rw-p 0 00:00 0",
            "7e00-7f00 rw-p",
        ] {
            assert_eq!(parse_area(line), None, "{line:?}");
        }
    }

    #[test]
    fn areas_that_are_one_mapping_are_one_backing() {
        let split = [area(0x1000, 0x3000, 0, 0), area(0x3000, 0x9000, 0, 0), area(0x9000, 0xa000, 0x8000, 7)];
        let whole = [area(0x1000, 0x9000, 0, 0), area(0x9000, 0xa000, 0x8000, 7)];
        assert_eq!(backing(&split, 0x2000, 0xa000), backing(&whole, 0x2000, 0xa000));
        assert_eq!(backing(&whole, 0x2000, 0xa000).unwrap().len(), 2);
        let moved = [area(0x1000, 0x9000, 0, 0), area(0x9000, 0xa000, 0x7000, 7)];
        assert_ne!(backing(&whole, 0x2000, 0xa000), backing(&moved, 0x2000, 0xa000));
    }

    #[test]
    fn what_is_not_mapped_is_named() {
        let areas = [area(0x1000, 0x3000, 0, 0), area(0x4000, 0x5000, 0, 0)];
        assert_eq!(backing(&areas, 0x1000, 0x5000), Err(Uncovered { addr: 0x3000, unreadable: false }));
        assert_eq!(backing(&areas, 0x0, 0x2000), Err(Uncovered { addr: 0, unreadable: false }));
        let mut hidden = areas;
        hidden[1].readable = false;
        assert_eq!(backing(&hidden, 0x4000, 0x5000), Err(Uncovered { addr: 0x4000, unreadable: true }));
    }
}
