//! Draws the cursor into a picture. The region tells where it is and of which kind, not what it looks like: the shapes
//! are this module's own.

use vgpu_perception::abi::CursorId;
use vgpu_perception::region::CursorSnapshot;

/// An arrow that points to its top left corner: `#` black, `.` white.
const ARROW: &[&str] = &[
    "#",
    "##",
    "#.#",
    "#..#",
    "#...#",
    "#....#",
    "#.....#",
    "#......#",
    "#.......#",
    "#........#",
    "#.....#####",
    "#..#..#",
    "#.# #..#",
    "##  #..#",
    "#    #..#",
    "     #..#",
    "      ##",
];

const BLACK: [u8; 3] = [0, 0, 0];
const WHITE: [u8; 3] = [255, 255, 255];

/// A picture that is drawn into: BGRA without gaps.
struct Canvas<'p> {
    width: u32,
    height: u32,
    pixels: &'p mut [u8],
}

impl Canvas<'_> {
    fn set(&mut self, x: i64, y: i64, colour: [u8; 3]) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
        if x >= self.width || y >= self.height {
            return;
        }
        let at = (y as usize * self.width as usize + x as usize) * 4;
        if let Some(place) = self.pixels.get_mut(at..at + 3) {
            place.copy_from_slice(&colour);
        }
    }

    /// A line of one pixel with a border of the other colour.
    fn bar(&mut self, left: i64, top: i64, right: i64, bottom: i64) {
        for y in top - 1..=bottom + 1 {
            for x in left - 1..=right + 1 {
                let inside = (left..=right).contains(&x) && (top..=bottom).contains(&y);
                self.set(x, y, if inside { WHITE } else { BLACK });
            }
        }
    }
}

/// Draws `cursor` into a picture whose top left pixel is at `left`, `top` of the desktop. A hidden one is not drawn.
pub fn draw(pixels: &mut [u8], width: u32, height: u32, cursor: &CursorSnapshot, left: i32, top: i32) {
    if !cursor.visible {
        return;
    }
    let x = i64::from(cursor.x) - i64::from(left);
    let y = i64::from(cursor.y) - i64::from(top);
    let mut canvas = Canvas { width, height, pixels };
    match cursor.id {
        CursorId::IBEAM => canvas.bar(x, y - 8, x, y + 8),
        CursorId::CROSS | CursorId::SIZE_ALL => {
            canvas.bar(x, y - 9, x, y + 9);
            canvas.bar(x - 9, y, x + 9, y);
        }
        CursorId::SIZE_NS => canvas.bar(x, y - 9, x, y + 9),
        CursorId::SIZE_WE => canvas.bar(x - 9, y, x + 9, y),
        _ => {
            for (line, row) in (0..).zip(ARROW) {
                for (column, dot) in (0..).zip(row.bytes()) {
                    match dot {
                        b'#' => canvas.set(x + column, y + line, BLACK),
                        b'.' => canvas.set(x + column, y + line, WHITE),
                        _ => {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(x: i32, y: i32, id: CursorId) -> CursorSnapshot {
        CursorSnapshot { seq: 2, visible: true, x, y, hot_x: 0, hot_y: 0, glyph_w: 32, glyph_h: 32, id }
    }

    #[test]
    fn the_arrow_points_to_the_position_and_edges_clip_it() {
        let mut pixels = vec![77; 20 * 20 * 4];
        draw(&mut pixels, 20, 20, &cursor(105, 203, CursorId::ARROW), 100, 200);
        let at = |x: usize, y: usize| pixels[(y * 20 + x) * 4];
        assert_eq!((at(5, 3), at(5, 4), at(6, 5), at(4, 3)), (0, 0, 255, 77));
        for (x, y) in [(-5, -5), (19, 19), (i32::MIN, i32::MAX), (i32::MAX, i32::MIN)] {
            for id in 0..15 {
                draw(&mut pixels, 20, 20, &cursor(x, y, CursorId(id)), i32::MAX, i32::MIN);
                draw(&mut pixels, 20, 20, &cursor(x, y, CursorId(id)), 0, 0);
            }
        }
    }

    #[test]
    fn a_hidden_one_is_not_drawn() {
        let mut pixels = vec![77; 20 * 20 * 4];
        draw(&mut pixels, 20, 20, &CursorSnapshot { visible: false, ..cursor(5, 5, CursorId::ARROW) }, 0, 0);
        assert!(pixels.iter().all(|byte| *byte == 77));
    }
}
