//! The C library: the functions that `include/*.h` declare, over `vgpu-perception`.
//!
//! Raw pointers become safe types in [`ffi`] and nowhere else; what a function returns on a bad argument, and that a
//! panic never crosses, is decided there too.
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a test that goes wrong should panic"
    )
)]

mod choice;
mod failure;
mod ffi;
mod kernel;
mod memory;
mod ram;
mod ram_map;
mod reader;
mod region;
mod scan;
#[cfg(feature = "std")]
mod seats;
mod skip;

mod ext;
mod memmodel;
mod perception;
mod storage;
mod win32;

#[cfg(feature = "std")]
mod heap;

#[cfg(test)]
mod layout;

#[cfg(all(not(feature = "std"), not(test)))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No code of this library panics on purpose; there is nobody here to tell.
    loop {
        core::hint::spin_loop();
    }
}
