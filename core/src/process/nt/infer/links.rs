//! `UniqueProcessId` and `ActiveProcessLinks`: where the list is. Everything else is inferred from the processes on it.

use super::super::eprocess::Object;
use super::super::error::NtError;
use super::super::layout::{FieldName, Offsets};
use super::super::memory::{pointer, word};
use super::{SAMPLE, SYSTEM_PID};
use crate::addr::Gva;
use crate::paging::{NotPresentResolver, PageWalker};
use crate::phys::PhysRead;

pub(super) const NUMBER: &str = "4 in the System process, before links that lead to process objects and back";
pub(super) const RULE: &str = "leads to process objects and back, after the System process's number 4";

/// Whether a number can be that of a process: a multiple of 4 that the handle table can hold.
pub(in super::super) const fn is_pid(value: u64) -> bool {
    value != 0 && value.is_multiple_of(4) && value < 1 << 32
}

/// The links: after the number 4, to an object that is a process with a number of its own, and back.
#[inline(never)]
pub(super) fn find<M: PhysRead, R: NotPresentResolver>(
    walker: &PageWalker<M, R>,
    system: &Object,
) -> Result<u16, NtError> {
    let mut found = Offsets::NONE;
    for (pid_at, value) in system.words() {
        let links_at = pid_at.wrapping_add(8);
        if value == SYSTEM_PID && leads_to_a_process(walker, system, links_at) {
            found.insert(links_at);
        }
    }
    found.only().ok_or(NtError::Unproven { field: FieldName::ActiveProcessLinks })
}

#[inline(never)]
fn leads_to_a_process<M: PhysRead, R: NotPresentResolver>(
    walker: &PageWalker<M, R>,
    system: &Object,
    links_at: u16,
) -> bool {
    let node = system.at.wrapping_add(links_at.into());
    let mode = walker.space().mode;
    let (Some(next), Some(previous)) = (
        system.word(links_at).and_then(|value| pointer(mode, value)),
        links_at.checked_add(8).and_then(|at| system.word(at)).and_then(|value| pointer(mode, value)),
    ) else {
        return false;
    };
    if next == node || word(walker, next.wrapping_add(8)) != Ok(node.get()) || word(walker, previous) != Ok(node.get())
    {
        return false;
    }
    let mut object = Object::BLANK;
    object.fill(walker, Gva::new(next.get().wrapping_sub(links_at.into()))).is_ok()
        && object.is_process()
        && object.word(links_at.wrapping_sub(8)).is_some_and(|pid| is_pid(pid) && pid != SYSTEM_PID)
}

/// How many processes the links lead to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Witnesses(u16);

impl Witnesses {
    /// The System process is one.
    pub(super) const fn new() -> Self {
        Self(1)
    }

    pub(super) const fn see(&mut self) {
        self.0 = self.0.saturating_add(1);
    }

    pub(super) const fn count(self) -> u16 {
        self.0
    }
}

/// The shortest way from one object of the sample to another: no object is longer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nearest {
    places: [u64; SAMPLE as usize],
    count: usize,
}

impl Nearest {
    pub(super) fn new(system: Gva) -> Self {
        let mut nearest = Self { places: [0; SAMPLE as usize], count: 0 };
        nearest.add(system);
        nearest
    }

    fn add(&mut self, at: Gva) {
        // The sample has no more than fit.
        if let Some(place) = self.places.get_mut(self.count) {
            *place = at.get();
            self.count = self.count.wrapping_add(1);
        }
    }

    pub(super) fn see(&mut self, object: &Object) {
        self.add(object.at);
    }

    pub(super) fn least(&self) -> u64 {
        let places = self.places.get(..self.count).unwrap_or_default();
        // Sorting would bring more code than it saves for so few.
        places.iter().fold(u64::MAX, |least, one| {
            let behind = places.iter().filter(|other| *other > one).map(|other| other.wrapping_sub(*one));
            behind.fold(least, u64::min)
        })
    }
}
