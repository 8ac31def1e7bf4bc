//! The boundary: what C hands over becomes a safe type here, and this is the only module with `unsafe`.
//!
//! A pointer that is NULL or misaligned, and a handle that is none or was closed, is an error value, never a
//! dereference. What cannot be checked is what the headers ask of every caller: a pointer that is not NULL points to as
//! many objects as the function's declaration says, readable or writable, and nobody else writes them during the call.
#![allow(unsafe_code, reason = "pointers from C")]

pub(crate) mod cells;
mod export;
mod handle;
mod pointers;
mod scratch;

// What a handle is: a token of a table, or where there is no heap for one an address with a mark.
#[cfg(feature = "std")]
pub(crate) mod descriptor;
#[cfg(not(feature = "std"))]
mod marks;
#[cfg(not(feature = "std"))]
use marks as imp;
#[cfg(feature = "std")]
mod memory;
#[cfg(feature = "std")]
mod own;
#[cfg(feature = "std")]
mod pair;
#[cfg(feature = "std")]
mod sync;
#[cfg(feature = "std")]
mod table;
#[cfg(feature = "std")]
pub(crate) mod threads;
#[cfg(feature = "std")]
mod tokens;
#[cfg(feature = "std")]
pub(crate) use export::caught;
pub(crate) use export::{export, guarded};
pub(crate) use handle::{Handle, Object};
pub(crate) use imp::{Thread, with_thread};
#[cfg(feature = "std")]
pub(crate) use memory::{boxed, list};
#[cfg(feature = "std")]
pub(crate) use pair::Known;
pub(crate) use pointers::{Context, In, Out};
pub(crate) use scratch::Scratch;
#[cfg(feature = "std")]
pub(crate) use threads::this as this_thread;
#[cfg(feature = "std")]
use tokens as imp;

/// Alignment of handle storage: `VGPUX_STORAGE_ALIGN`.
pub(crate) const STORAGE_ALIGN: usize = 16;

#[cfg(test)]
pub(crate) mod tests;
