//! A picture in character cells: two pixels a cell where there is colour, a letter as dark as the pixels where there is
//! none.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::widgets::Widget;
use vgpu_perception_view::Picture;

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colours {
    /// Any colour.
    All,
    /// The 216 colours of the cube, and greys.
    Indexed,
    /// None: letters.
    None,
}

impl Colours {
    /// By the variables that programs go by.
    pub(crate) fn of_environment(get: impl Fn(&str) -> Option<String>) -> Self {
        let term = get("TERM").unwrap_or_default();
        if get("NO_COLOR").is_some_and(|text| !text.is_empty())
            || term.is_empty()
            || term == "dumb"
            || term.contains("vt")
        {
            return Self::None;
        }
        match get("COLORTERM").as_deref() {
            Some("truecolor" | "24bit") => Self::All,
            _ => Self::Indexed,
        }
    }

    fn shade(self, [blue, green, red]: [u8; 3]) -> Color {
        match self {
            Self::All => Color::Rgb(red, green, blue),
            _ => {
                let step = |value: u8| (u16::from(value) * 5 + 127) / 255;
                let index = 16 + 36 * step(red) + 6 * step(green) + step(blue);
                Color::Indexed(u8::try_from(index).unwrap_or(16))
            }
        }
    }
}

/// From dark to light, on a dark terminal.
const LETTERS: &[u8] = b" .:-=+*#%@";

/// A picture of a cell's width and half its height a pixel, in the middle of its place.
#[derive(Debug)]
pub(crate) struct Blocks<'p> {
    pub(crate) picture: Picture<'p>,
    pub(crate) colours: Colours,
}

impl Blocks<'_> {
    /// Black below the last row.
    fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        let at = (y as usize * self.picture.width() as usize + x as usize) * 4;
        self.picture.pixels().get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or_default()
    }
}

impl Widget for Blocks<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let columns = u16::try_from(self.picture.width()).unwrap_or(u16::MAX).min(area.width);
        let lines = u16::try_from(self.picture.height().div_ceil(2)).unwrap_or(u16::MAX).min(area.height);
        let (left, top) = (area.x + (area.width - columns) / 2, area.y + (area.height - lines) / 2);
        for line in 0..lines {
            for column in 0..columns {
                let Some(cell) = buffer.cell_mut((left + column, top + line)) else { continue };
                let upper = self.pixel(u32::from(column), u32::from(line) * 2);
                let lower = self.pixel(u32::from(column), u32::from(line) * 2 + 1);
                if self.colours == Colours::None {
                    let light =
                        |[blue, green, red]: [u8; 3]| u32::from(red) * 3 + u32::from(green) * 6 + u32::from(blue);
                    let most = (LETTERS.len() - 1) as u32;
                    let index = (light(upper) + light(lower)) * most / (2 * 2550);
                    cell.set_char(char::from(LETTERS.get(index as usize).copied().unwrap_or(b'@')));
                } else {
                    cell.set_char('▀').set_fg(self.colours.shade(upper)).set_bg(self.colours.shade(lower));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(colours: Colours) -> Buffer {
        // Red above green, in two columns.
        let pixels = [[0, 0, 255, 0, 0, 0, 255, 0], [0, 255, 0, 0, 0, 255, 0, 0]].concat();
        let mut buffer = Buffer::empty(Rect::new(0, 0, 4, 3));
        let picture = Picture::new(2, 2, &pixels).unwrap();
        Blocks { picture, colours }.render(Rect::new(0, 0, 4, 3), &mut buffer);
        buffer
    }

    #[test]
    fn a_cell_has_two_pixels() {
        let buffer = drawn(Colours::All);
        let cell = &buffer[(1, 1)];
        assert_eq!((cell.symbol(), cell.fg, cell.bg), ("▀", Color::Rgb(255, 0, 0), Color::Rgb(0, 255, 0)));
        assert_eq!(buffer[(0, 1)].symbol(), " ", "beside the picture nothing is drawn");
        let cell = &drawn(Colours::Indexed)[(2, 1)];
        assert_eq!((cell.fg, cell.bg), (Color::Indexed(196), Color::Indexed(46)));
    }

    #[test]
    fn without_colour_it_is_letters() {
        let buffer = drawn(Colours::None);
        let cell = &buffer[(1, 1)];
        assert!(cell.symbol() == "=" && cell.fg == Color::Reset, "{cell:?}");
    }

    #[test]
    fn terminals_say_what_they_can() {
        let of = |pairs: &[(&str, &str)]| {
            Colours::of_environment(|name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[("TERM", "xterm-256color"), ("COLORTERM", "truecolor")]), Colours::All);
        assert_eq!(of(&[("TERM", "screen-256color")]), Colours::Indexed);
        assert_eq!(of(&[("TERM", "dumb"), ("COLORTERM", "truecolor")]), Colours::None);
        assert_eq!(of(&[("TERM", "xterm"), ("NO_COLOR", "1")]), Colours::None);
        assert_eq!(of(&[]), Colours::None);
    }
}
