//! What is done, why, and how long it took, on standard error, where `-v` asks for it.

use std::sync::OnceLock;
use std::time::Instant;

/// Set once, before anything is done, where something is to be said.
static STARTED: OnceLock<Instant> = OnceLock::new();

/// Has everything said from now on.
pub(crate) fn enable() {
    STARTED.get_or_init(Instant::now);
}

/// Says what is done, with the time since the command started. The words are made only where somebody wants them.
pub(crate) fn say(what: impl FnOnce() -> String) {
    if let Some(started) = STARTED.get() {
        eprintln!("vgpu: {:>6} ms: {}", started.elapsed().as_millis(), what());
    }
}

/// Whether somebody wants to know.
pub(crate) fn is_enabled() -> bool {
    STARTED.get().is_some()
}
