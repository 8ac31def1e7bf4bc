//! Bits of page table entries, as tests name them. Values are raw, so that hostile ones can be made too.

/// P.
pub const P: u64 = 1;
/// R/W.
pub const W: u64 = 1 << 1;
/// U/S.
pub const U: u64 = 1 << 2;
/// A.
pub const A: u64 = 1 << 5;
/// D.
pub const D: u64 = 1 << 6;
/// PS in a PDE or PDPTE.
pub const PS: u64 = 1 << 7;
/// G.
pub const G: u64 = 1 << 8;
/// PAT of a large page.
pub const PAT_LARGE: u64 = 1 << 12;
/// XD.
pub const NX: u64 = 1 << 63;

/// A user's data page that was written.
pub const USER_RW: u64 = P | W | U | A | D | NX;
/// A user's page without write permission.
pub const USER_RO: u64 = P | U | A | NX;
/// A user's code.
pub const USER_RX: u64 = P | U | A;
/// The kernel's data.
pub const KERNEL_RW: u64 = P | W | A | D | G | NX;
/// The kernel's code.
pub const KERNEL_RX: u64 = P | A | D | G;
/// A table in the user half.
pub const USER_TABLE: u64 = P | W | U | A | D;
/// A table in the kernel half.
pub const KERNEL_TABLE: u64 = P | W | A | D;
