//! Where guest RAM lies in its files: an explicit list of segments, checked once.

use core::fmt;
use core::str::FromStr;

use vgpu_perception::{Gpa, PAGE_BYTES};

/// A stretch of guest physical memory and the bytes of a file that it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Its first guest physical byte.
    pub gpa: Gpa,
    /// Its length in bytes.
    pub len: u64,
    /// Which of the RAM files holds it, counted from 0 in the order in which they are handed over.
    pub file: usize,
    /// Where in that file it starts, in bytes.
    pub offset: u64,
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gpa, len, file, offset } = self;
        write!(f, "{gpa}:{len:#x}:{offset:#x} (file {file})")
    }
}

/// The segments of one guest, ascending and without overlap in guest physical memory.
///
/// What no segment covers is a hole: a read there is an error. Two segments may name the same bytes of a file, since
/// firmware is aliased that way; two segments at the same guest physical address are refused, since one of them is
/// wrong.
///
/// Take the split from the virtual machine where it can be asked: it depends on the machine's version and its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentMap {
    segments: Vec<Segment>,
}

/// The most segments that a map may have. Machines have one to three, and one more for each memory device that is
/// plugged.
pub const MAX_SEGMENTS: usize = 1024;

impl SegmentMap {
    /// Checks and sorts `segments`.
    ///
    /// Each is made of whole 4 KiB pages of the guest, and starts at any multiple of 8 in its file: in RAM files guest
    /// pages are pages of the file, in dumps they follow headers of any length.
    ///
    /// # Errors
    /// [`MapError`] naming the first segment that cannot be, or the two that collide.
    pub fn new(segments: impl IntoIterator<Item = Segment>) -> Result<Self, MapError> {
        let mut segments: Vec<Segment> = segments.into_iter().collect();
        if segments.is_empty() {
            return Err(MapError::NoSegments);
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(MapError::TooMany { count: segments.len() });
        }
        for segment in &segments {
            check(segment)?;
        }
        segments.sort_by_key(|segment| segment.gpa);
        for (lower, upper) in segments.iter().zip(segments.iter().skip(1)) {
            if upper.gpa.get() - lower.gpa.get() < lower.len {
                return Err(MapError::Overlap { lower: *lower, upper: *upper });
            }
        }
        Ok(Self { segments })
    }

    /// One segment of `len` bytes at guest physical 0, from the start of the first file.
    ///
    /// # Errors
    /// [`MapError`] as [`new`](Self::new) gives it.
    pub fn flat(len: u64) -> Result<Self, MapError> {
        Self::new([Segment { gpa: Gpa::new(0), len, file: 0, offset: 0 }])
    }

    /// Reads a list of `gpa:len:offset` or `gpa:len:offset:file`, each number decimal or `0x` hexadecimal, with an
    /// optional `K`, `M`, `G` or `T` (powers of 1024) behind it.
    ///
    /// ```
    /// use vgpu_perception_mapped::SegmentMap;
    /// let map = SegmentMap::parse(["0:2G:0", "4G:0x4000_0000:2G"])?;
    /// assert_eq!(map.segments()[1].offset, 2 << 30);
    /// # Ok::<(), vgpu_perception_mapped::MapError>(())
    /// ```
    ///
    /// # Errors
    /// [`MapError::Number`] or [`MapError::Fields`] with the text and its place in the list, or what [`new`](Self::new)
    /// gives.
    pub fn parse<S: AsRef<str>>(list: impl IntoIterator<Item = S>) -> Result<Self, MapError> {
        let mut segments = Vec::new();
        for (index, text) in list.into_iter().enumerate() {
            segments.push(parse_segment(index, text.as_ref())?);
        }
        Self::new(segments)
    }

    /// The segments, ascending by guest physical address.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// How many files the segments name: one more than the highest index.
    #[must_use]
    pub fn files(&self) -> usize {
        self.segments.iter().map(|segment| segment.file).max().map_or(0, |file| file.saturating_add(1))
    }

    /// Bytes of RAM in all segments.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.segments.iter().fold(0, |sum, segment| sum.saturating_add(segment.len))
    }
}

impl fmt::Display for SegmentMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.segments.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{segment}")?;
        }
        Ok(())
    }
}

/// The end of what 52 bits of physical address reach.
const PHYSICAL_END: u64 = 1 << 52;

fn check(segment: &Segment) -> Result<(), MapError> {
    let segment = *segment;
    if segment.len == 0 {
        return Err(MapError::ZeroLength { segment });
    }
    for (field, value) in [("gpa", segment.gpa.get()), ("len", segment.len)] {
        if !value.is_multiple_of(PAGE_BYTES) {
            return Err(MapError::NotPages { segment, field, value });
        }
    }
    if !segment.offset.is_multiple_of(8) {
        return Err(MapError::OddOffset { segment });
    }
    // Nothing a page table can name lies above (Intel SDM vol. 3A, 4.1.4), and sums below it never overflow.
    if segment.gpa.checked_add(segment.len).is_none_or(|end| end.get() > PHYSICAL_END) {
        return Err(MapError::GpaOverflow { segment });
    }
    if segment.offset.checked_add(segment.len).is_none() {
        return Err(MapError::OffsetOverflow { segment });
    }
    Ok(())
}

fn parse_segment(index: usize, text: &str) -> Result<Segment, MapError> {
    let fields: Vec<&str> = text.split(':').collect();
    let (gpa, len, offset, file) = match fields.as_slice() {
        [gpa, len, offset] => (*gpa, *len, *offset, "0"),
        [gpa, len, offset, file] => (*gpa, *len, *offset, *file),
        _ => return Err(MapError::Fields { index, text: text.to_owned(), count: fields.len() }),
    };
    let number = |field, value: &str| match parse_number(value) {
        Some(number) => Ok(number),
        None => Err(MapError::Number { index, text: text.to_owned(), field, value: value.to_owned() }),
    };
    let index_of_file = number("file", file)?;
    Ok(Segment {
        gpa: Gpa::new(number("gpa", gpa)?),
        len: number("len", len)?,
        offset: number("offset", offset)?,
        file: usize::try_from(index_of_file).unwrap_or(usize::MAX),
    })
}

/// Reads a byte count or an address: decimal or `0x` hexadecimal, `_` between digits, and an optional `K`, `M`, `G` or
/// `T` (powers of 1024, either case). `None` for anything else, and for what leaves 64 bits.
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    let text = text.trim();
    let last = text.chars().next_back()?;
    let shift = match last.to_ascii_uppercase() {
        'K' => 10,
        'M' => 20,
        'G' => 30,
        'T' => 40,
        _ => 0,
    };
    let digits = if shift == 0 { text } else { text.strip_suffix(last)? };
    let (digits, radix) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (digits, 10),
    };
    // `from_str_radix` would take a sign.
    if !digits.starts_with(|first: char| first.is_ascii_hexdigit()) {
        return None;
    }
    let number = u64::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    number.checked_mul(1 << shift)
}

impl FromStr for SegmentMap {
    type Err = MapError;

    /// As [`SegmentMap::parse`], from one text with commas between the segments.
    fn from_str(text: &str) -> Result<Self, MapError> {
        Self::parse(text.split(','))
    }
}

/// A segment map that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MapError {
    /// The list is empty.
    NoSegments,
    /// More than [`MAX_SEGMENTS`].
    TooMany {
        /// How many there were.
        count: usize,
    },
    /// A text of the list does not have three or four fields.
    Fields {
        /// Its place in the list, from 0.
        index: usize,
        /// The text.
        text: String,
        /// How many fields it has.
        count: usize,
    },
    /// A field of the list is no number.
    Number {
        /// Its place in the list, from 0.
        index: usize,
        /// The text of the segment.
        text: String,
        /// Which field.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// A segment of no bytes.
    ZeroLength {
        /// Which.
        segment: Segment,
    },
    /// A segment that is not made of whole 4 KiB pages.
    NotPages {
        /// Which.
        segment: Segment,
        /// Its field that is not a multiple of 4096.
        field: &'static str,
        /// The value of that field.
        value: u64,
    },
    /// A segment whose place in its file is not a multiple of 8: its words would not be aligned.
    OddOffset {
        /// Which.
        segment: Segment,
    },
    /// A segment that reaches past the 52-bit physical address space.
    GpaOverflow {
        /// Which.
        segment: Segment,
    },
    /// A segment whose range in its file reaches past 2^64.
    OffsetOverflow {
        /// Which.
        segment: Segment,
    },
    /// Two segments that claim the same guest physical addresses.
    Overlap {
        /// The one that starts first.
        lower: Segment,
        /// The one that starts inside it.
        upper: Segment,
    },
    /// A machine without RAM, or whose RAM is not a number of whole pages.
    RamSize {
        /// Its RAM in bytes.
        bytes: u64,
    },
    /// A limit for the RAM below 4 GiB that no machine takes.
    MaxRamBelow4g {
        /// The limit in bytes.
        bytes: u64,
    },
    /// What follows a machine's name and is no option of it.
    MachineOption {
        /// The text.
        text: String,
    },
    /// A name that is no machine known here.
    UnknownMachine {
        /// The name.
        name: String,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSegments => f.write_str("the segment map is empty: name at least one gpa:len:offset"),
            Self::TooMany { count } => write!(f, "{count} segments, but a map has at most {MAX_SEGMENTS}"),
            Self::Fields { index, text, count } => {
                write!(f, "segment {index} {text:?} has {count} fields: write gpa:len:offset or gpa:len:offset:file")
            }
            Self::Number { index, text, field, value } => write!(
                f,
                "segment {index} {text:?}: {field} {value:?} is not a number (decimal or 0x…, with K, M, G or T, \
                 below 2^64)"
            ),
            Self::ZeroLength { segment } => write!(f, "segment {segment} has no bytes: leave it out"),
            Self::NotPages { segment, field, value } => {
                write!(f, "segment {segment}: {field} {value:#x} is not a multiple of 4096")
            }
            Self::OddOffset { segment } => {
                write!(f, "segment {segment}: offset {:#x} is not a multiple of 8", segment.offset)
            }
            Self::GpaOverflow { segment } => {
                write!(f, "segment {segment} reaches past guest physical 2^52, the last that a page table can name")
            }
            Self::OffsetOverflow { segment } => write!(f, "segment {segment} reaches past 2^64 in its file"),
            Self::Overlap { lower, upper } => {
                write!(f, "segments {lower} and {upper} overlap in guest physical memory: one of them is wrong")
            }
            Self::RamSize { bytes } => {
                write!(f, "{bytes} bytes are no whole number of 4 KiB pages, as the RAM of a machine is")
            }
            Self::MaxRamBelow4g { bytes } => {
                write!(f, "max-ram-below-4g {bytes:#x} is not between one page and 4 GiB in whole pages")
            }
            Self::UnknownMachine { name } => {
                write!(
                    f,
                    "unknown machine {name:?}: use pc, q35, microvm, ch, firecracker or crosvm, or give the map itself"
                )
            }
            Self::MachineOption { text } => {
                write!(f, "{text:?} is no option of a machine: there are max-ram-below-4g=SIZE and above-4g=4G or 1T")
            }
        }
    }
}

impl core::error::Error for MapError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(gpa: u64, len: u64, offset: u64) -> Segment {
        Segment { gpa: Gpa::new(gpa), len, file: 0, offset }
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal_with_a_suffix() {
        for (text, number) in [
            ("0", 0),
            ("4096", 4096),
            ("0x1000", 4096),
            ("0X1f", 31),
            ("3G", 3 << 30),
            ("512m", 512 << 20),
            ("0x10K", 16 << 10),
            ("1T", 1 << 40),
            ("0xffff_ffff_ffff_f000", 0xffff_ffff_ffff_f000),
            (" 8 ", 8),
        ] {
            assert_eq!(parse_number(text), Some(number), "{text}");
        }
        for text in
            ["", "x", "0x", "-1", "+1", "1.5G", "1 G", "G", "0xg", "18446744073709551616", "16777216T", "_1", "12MB"]
        {
            assert_eq!(parse_number(text), None, "{text}");
        }
    }

    #[test]
    fn a_list_is_sorted_and_keeps_its_holes() {
        let map: SegmentMap = "4G:1G:2G, 0:2G:0".parse().unwrap();
        assert_eq!(map.segments(), [segment(0, 2 << 30, 0), segment(4 << 30, 1 << 30, 2 << 30)]);
        assert_eq!((map.ram_bytes(), map.files()), (3 << 30, 1));
        let two = SegmentMap::parse(["0:4K:0:1", "8K:4K:0:0"]).unwrap();
        assert_eq!(two.files(), 2);
        assert_eq!(two.segments()[0].file, 1);
    }

    #[test]
    fn errors_name_the_value_and_its_place() {
        let error = SegmentMap::parse(["0:4K:0", "8K:zz:0"]).unwrap_err();
        let (index, text) = (1, "8K:zz:0".to_owned());
        assert_eq!(error, MapError::Number { index, text, field: "len", value: "zz".to_owned() });
        assert!(error.to_string().contains("segment 1 \"8K:zz:0\": len \"zz\""), "{error}");
        let error = SegmentMap::parse(["0:4K"]).unwrap_err();
        assert_eq!(error, MapError::Fields { index: 0, text: "0:4K".to_owned(), count: 2 });
    }

    #[test]
    fn overlaps_are_refused_with_both_segments() {
        let (a, b) = (segment(0, 0x3000, 0), segment(0x2000, 0x1000, 0x3000));
        assert_eq!(SegmentMap::new([b, a]), Err(MapError::Overlap { lower: a, upper: b }));
        assert!(SegmentMap::new([a, segment(0x3000, 0x1000, 0x3000)]).is_ok(), "neighbours touch");
        assert!(SegmentMap::new([a, segment(0x3000, 0x1000, 0)]).is_ok(), "aliased file bytes are allowed");
        let inner = segment(0x1000, 0x1000, 0x3000);
        assert_eq!(SegmentMap::new([a, inner]), Err(MapError::Overlap { lower: a, upper: inner }));
        assert!(matches!(SegmentMap::new([a, a]), Err(MapError::Overlap { .. })));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(SegmentMap::new([]), Err(MapError::NoSegments));
        let empty = segment(0x1000, 0, 0);
        assert_eq!(SegmentMap::new([empty]), Err(MapError::ZeroLength { segment: empty }));
        for (odd, field, value) in [(segment(1, 0x1000, 0), "gpa", 1), (segment(0, 0x1001, 0), "len", 0x1001)] {
            assert_eq!(SegmentMap::new([odd]), Err(MapError::NotPages { segment: odd, field, value }));
        }
        assert!(SegmentMap::new([segment(0, 0x1000, 0x488)]).is_ok(), "a dump's first segment follows its headers");
        let odd = segment(0, 0x1000, 0x484);
        assert_eq!(SegmentMap::new([odd]), Err(MapError::OddOffset { segment: odd }));
        let last = PHYSICAL_END - 0x1000;
        assert!(SegmentMap::new([segment(last, 0x1000, 0)]).is_ok(), "the last page that can be named");
        let past = segment(last, 0x2000, 0);
        assert_eq!(SegmentMap::new([past]), Err(MapError::GpaOverflow { segment: past }));
        let top = 0xffff_ffff_ffff_f000;
        let past = segment(top, 0x2000, 0);
        assert_eq!(SegmentMap::new([past]), Err(MapError::GpaOverflow { segment: past }));
        let past = segment(0, 0x1000, top);
        assert_eq!(SegmentMap::new([past]), Err(MapError::OffsetOverflow { segment: past }));
        let many = (0..=MAX_SEGMENTS as u64).map(|page| segment(page * 0x1000, 0x1000, page * 0x1000));
        assert_eq!(SegmentMap::new(many), Err(MapError::TooMany { count: MAX_SEGMENTS + 1 }));
    }
}
