//! Where address spaces come from: a source of roots.
//!
//! The scan takes any [`ProcessSource`] and does not know which it got. [`roots`] has the ones that need no operating
//! system: a bounded pass over physical memory that finds the roots sharing one kernel half. [`nt`] reads the list of a
//! Windows kernel, and so can name its processes. [`guest`] takes whichever there is, and [`linux`] says what
//! entries without P mean in the processes of Linux.

mod depth;
mod election;
mod groups;
pub mod guest;
mod kernel_half;
pub mod linux;
pub mod nt;
mod pages;
pub mod roots;
mod sieve;
mod top_table;

use core::fmt;

use crate::addr::{Cr3, Gva};
use crate::budget::Budget;
use crate::paging::{AddressSpace, Hardware, NotPresentResolver};
use crate::phys::{PhysError, PhysRead};

/// A process as far as its source could tell; what it could not prove is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process<R = Hardware> {
    /// Its address space.
    pub space: AddressSpace<R>,
    /// The second root that user mode runs on, where the kernel keeps one (page-table isolation). It maps the same user
    /// half.
    pub user_root: Option<Cr3>,
    /// Its number.
    pub pid: Option<u32>,
    /// Its parent's number.
    pub ppid: Option<u32>,
    /// Its image name.
    pub name: Option<ProcessName>,
    /// The kernel's object for it.
    pub eprocess: Option<Gva>,
    /// Its process environment block, in its own address space.
    pub peb: Option<Gva>,
}

impl<R> Process<R> {
    /// A process of which only the address space is known.
    #[must_use]
    pub const fn unnamed(space: AddressSpace<R>) -> Self {
        Self { space, user_root: None, pid: None, ppid: None, name: None, eprocess: None, peb: None }
    }
}

impl<R> Process<R> {
    /// The same process, with another meaning of absent entries.
    #[must_use]
    pub fn map_resolver<Q>(self, meaning: impl FnOnce(R) -> Q) -> Process<Q> {
        let Self { space, user_root, pid, ppid, name, eprocess, peb } = self;
        let AddressSpace { root, mode, phys_bits, resolver } = space;
        let space = AddressSpace { root, mode, phys_bits, resolver: meaning(resolver) };
        Process { space, user_root, pid, ppid, name, eprocess, peb }
    }
}

impl<R: Default> Default for Process<R> {
    /// A place holder: the space at root 0.
    fn default() -> Self {
        Self::unnamed(AddressSpace::new(Cr3::new(0)).with_resolver(R::default()))
    }
}

/// The name that a kernel keeps for a process: at most 15 bytes, of unknown encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ProcessName {
    bytes: [u8; 15],
    len: u8,
}

impl ProcessName {
    /// Takes the bytes up to the first zero, at most 15.
    #[must_use]
    pub fn from_field(field: &[u8]) -> Self {
        let mut name = Self::default();
        for (to, from) in name.bytes.iter_mut().zip(field.iter().take_while(|byte| **byte != 0)) {
            *to = *from;
            name.len = name.len.wrapping_add(1);
        }
        name
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl fmt::Display for ProcessName {
    /// Printable ASCII as it is, everything else escaped: a guest chooses these bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

impl fmt::Debug for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// What one step of a resumable operation gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a step may have found something, and `Pending` is not the end"]
pub enum Step<T> {
    /// A result; there may be more.
    Found(T),
    /// The budget is spent: call again with a new one.
    Pending,
    /// There is nothing more.
    Done,
}

/// A source of address spaces.
pub trait ProcessSource {
    /// What absent entries mean in the spaces of this source.
    type Resolver: NotPresentResolver;

    /// The next process, in an order that does not depend on time. Each is given once; how many there can be is bounded
    /// by the source, and stated by it.
    ///
    /// # Errors
    /// [`PhysError`] where the source itself cannot go on; what concerns a single process is skipped and counted
    /// instead.
    fn next_process<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
    ) -> Result<Step<Process<Self::Resolver>>, PhysError>;

    /// How many sets of address spaces, each perhaps a guest's, there was no room for. A scan reports it.
    fn left_out(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn names_are_escaped_and_end_at_zero() {
        assert_eq!(ProcessName::from_field(b"System\0garbage").to_string(), "System");
        assert_eq!(ProcessName::from_field(b"a\x1b[31m\xff").to_string(), "a\\x1b[31m\\xff");
        assert_eq!(ProcessName::from_field(&[b'x'; 40]).as_bytes().len(), 15);
    }
}
