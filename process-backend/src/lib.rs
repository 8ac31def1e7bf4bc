//! Guest RAM that no file holds: read out of the VMM's process.
#![deny(unsafe_code)]
