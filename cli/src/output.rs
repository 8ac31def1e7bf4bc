//! Where pictures go: a file or standard output, in a format that the name says.

use core::fmt;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use vgpu_perception_view::{Picture, PictureError};

use crate::failure::Failure;

/// A format of single pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Still {
    /// Every pixel as it is
    Png,
    /// Small
    #[value(alias = "jpeg")]
    Jpg,
    /// Every pixel as it is, not compressed
    Ppm,
}

/// The quality of every JPEG: text stays readable.
pub(crate) const QUALITY: u8 = 85;

impl Still {
    /// The format that was asked for, or that the name of the file ends with.
    pub(crate) fn of(asked: Option<Self>, path: &Path) -> Result<Self, Failure> {
        if let Some(asked) = asked {
            return Ok(asked);
        }
        let end = path.extension().map(|end| end.to_string_lossy().to_ascii_lowercase());
        match end.as_deref() {
            Some("jpg" | "jpeg") => Ok(Self::Jpg),
            Some("ppm" | "pnm") => Ok(Self::Ppm),
            Some("png") | None => Ok(Self::Png),
            Some(other) => Err(Failure::Usage(format!(
                "{}: no picture is written as .{other}; .png, .jpg and .ppm are, or give --format",
                path.display()
            ))),
        }
    }

    pub(crate) fn write(self, picture: &Picture<'_>, to: impl Write) -> Result<(), PictureError> {
        match self {
            Self::Png => picture.png(to),
            Self::Jpg => picture.jpeg(to, QUALITY),
            Self::Ppm => picture.ppm(to),
        }
    }
}

/// A place for bytes.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Stdout,
    File(PathBuf),
}

impl Target {
    /// `-` is standard output.
    pub(crate) fn of(path: &Path) -> Self {
        if path.as_os_str() == "-" { Self::Stdout } else { Self::File(path.to_owned()) }
    }

    pub(crate) const fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout)
    }

    /// Whether it will take what is written later: asked before anything else is waited for.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let path = match self {
            Self::Stdout if io::stdout().is_terminal() => {
                return Err(Failure::Usage(
                    "standard output is a terminal: give -o FILE, or a program behind a pipe (| ffmpeg -i - out.mkv)"
                        .into(),
                ));
            }
            Self::Stdout => return Ok(()),
            Self::File(path) => path,
        };
        match std::fs::metadata(path) {
            Ok(there) if there.is_dir() => {
                return Err(Failure::Usage(format!("{self} is a folder: give a file in it, {self}/frame.png")));
            }
            // A fifo would wait for who reads it.
            Ok(there) if !there.is_file() => return Ok(()),
            _ => {}
        }
        let part = part(path);
        File::create(&part).map_err(|error| self.failed(&error))?;
        let _ = std::fs::remove_file(&part);
        Ok(())
    }

    /// Opens it; a file is made anew.
    pub(crate) fn open(&self) -> Result<File, Failure> {
        match self {
            // Without the line buffer that standard output has for text.
            Self::Stdout => Ok(File::from(io::stdout().as_fd().try_clone_to_owned().map_err(|e| self.failed(&e))?)),
            Self::File(path) => File::create(path).map_err(|error| self.failed(&error)),
        }
    }

    pub(crate) fn failed(&self, error: &dyn fmt::Display) -> Failure {
        Failure::Output(format!("{self}: cannot be written: {error}"))
    }

    /// Writes one picture; a file appears whole or not at all.
    pub(crate) fn picture(&self, still: Still, picture: &Picture<'_>) -> Result<(), Failure> {
        match self {
            Self::Stdout => {
                let mut file = BufWriter::new(self.open()?);
                let written = still.write(picture, &mut file).and_then(|()| Ok(file.flush()?));
                written.map_err(|error| self.failed(&error))
            }
            Self::File(path) => {
                // What is no plain file (/dev/null, a fifo) is written in place.
                let plain = std::fs::metadata(path).map_or(true, |there| there.is_file());
                let part = if plain { part(path) } else { path.clone() };
                let write = || -> Result<(), PictureError> {
                    let mut file = BufWriter::new(File::create(&part)?);
                    still.write(picture, &mut file)?;
                    file.flush()?;
                    if plain {
                        std::fs::rename(&part, path)?;
                    }
                    Ok(())
                };
                write().map_err(|error| {
                    if plain {
                        let _ = std::fs::remove_file(&part);
                    }
                    self.failed(&error)
                })
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The name of a file while it is written.
fn part(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

/// Writes a text and the end of its line to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|error| Target::Stdout.failed(&error))
}

/// `frame.png` with something between its stem and its end: `frame-WHAT.png`.
pub(crate) fn named(path: &Path, what: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(end) => format!("{stem}-{what}.{}", end.to_string_lossy()),
        None => format!("{stem}-{what}"),
    };
    path.with_file_name(name)
}

/// The name of still `n` of `count`: `shots/frame.png` becomes `shots/frame-007.png`.
pub(crate) fn numbered(path: &Path, n: u64, count: u64) -> PathBuf {
    let digits = count.to_string().len();
    named(path, &format!("{n:0digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_format() {
        for (name, wanted) in
            [("a.png", Still::Png), ("a.JPG", Still::Jpg), ("a.jpeg", Still::Jpg), ("b.c.ppm", Still::Ppm)]
        {
            assert_eq!(Still::of(None, Path::new(name)).unwrap(), wanted);
        }
        assert_eq!(Still::of(None, Path::new("-")).unwrap(), Still::Png);
        assert_eq!(Still::of(Some(Still::Ppm), Path::new("a.png")).unwrap(), Still::Ppm);
        assert!(Still::of(None, Path::new("a.webp")).unwrap_err().to_string().contains(".webp"));
    }

    #[test]
    fn numbers_sort_as_names() {
        assert_eq!(numbered(Path::new("/x/f.png"), 7, 250), Path::new("/x/f-007.png"));
        assert_eq!(numbered(Path::new("f"), 7, 9), Path::new("f-7"));
    }
}
