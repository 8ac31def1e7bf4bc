//! Exported functions: what they return when they fail, and that a panic never crosses.

use core::ffi::c_int;

use super::handle::Handle;
use crate::failure::Failure;

/// What a function returns when it fails.
pub(crate) trait Failed {
    fn failed(code: c_int) -> Self;
}

impl Failed for c_int {
    fn failed(code: c_int) -> Self {
        code
    }
}

impl Failed for u32 {
    fn failed(_: c_int) -> Self {
        0
    }
}

impl Failed for usize {
    fn failed(_: c_int) -> Self {
        0
    }
}

impl Failed for () {
    fn failed(_: c_int) {}
}

impl Failed for *const core::ffi::c_char {
    fn failed(_: c_int) -> Self {
        core::ptr::null()
    }
}

impl<T> Failed for Handle<T> {
    fn failed(_: c_int) -> Self {
        Self::NULL
    }
}

/// Runs an exported function's body.
///
/// What unwinds out of it is an exception of a callback, which goes on to whoever called (holds are given up on the
/// way), or a panic that [`caught`] did not meet: that one ends the program here, before it reaches C.
#[inline(always)]
pub(crate) fn guarded<R: Failed>(body: impl FnOnce() -> Result<R, Failure>) -> R {
    let end = EndIfPanicking;
    let result = body();
    core::mem::forget(end);
    result.unwrap_or_else(|failure| R::failed(failure.code))
}

struct EndIfPanicking;

impl Drop for EndIfPanicking {
    fn drop(&mut self) {
        #[cfg(feature = "std")]
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Runs `work`, which must not call back into C: a panic becomes a failure.
#[cfg(feature = "std")]
pub(crate) fn caught<R>(work: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    // What a panic leaves behind is plain values behind holds that are given up while unwinding.
    std::panic::catch_unwind(core::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let text = format_args!("a defect of vgpu-perception: the call was given up");
        Err(Failure::new(crate::failure::code::INTERNAL, text))
    })
}

/// Exports functions under their C names, each through [`guarded`].
macro_rules! export {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block)+) => {
        $(
            $(#[$doc])*
            #[allow(unsafe_code, reason = "the name is part of the library's own interface, and no other crate defines it")]
            #[cfg(feature = "std")]
            #[unsafe(no_mangle)]
            pub(crate) extern "C-unwind" fn $name($($arg: $type),*) $(-> $ret)? {
                $crate::ffi::guarded(move || $body)
            }

            $(#[$doc])*
            #[allow(unsafe_code, reason = "the same")]
            #[cfg(not(feature = "std"))]
            #[unsafe(no_mangle)]
            pub(crate) extern "C" fn $name($($arg: $type),*) $(-> $ret)? {
                $crate::ffi::guarded(move || $body)
            }
        )+
    };
}
pub(crate) use export;
