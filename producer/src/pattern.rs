//! Test pictures: every pixel follows from the frame's number, and they look like a desktop.
//!
//! The low two bits of blue, green and red are a stamp: six bits that follow from the frame's number and from which 64
//! bytes of the frame the pixel is in. Two frames of one size whose numbers differ by less than 64 differ in every
//! pixel, so that a reader who [`check`]s finds any mixture of them, and most pages that are in another's place.

use core::fmt;

use vgpu_perception::abi::{BYTES_PER_PIXEL, CursorId, MAX_WIDTH};

use crate::producer::{CursorState, GeometryState};

const STAMP_MASK: u32 = 0x0003_0303;
const CHUNK_PIXELS: u32 = 16;
const ROW_BYTES: usize = (MAX_WIDTH * BYTES_PER_PIXEL) as usize;

/// A pixel is not what the frame's number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// A pixel differs.
    Pixel {
        /// Column.
        x: u32,
        /// Row.
        y: u32,
        /// What the frame's number says: `0xAARRGGBB`.
        expected: u32,
        /// What is there.
        found: u32,
    },
    /// The bytes are not as many as the size says, or the size cannot be.
    Size {
        /// Bytes that were given.
        have: usize,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pixel { x, y, expected, found } => {
                write!(f, "pixel {x}, {y} is {found:#010x}, its frame has {expected:#010x} there")
            }
            Self::Size { have } => write!(f, "{have} bytes are not a frame of that size"),
        }
    }
}

impl core::error::Error for Mismatch {}

/// A rectangle in thousandths of the picture.
struct Rect {
    left: u32,
    top: u32,
    right: u32,
    bottom: u32,
}

impl Rect {
    const fn pixels(&self, width: u32, height: u32) -> Self {
        Self {
            left: self.left * width / 1000,
            top: self.top * height / 1000,
            right: self.right * width / 1000,
            bottom: self.bottom * height / 1000,
        }
    }
}

struct Window {
    at: Rect,
    title: u32,
    body: u32,
    ink: u32,
}

const WINDOWS: [Window; 3] = [
    Window {
        at: Rect { left: 50, top: 70, right: 520, bottom: 660 },
        title: 0xff2c_5aa0,
        body: 0xfff4_f4f4,
        ink: 0xff60_6468,
    },
    Window {
        at: Rect { left: 110, top: 560, right: 430, bottom: 880 },
        title: 0xff3c_3c40,
        body: 0xff18_1c20,
        ink: 0xff40_b850,
    },
    Window {
        at: Rect { left: 440, top: 200, right: 940, bottom: 720 },
        title: 0xff9c_4028,
        body: 0xffff_fcf0,
        ink: 0xffc8_b89c,
    },
];

/// Digits in five columns and seven rows, the left column in bit 4.
const DIGITS: [[u8; 7]; 10] = [
    [14, 17, 19, 21, 25, 17, 14],
    [4, 12, 4, 4, 4, 4, 14],
    [14, 17, 1, 2, 4, 8, 31],
    [31, 2, 4, 2, 1, 17, 14],
    [2, 6, 10, 18, 31, 2, 2],
    [31, 16, 30, 1, 1, 17, 14],
    [6, 8, 16, 30, 17, 17, 14],
    [31, 1, 2, 4, 8, 8, 8],
    [14, 17, 17, 14, 17, 17, 14],
    [14, 17, 17, 15, 1, 2, 12],
];
/// Digits of the frame's number that are drawn: the last ones.
const SHOWN: u32 = 6;

/// Fills row `y` of frame `frame_id`; `row` has `width * 4` bytes. Sizes up to the ABI's limits.
pub fn fill_row(frame_id: u64, width: u32, height: u32, y: u32, row: &mut [u8]) {
    if width == 0 || height == 0 {
        return;
    }
    let shade = y.wrapping_mul(96) / height;
    span(row, 0, width, 0xff20_4868 + (shade / 2) * 0x0001_0000 + shade * 0x0000_0101);
    for window in &WINDOWS {
        draw_window(window, width, height, y, row);
    }
    draw_bar(width, height, y, row);
    draw_block(frame_id, width, height, y, row);
    draw_number(frame_id, width, height, y, row);
    stamp(frame_id, width, y, row);
}

/// Checks every byte of a frame.
///
/// # Errors
/// [`Mismatch`]: the first pixel that is not the frame's.
pub fn check(frame_id: u64, width: u32, height: u32, pixels: &[u8]) -> Result<(), Mismatch> {
    let size = Mismatch::Size { have: pixels.len() };
    let stride = width as usize * BYTES_PER_PIXEL as usize;
    let mut buffer = [0; ROW_BYTES];
    let expected = buffer.get_mut(..stride).ok_or(size)?;
    if stride == 0 || pixels.len() != stride * height as usize {
        return Err(size);
    }
    for (y, found) in (0..height).zip(pixels.chunks_exact(stride)) {
        fill_row(frame_id, width, height, y, expected);
        if found != expected {
            let pairs = expected.chunks_exact(4).zip(found.chunks_exact(4));
            let differs = (0..width).zip(pairs).find(|(_, (expected, found))| expected != found);
            if let Some((x, (expected, found))) = differs {
                return Err(Mismatch::Pixel { x, y, expected: word(expected), found: word(found) });
            }
        }
    }
    Ok(())
}

/// FNV-1a over little-endian 8-byte words, then over the bytes that are left.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut words = bytes.chunks_exact(8);
    let mut sum = 0xcbf2_9ce4_8422_2325;
    for word in words.by_ref() {
        let word = word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        sum = (sum ^ word).wrapping_mul(PRIME);
    }
    words.remainder().iter().fold(sum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// Where the cursor is at step `step`, which is `cursor_seq / 2` where the numbers began at 0. Every word of it changes
/// with every step.
#[must_use]
pub fn cursor(step: u32, width: u32, height: u32) -> CursorState {
    let small = |modulus: u32| u16::try_from(step % modulus).unwrap_or(0);
    CursorState {
        visible: step % 2 == 1,
        // A little way off the desktop on each side: negative positions are normal.
        x: bounce(step.wrapping_mul(5), width + 16).cast_signed() - 8,
        y: bounce(step.wrapping_mul(3), height + 16).cast_signed() - 8,
        hot_x: small(24),
        hot_y: small(31),
        glyph_w: 24 + small(41),
        glyph_h: 32 + small(29),
        id: CursorId(step % 14),
    }
}

/// The geometry at step `step`, which is `geom_seq / 2` where the numbers began at 0. The first one, step 1, is a plain
/// desktop of the frame's size; every word changes with every step.
#[must_use]
pub fn geometry(step: u32, width: u32, height: u32) -> GeometryState {
    let n = step.wrapping_sub(1);
    let part = |modulus: u32| (n % modulus).cast_signed();
    GeometryState {
        virt_x: -part(1024),
        virt_y: part(509),
        virt_w: width + n % 8,
        virt_h: height + n % 9,
        cap_x: part(256),
        cap_y: -part(127),
        dpi: 96 + n % 64,
        refresh_mhz: 60_000 + n % 1000,
    }
}

/// From 0 up to `most` and down again.
const fn bounce(n: u32, most: u32) -> u32 {
    let most = if most == 0 { 1 } else { most };
    let at = n % (2 * most);
    if at < most { at } else { 2 * most - at }
}

fn word(pixel: &[u8]) -> u32 {
    pixel.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn span(row: &mut [u8], left: u32, right: u32, colour: u32) {
    let bytes = (colour & !STAMP_MASK).to_le_bytes();
    let end = (right as usize * 4).min(row.len());
    let Some(part) = row.get_mut(left as usize * 4..end) else { return };
    for pixel in part.chunks_exact_mut(4) {
        pixel.copy_from_slice(&bytes);
    }
}

fn draw_window(window: &Window, width: u32, height: u32, y: u32, row: &mut [u8]) {
    let at = window.at.pixels(width, height);
    if y < at.top || y >= at.bottom {
        return;
    }
    let bar = (height / 26).max(1);
    let down = y - at.top;
    if down < bar {
        span(row, at.left, at.right, window.title);
        let inset = bar / 4;
        if down >= inset && down < bar - inset && at.right - at.left > 2 * bar {
            span(row, at.right - bar + inset, at.right - inset, 0xffe0_5048);
            span(row, at.left + bar, at.left + (at.right - at.left) / 3, 0xffd8_dce0);
        }
        return;
    }
    span(row, at.left, at.right, 0xff50_5458);
    if y + 1 == at.bottom || at.right - at.left < 4 {
        return;
    }
    span(row, at.left + 1, at.right - 1, window.body);
    // Lines of text, as far as one can tell from afar.
    let pitch = (height / 40).max(3);
    let (line, within) = ((down - bar) / pitch, (down - bar) % pitch);
    if within > pitch / 3 && within < pitch - pitch / 4 {
        let end = at.right - (at.right - at.left) / 16;
        let mut x = at.left + (at.right - at.left) / 16 + (line % 3) * pitch;
        let mut n = line.wrapping_mul(0x9e37_79b1);
        while x < end {
            let len = pitch * (1 + (n >> 28) / 3);
            span(row, x, (x + len).min(end), window.ink);
            x += len + pitch / 2 + 1;
            n = n.wrapping_mul(0x85eb_ca6b) ^ 0x1b87_3593;
        }
    }
}

fn draw_bar(width: u32, height: u32, y: u32, row: &mut [u8]) {
    let bar = height / 18;
    let top = height - bar;
    if bar == 0 || y < top {
        return;
    }
    span(row, 0, width, 0xff1c_2028);
    let (down, inset) = (y - top, bar / 5);
    if down >= inset && down < bar - inset {
        for (n, colour) in (0..).zip([0xff50_a0e0, 0xffe8_b040, 0xff58_b868, 0xffc8_5890, 0xffd0_d4d8]) {
            let left = inset + n * (bar + inset);
            span(row, left, left + bar - 2 * inset, colour);
        }
    }
}

fn draw_block(frame_id: u64, width: u32, height: u32, y: u32, row: &mut [u8]) {
    let side = height / 9;
    let n = u32::try_from(frame_id % (1 << 24)).unwrap_or(0);
    let left = bounce(n * 7, width.saturating_sub(side));
    let top = bounce(n * 4, height.saturating_sub(side));
    if y >= top && y < top + side {
        span(row, left, left + side, 0xffe8_8020);
        if (1..3).contains(&((y - top) * 4 / side.max(1))) {
            span(row, left + side / 4, left + side - side / 4, 0xfff8_d890);
        }
    }
}

fn draw_number(frame_id: u64, width: u32, height: u32, y: u32, row: &mut [u8]) {
    let dot = (height / 64).max(1);
    let (left, top) = (width * 47 / 100, height * 36 / 100);
    if y + 2 * dot < top || y >= top + 9 * dot {
        return;
    }
    span(row, left - left.min(3 * dot), left + (6 * SHOWN + 2) * dot, 0xffff_fcf0);
    if y < top || y >= top + 7 * dot {
        return;
    }
    let line = ((y - top) / dot) as usize;
    let mut rest = frame_id;
    for place in (0..SHOWN).rev() {
        let digit = usize::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        let bits = DIGITS.get(digit).and_then(|digit| digit.get(line)).copied().unwrap_or(0);
        for column in 0..5 {
            if bits >> (4 - column) & 1 == 1 {
                let x = left + (place * 6 + column) * dot;
                span(row, x, x + dot, 0xff10_1418);
            }
        }
    }
}

/// Six bits into the low ends of the three colours of every pixel, the same for the 16 pixels of a chunk.
fn stamp(frame_id: u64, width: u32, y: u32, row: &mut [u8]) {
    let number = u32::try_from(frame_id & 63).unwrap_or(0);
    let mut next = y.wrapping_mul(width);
    let mut rest = row;
    while !rest.is_empty() {
        let chunk = next / CHUNK_PIXELS;
        let count = CHUNK_PIXELS - next % CHUNK_PIXELS;
        let (part, tail) = rest.split_at_mut((count as usize * 4).min(rest.len()));
        let six = (chunk.wrapping_mul(0x9e37_79b1) >> 26).wrapping_add(number) & 63;
        let bits = (six & 3) | (six >> 2 & 3) << 8 | (six >> 4) << 16;
        for pixel in part.chunks_exact_mut(4) {
            let stamped = word(pixel) | bits;
            pixel.copy_from_slice(&stamped.to_le_bytes());
        }
        next = next.wrapping_add(count);
        rest = tail;
    }
}
