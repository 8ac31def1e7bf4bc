//! What a process has mapped, and which file a mapping shows, by `/proc/PID/maps`.
//!
//! The text comes from the kernel, but names in it are chosen by others: nothing here trusts a name, and what is no
//! line of that format is dropped.

use core::ops::Range;

pub use vgpu_perception_process::Area;
use vgpu_perception_process::parse_area;

/// Which file a mapping shows, as the kernel tells files apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Major and minor number of its filesystem.
    pub device: (u32, u32),
    /// Its number there.
    pub inode: u64,
}

impl FileId {
    /// The file that `area` shows; `None` for anonymous memory.
    #[must_use]
    pub const fn of(area: &Area) -> Option<Self> {
        if area.inode == 0 { None } else { Some(Self { device: area.device, inode: area.inode }) }
    }
}

impl core::fmt::Display for FileId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "inode {} on device {:02x}:{:02x}", self.inode, self.device.0, self.device.1)
    }
}

/// The name of an area without the kernel's remark that its file was unlinked.
#[must_use]
pub fn path(area: &Area) -> &str {
    area.name.strip_suffix(" (deleted)").unwrap_or(&area.name)
}

/// The areas in `text`, ascending. What is no such line, or does not ascend, is dropped.
#[must_use]
pub fn parse(text: &str) -> Vec<Area> {
    let mut found: Vec<Area> = Vec::new();
    for area in text.lines().filter_map(parse_area) {
        if found.last().is_none_or(|last| last.end <= area.start) {
            found.push(area);
        }
    }
    found
}

/// Whether `next` goes on where `area` ends: the same kind of memory, and the same file without a break.
fn goes_on(area: &Area, next: &Area) -> bool {
    area.end == next.start
        && (area.readable, area.writable, area.shared) == (next.readable, next.writable, next.shared)
        && (area.device, area.inode) == (next.device, next.inode)
        && area.name == next.name
        && (area.inode == 0 || area.offset.checked_add(area.len()) == Some(next.offset))
}

/// Areas that go on in one another as one: the kernel splits an area where a program advises on a part of it.
#[must_use]
pub fn joined(areas: &[Area]) -> Vec<Area> {
    let mut joined: Vec<Area> = Vec::new();
    for area in areas {
        match joined.last_mut() {
            Some(last) if goes_on(last, area) => last.end = area.end,
            _ => joined.push(area.clone()),
        }
    }
    joined
}

/// The area that covers all of `range`; `areas` are [`joined`].
#[must_use]
pub fn covering<'a>(areas: &'a [Area], range: &Range<u64>) -> Option<&'a Area> {
    let at = areas.partition_point(|area| area.end <= range.start);
    areas.get(at).filter(|area| area.start <= range.start && range.end <= area.end)
}

/// Stretches of exactly `len` bytes that are one area, or several that go on in one another from the start of one to
/// the end of another; ascending.
#[must_use]
pub fn of_len(areas: &[Area], len: u64) -> Vec<Area> {
    let mut found = Vec::new();
    for (first, area) in areas.iter().enumerate() {
        let mut whole = area.clone();
        for next in areas.iter().skip(first + 1) {
            if whole.len() >= len || !goes_on(&whole, next) {
                break;
            }
            whole.end = next.end;
        }
        if whole.len() == len {
            found.push(whole);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
7f3d2bc00000-7f3d3bc00000 rw-p 00000000 00:00 0 
7f3d3bffe000-7f3dbbffe000 rw-s 00000000 fe:00 10018861                   /tmp/a ram (1)
7f3dbbfff000-7f3dfbfff000 rw-s 40000000 00:01 1026                       /memfd:memory-backend-memfd (deleted)
7f3dfbfff000-7f3dfc000000 rw-s 80000000 00:01 1026                       /memfd:memory-backend-memfd (deleted)
7ffc5b1d2000-7ffc5b1f3000 rw-p 00000000 00:00 0                          [stack]
";

    #[test]
    fn lines_of_the_kernel() {
        let areas = parse(TEXT);
        assert_eq!(areas.len(), 5);
        assert_eq!(FileId::of(&areas[0]), None);
        assert_eq!(FileId::of(&areas[1]), Some(FileId { device: (0xfe, 0), inode: 10_018_861 }));
        assert_eq!((path(&areas[1]), path(&areas[2])), ("/tmp/a ram (1)", "/memfd:memory-backend-memfd"));
        assert_eq!(FileId::of(&areas[2]).unwrap().to_string(), "inode 1026 on device 00:01");
        assert_eq!(parse("1000-3000 rw-p 0 00:00 0\n2000-4000 rw-p 0 00:00 0\nx").len(), 1, "they ascend");
    }

    #[test]
    fn pieces_of_one_file_are_one() {
        let areas = joined(&parse(TEXT));
        assert_eq!(areas.len(), 4);
        assert_eq!(areas[2].len(), 0x4000_1000);
        assert!(covering(&areas, &(0x7f3d_bbff_f000..0x7f3d_fc00_0000)).is_some());
        assert!(covering(&areas, &(0x7f3d_bbff_e000..0x7f3d_fc00_0000)).is_none(), "the page before is no part of it");
        assert!(covering(&areas, &(0..1)).is_none());
        let apart = TEXT.replace("80000000 00:01", "80001000 00:01");
        assert_eq!(joined(&parse(&apart)).len(), 5, "another place of the file");
        let other = TEXT.replace("80000000 00:01 1026", "80000000 00:01 1027");
        assert_eq!(joined(&parse(&other)).len(), 5, "another file");
    }

    #[test]
    fn stretches_by_their_length() {
        let areas = parse(TEXT);
        let starts = |len| of_len(&areas, len).iter().map(|area| area.start).collect::<Vec<_>>();
        assert_eq!(starts(0x4000_1000), [0x7f3d_bbff_f000], "two areas of one file");
        assert_eq!(starts(0x4000_0000), [0x7f3d_bbff_f000]);
        assert_eq!(starts(0x2000_0000), Vec::<u64>::new(), "a part of an area is none");
        assert_eq!(starts(0x8000_0000), [0x7f3d_3bff_e000]);
    }
}
