//! `KUSER_SHARED_DATA`: the page that Windows maps at one address in every address space, on every version.
//!
//! Its address, and where its fields lie, are public (the `wdm.h` and `ntddk.h` headers). It says that a kernel half is
//! that of Windows, how deep its tables are, and which version it is.

use super::memory::word;
use crate::addr::Gva;
use crate::paging::{NotPresentResolver, PageWalker};
use crate::phys::PhysRead;

/// Where the kernel half has the page.
pub(super) const SHARED_DATA: Gva = Gva::new(0xffff_f780_0000_0000);

/// `InterruptTime.LowPart` and `.High1Time`: time since the start in units of 100 ns, written at each tick of the
/// clock.
const INTERRUPT_TIME: u64 = 8;
/// `NtSystemRoot`: UTF-16.
const SYSTEM_ROOT: u64 = 0x30;
/// `NtBuildNumber` and `NtProductType`. The first only from Windows 10 on.
const BUILD: u64 = 0x260;
/// `ProductTypeIsValid` and what follows, then `NtMajorVersion`.
const MAJOR_IN_UPPER_HALF: u64 = 0x268;
/// `NtMinorVersion`.
const MINOR: u64 = 0x270;

/// Which Windows the guest says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Version {
    /// `NtMajorVersion`: 5 to 10.
    pub major: u32,
    /// `NtMinorVersion`.
    pub minor: u32,
    /// `NtBuildNumber`, from Windows 10 on.
    pub build: Option<u32>,
}

/// Reads the page under `walker`; `None` where it is not there or does not read like it.
///
/// # Bound
/// Four walks.
pub(super) fn version<M: PhysRead, R: NotPresentResolver>(walker: &PageWalker<M, R>) -> Option<Version> {
    let at = |offset| word(walker, SHARED_DATA.wrapping_add(offset)).ok();
    let [drive, colon, backslash, first] = split_u16(at(SYSTEM_ROOT)?);
    let letter = |unit: u16| u8::try_from(unit).is_ok_and(|byte| byte.is_ascii_alphabetic());
    if !letter(drive) || colon != u16::from(b':') || backslash != u16::from(b'\\') || !letter(first) {
        return None;
    }
    let major = high(at(MAJOR_IN_UPPER_HALF)?);
    let minor = low(at(MINOR)?);
    if !matches!((major, minor), (5, 2) | (6, 0..=3) | (10, 0)) {
        return None;
    }
    let build = low(at(BUILD)?);
    let build = (major >= 10 && (9841..100_000).contains(&build)).then_some(build);
    Some(Version { major, minor, build })
}

/// The time since the kernel's start, in units of 100 ns; `None` where it cannot be read.
///
/// # Bound
/// One walk.
pub(super) fn interrupt_time<M: PhysRead, R: NotPresentResolver>(walker: &PageWalker<M, R>) -> Option<u64> {
    word(walker, SHARED_DATA.wrapping_add(INTERRUPT_TIME)).ok()
}

const fn split_u16(word: u64) -> [u16; 4] {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]), u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h])]
}

#[expect(clippy::cast_possible_truncation, reason = "the half is meant")]
pub(super) const fn low(word: u64) -> u32 {
    word as u32
}

pub(super) const fn high(word: u64) -> u32 {
    low(word >> 32)
}

impl core::fmt::Display for Version {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if let Some(build) = self.build { write!(f, ".{build}") } else { Ok(()) }
    }
}
