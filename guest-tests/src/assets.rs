//! What a guest boots from.

use std::path::PathBuf;

use crate::Result;

/// The files that a guest boots from.
#[derive(Clone, Debug)]
pub struct Assets {
    /// The kernel.
    pub kernel: PathBuf,
    /// The file system, with the producer in it.
    pub initramfs: PathBuf,
}

impl Assets {
    /// Looks in `$VGPU_GUEST_DIR`, or `target/guest` of this workspace.
    ///
    /// # Errors
    /// What is missing, and the command that makes it.
    pub fn find() -> Result<Self> {
        let default = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guest"));
        let dir = std::env::var_os("VGPU_GUEST_DIR").map_or_else(default, PathBuf::from);
        let file = |name: &str, made_by: &str| {
            let path = dir.join(name);
            if path.is_file() { Ok(path) } else { Err(format!("{} is missing. Run {made_by}", path.display())) }
        };
        let kernel = file("vmlinuz", ".ci/guest/setup")?;
        Ok(Self { kernel, initramfs: file("initramfs", ".ci/guest/image")? })
    }
}
