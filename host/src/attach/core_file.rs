//! Files written when a guest stood still.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Whether the file at `path` begins as a core file does.
pub(super) fn is_one(path: &Path) -> bool {
    let mut magic = [0; 4];
    let Ok(mut file) = File::open(path) else { return false };
    file.read_exact(&mut magic).is_ok() && matches!(&magic, b"\x7fELF" | b"EMiL")
}
