//! Where the fields lie, told from the objects themselves. No table of versions is asked.
//!
//! Each field has a rule that its content obeys in every process, and that nothing else in the object obeys. An offset that
//! breaks the rule in one process is out; an offset counts as proven when it alone is left and enough processes spoke for it.

use heapless::Vec;

use super::eprocess::Object;
use super::error::NtError;
use super::layout::{Field, FieldName, Layout, Offsets, Possible};
use super::links::Nodes;
use super::memory::{pointer, word};
use super::paging::{KernelPaging, NtPaging};
use super::pe::KernelImage;
use super::self_map::{names_itself, self_entry};
use super::vad::{DescriptorShape, Descriptors};
use crate::addr::{Cr3, Gpa, Gva, PAGE_BYTES};
use crate::paging::{PageWalker, Pte};
use crate::phys::PhysRead;
use crate::process::roots::shares_kernel_half;

/// Processes that are looked at.
const SAMPLE: u32 = 64;
/// Processes that have to speak for a field.
const WITNESSES: u16 = 3;
/// Of so many processes one may break a rule that a process can break by itself.
const MOST_OBEY: u32 = 8;
/// `UniqueProcessId` of the System process.
const SYSTEM_PID: u64 = 4;
/// `"System"`, filled up with zeros.
const SYSTEM_NAME: &[u8; 16] = b"System\0\0\0\0\0\0\0\0\0\0";
/// `STATUS_PENDING`, the exit status of a process that has not ended.
const STILL_ACTIVE: u32 = 0x103;
/// `KPROCESS` starts with what names its tables: known builds have `DirectoryTableBase` at 0x28.
const TABLES_END: u16 = 0x100;
/// What `InheritedFromUniqueProcessId` lies behind `SectionBaseAddress`, on all builds of which the structure is public.
const PARENT_AFTER_SECTION: u16 = 0x20;
/// Bytes from `ExitStatus` to `ExitTime` on builds from 8 on; before that it follows `CreateTime`.
const EXIT_TIME_AFTER_STATUS: [u16; 3] = [0x64, 0x6c, 0x84];
/// Bytes from `ExitStatus` to the end of what is looked for: `ExitTime` of Windows 8 is the furthest, at 0x84.
const AFTER_EXIT_STATUS: u64 = 0x90;
/// `PEB.ImageBaseAddress`.
const IMAGE_BASE_IN_PEB: u64 = 0x10;
/// Times from 2000 to 2057, in units of 100 ns since 1601. Later ones cannot be told from the end of a name, whose last byte is
/// the priority class, mostly 2.
const DATES: core::ops::Range<u64> = 0x01bf_53eb_256d_4000..1 << 57;

/// The kernel that objects are read through.
pub(super) struct Kernel<'m, M> {
    pub(super) walker: PageWalker<&'m M, KernelPaging>,
    pub(super) image: KernelImage,
    pub(super) may_swizzle: bool,
}

/// A layout, and the root that the System process names.
pub(super) struct Inferred {
    pub(super) layout: Layout,
    pub(super) root: Cr3,
}

/// Tells the layout from the System process at `system` and its neighbours.
///
/// # Bound
/// Four passes over 64 objects of 3072 bytes; in each at most 384 words are followed, into two pages or down two trees of 64
/// nodes: 2^26 loads if every word leads everywhere, some ten thousand in a real guest.
pub(super) fn infer<M: PhysRead>(kernel: &Kernel<'_, M>, system: Gva) -> Result<Inferred, NtError> {
    let links = Field { offset: 0, witnesses: 0 };
    let mut sample = Sample { kernel, links, system: Object::BLANK, extent: u64::MAX };
    sample.system.fill(&kernel.walker, system).map_err(|error| NtError::System { at: system, error })?;
    if !sample.system.is_process() {
        return Err(NtError::NotAProcess { at: system });
    }
    sample.links = self::links(kernel, &sample.system)?;
    sample.cut(sample.nearest());
    let table = sample.tables().ok_or(NtError::Unproven { field: FieldName::DirectoryTableBase })?;
    let root = Cr3::new(sample.system.word(table.offset).unwrap_or_default());
    let exit_status = sample.statuses();
    if let Some(field) = exit_status {
        sample.end_after(field.offset);
    }
    // Where the end of the object is not known, dates and nodes that lie behind it could be taken for its fields.
    let ends = exit_status.is_some();
    let create_time = if ends { sample.created() } else { None };
    let (peb, section_base) = sample.environment(table).unzip();
    let layout = Layout {
        table,
        pid: Field { offset: sample.links.offset.wrapping_sub(8), witnesses: sample.links.witnesses },
        links: sample.links,
        name: sample.names(),
        user_table: sample.user_tables(table),
        create_time,
        exit_time: create_time.zip(exit_status).and_then(|(created, status)| sample.ended(created, status)),
        exit_status,
        peb,
        section_base,
        ppid: section_base.and_then(|section_base| sample.parents(section_base)),
        descriptors: peb.zip(section_base).filter(|_| ends).and_then(|(peb, section)| sample.descriptors(peb, section)),
    };
    Ok(Inferred { layout, root })
}

/// The links: after the number 4, to an object that is a process with a number of its own, and back.
#[inline(never)]
fn links<M: PhysRead>(kernel: &Kernel<'_, M>, system: &Object) -> Result<Field, NtError> {
    let mut found = Offsets::NONE;
    for (pid_at, value) in system.words() {
        let links_at = pid_at.wrapping_add(8);
        if value == SYSTEM_PID && leads_to_a_process(kernel, system, links_at) {
            found.insert(links_at);
        }
    }
    let offset = found.only().ok_or(NtError::Unproven { field: FieldName::ActiveProcessLinks })?;
    let mut witnesses = 0_u16;
    let mut nodes = Nodes::new(system.at.wrapping_add(offset.into()), SAMPLE);
    let mut object = Object::BLANK;
    while let Some(node) = nodes.next(&kernel.walker) {
        let read = object.fill(&kernel.walker, Gva::new(node.get().wrapping_sub(offset.into())));
        witnesses = witnesses.saturating_add(u16::from(read.is_ok() && object.is_process()));
    }
    Ok(Field { offset, witnesses })
}

#[inline(never)]
fn leads_to_a_process<M: PhysRead>(kernel: &Kernel<'_, M>, system: &Object, links_at: u16) -> bool {
    let node = system.at.wrapping_add(links_at.into());
    let mode = kernel.walker.space().mode;
    let (Some(next), Some(previous)) = (
        system.word(links_at).and_then(|value| pointer(mode, value)),
        links_at.checked_add(8).and_then(|at| system.word(at)).and_then(|value| pointer(mode, value)),
    ) else {
        return false;
    };
    if next == node
        || word(&kernel.walker, next.wrapping_add(8)) != Ok(node.get())
        || word(&kernel.walker, previous) != Ok(node.get())
    {
        return false;
    }
    let mut object = Object::BLANK;
    object.fill(&kernel.walker, Gva::new(next.get().wrapping_sub(links_at.into()))).is_ok()
        && object.is_process()
        && object.word(links_at.wrapping_sub(8)).is_some_and(|pid| is_pid(pid) && pid != SYSTEM_PID)
}

/// Whether a number can be that of a process: a multiple of 4 that the handle table can hold.
pub(super) const fn is_pid(value: u64) -> bool {
    value != 0 && value.is_multiple_of(4) && value < 1 << 32
}

/// Whether a time is a date.
fn is_date(value: u64) -> bool {
    DATES.contains(&value)
}

/// The System process and its neighbours.
struct Sample<'k, 'm, M> {
    kernel: &'k Kernel<'m, M>,
    system: Object,
    links: Field,
    /// Bytes of an object at most: behind them another process's object can begin.
    extent: u64,
}

// The rules are kept apart: inlined into each other, each would bring its copies of objects to the stack of all.
impl<M: PhysRead> Sample<'_, '_, M> {
    /// Looks at no more than `len` bytes of an object from now on.
    fn cut(&mut self, len: u64) {
        self.extent = self.extent.min(len);
        self.system.cut(self.extent);
    }

    /// Nothing that is looked for lies much further than `ExitStatus` on any build of which the structure is public.
    fn end_after(&mut self, exit_status: u16) {
        self.cut(u64::from(exit_status).wrapping_add(AFTER_EXIT_STATUS));
    }

    /// Calls `each` with every other process of the sample.
    fn others(&self, mut each: impl FnMut(&Object)) {
        let offset = u64::from(self.links.offset);
        let start = self.system.at.wrapping_add(offset);
        let mut nodes = Nodes::new(start, SAMPLE);
        let mut object = Object::BLANK;
        while let Some(node) = nodes.next(&self.kernel.walker) {
            // The head of the list is a variable of the kernel, not part of a process.
            if node == start || self.kernel.image.contains(node) {
                continue;
            }
            let at = Gva::new(node.get().wrapping_sub(offset));
            if object.fill(&self.kernel.walker, at).is_ok() && object.is_process() {
                object.cut(self.extent);
                each(&object);
            }
        }
    }

    /// The shortest way from one object of the sample to another.
    #[inline(never)]
    fn nearest(&self) -> u64 {
        let mut places: Vec<u64, { SAMPLE as usize }> = Vec::new();
        // The sample has no more than fit.
        let _ = places.push(self.system.at.get());
        self.others(|object| {
            let _ = places.push(object.at.get());
        });
        // Sorting would bring more code than it saves for so few.
        places.iter().fold(u64::MAX, |least, one| {
            let behind = places.iter().filter(|other| *other > one).map(|other| other.wrapping_sub(*one));
            behind.fold(least, u64::min)
        })
    }

    fn mem(&self) -> &M {
        self.kernel.walker.mem()
    }

    /// The table that `value` names, where it shares the kernel half that everything is read through.
    fn table(&self, value: u64) -> Option<Gpa> {
        let space = self.kernel.walker.space();
        let table = Cr3::new(value).table();
        // Bits between the address and 63 are no part of a `CR3`.
        let plain = value >> 52 & 0x7ff == 0 && table.get() != 0 && self.mem().holds_data(table);
        (plain && shares_kernel_half(*self.kernel.walker.mem(), space.root.table(), table, space.phys_bits))
            .then_some(table)
    }

    #[inline(never)]
    fn tables(&self) -> Option<Field> {
        let mut possible = Offsets::NONE;
        for (offset, value) in self.system.words().take_while(|(offset, _)| *offset < TABLES_END) {
            if self.table(value).is_some() {
                possible.insert(offset);
            }
        }
        let mut tables = Possible::UNKNOWN;
        tables.keep(possible);
        self.others(|object| {
            let mut passed = Offsets::NONE;
            for offset in tables.offsets.iter() {
                let own = object.word(offset).and_then(|value| self.table(value));
                let of_system = self.system.word(offset).map(|value| Cr3::new(value).table());
                if own.is_some() && own != of_system {
                    passed.insert(offset);
                }
            }
            // Some software overwrites the field of the processes that it guards.
            if passed.count() > 0 {
                tables.keep(passed);
            }
        });
        tables.proven(WITNESSES)
    }

    #[inline(never)]
    fn names(&self) -> Option<Field> {
        let mut candidates: Vec<(u16, u16, u16), 8> = Vec::new();
        for (offset, _) in self.system.words() {
            if self.system.name(offset).is_some_and(|name| name == *SYSTEM_NAME) {
                candidates.push((offset, 1, 1)).ok()?;
            }
        }
        self.others(|object| {
            for (offset, good, all) in &mut candidates {
                let Some(name) = object.name(*offset) else { continue };
                // The same in every process would be no name.
                if name == *SYSTEM_NAME {
                    continue;
                }
                let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
                let reads = !text.is_empty() && text.iter().all(|byte| (0x20..0x7f).contains(byte));
                *good = good.saturating_add(u16::from(reads));
                *all = all.saturating_add(1);
            }
        });
        // Anybody may name a program in letters that do not fit.
        let readable = |(_, good, all): &&(u16, u16, u16)| {
            *good > WITNESSES && u32::from(*good).saturating_mul(4) >= u32::from(*all).saturating_mul(3)
        };
        let mut readable = candidates.iter().filter(readable);
        match (readable.next(), readable.next()) {
            (Some((offset, good, _)), None) => Some(Field { offset: *offset, witnesses: *good }),
            _ => None,
        }
    }

    #[inline(never)]
    fn created(&self) -> Option<Field> {
        let dates = |object: &Object| {
            let mut dates = Offsets::NONE;
            object.words().filter(|(_, value)| is_date(*value)).for_each(|(offset, _)| dates.insert(offset));
            dates
        };
        let mut possible = Possible::UNKNOWN;
        possible.keep(dates(&self.system));
        let mut differing = Offsets::NONE;
        self.others(|object| {
            possible.keep(dates(object));
            for offset in possible.offsets.iter().filter(|offset| object.word(*offset) != self.system.word(*offset)) {
                differing.insert(offset);
            }
        });
        // The date of the system's start may be in every process; that of its own is not.
        possible.offsets = possible.offsets.and(differing);
        possible.proven(WITNESSES)
    }

    /// `ExitStatus`. What has ended is known from the header, whose place is the same everywhere.
    #[inline(never)]
    fn statuses(&self) -> Option<Field> {
        let mut statuses = [0, 4].map(|half| {
            let mut possible = Possible::UNKNOWN;
            possible.keep(active(&self.system, half));
            possible
        });
        let (mut all, mut odd_ones) = (1_u32, 0_u32);
        self.others(|object| {
            all = all.wrapping_add(1);
            if object.is_signaled() {
                for (possible, half) in statuses.iter_mut().zip([0, 4]) {
                    possible.rule_out(|offset| object.half(offset.wrapping_add(half)) != Some(STILL_ACTIVE));
                }
                return;
            }
            let found = [0, 4].map(|half| active(object, half));
            let speaks = statuses.iter().zip(found).any(|(possible, found)| possible.offsets.and(found).count() > 0);
            if !speaks {
                // On its way out: it has a status, and has not ended yet.
                odd_ones = odd_ones.wrapping_add(1);
                return;
            }
            for (possible, found) in statuses.iter_mut().zip(found) {
                possible.keep(found);
            }
        });
        if odd_ones.saturating_mul(MOST_OBEY) > all {
            return None;
        }
        let [even, odd] = statuses;
        match (even.offsets.count(), odd.offsets.count()) {
            (1, 0) => even.proven(WITNESSES),
            (0, 1) => odd.proven(WITNESSES).map(|field| Field { offset: field.offset.wrapping_add(4), ..field }),
            _ => None,
        }
    }

    /// `ExitTime`. One process that ended is enough where the field lies as on a known build, in relation to others.
    #[inline(never)]
    fn ended(&self, create_time: Field, exit_status: Field) -> Option<Field> {
        let mut times = Possible::new(zeros(&self.system));
        self.others(|object| {
            if !object.is_signaled() && object.half(exit_status.offset) != Some(STILL_ACTIVE) {
                // On its way out: either is right.
                return;
            }
            if object.is_signaled() {
                let born = object.word(create_time.offset).unwrap_or(u64::MAX);
                let mut dates = Offsets::NONE;
                object
                    .words()
                    .filter(|(_, value)| is_date(*value) && *value >= born)
                    .for_each(|(offset, _)| dates.insert(offset));
                times.keep(dates);
            } else {
                times.rule_out(|offset| object.word(offset) == Some(0));
            }
        });
        let field = times.proven(1)?;
        let known = field.offset == create_time.offset.wrapping_add(8)
            || EXIT_TIME_AFTER_STATUS.contains(&field.offset.wrapping_sub(exit_status.offset));
        (known || field.witnesses >= WITNESSES).then_some(field)
    }

    /// `Peb` and `SectionBaseAddress`: the environment block names the image that the process object names too.
    #[inline(never)]
    fn environment(&self, table: Field) -> Option<(Field, Field)> {
        let mut pebs = Possible::new(zeros(&self.system));
        let mut sections = pebs;
        self.others(|object| {
            let Some(walker) = self.user(object, table) else { return };
            let user_end = walker.space().mode.user_end().get();
            let (mut peb_at, mut section_at) = (Offsets::NONE, Offsets::NONE);
            for (offset, value) in object.words() {
                if !value.is_multiple_of(PAGE_BYTES) || !(0x1_0000..user_end).contains(&value) {
                    continue;
                }
                let Ok(base) = word(&walker, Gva::new(value.wrapping_add(IMAGE_BASE_IN_PEB))) else { continue };
                if !base.is_multiple_of(0x1_0000) || !(0x1_0000..user_end).contains(&base) {
                    continue;
                }
                if !word(&walker, Gva::new(base)).is_ok_and(|start| start & 0xffff == 0x5a4d) {
                    continue;
                }
                for (other, _) in object.words().filter(|(_, value)| *value == base) {
                    peb_at.insert(offset);
                    section_at.insert(other);
                }
            }
            if peb_at.count() > 0 {
                pebs.keep(peb_at);
                sections.keep(section_at);
            }
        });
        pebs.proven(WITNESSES).zip(sections.proven(WITNESSES))
    }

    /// A walker of a process's user half; `None` where its table field holds none.
    fn user(&self, object: &Object, table: Field) -> Option<PageWalker<&M, NtPaging>> {
        let own = self.table(object.word(table.offset)?)?;
        let space = self.kernel.walker.space();
        let paging = NtPaging::new(space, self.kernel.may_swizzle);
        Some(PageWalker::new(*self.kernel.walker.mem(), space.at_root(Cr3::new(own.get())).with_resolver(paging)))
    }

    #[inline(never)]
    fn parents(&self, section_base: Field) -> Option<Field> {
        let offset = section_base.offset.checked_add(PARENT_AFTER_SECTION)?;
        let pid_at = self.links.offset.checked_sub(8)?;
        let mut pids: Vec<u64, { SAMPLE as usize }> = Vec::new();
        pids.push(SYSTEM_PID).ok()?;
        self.others(|object| {
            // The sample has no more than fit.
            let _ = object.word(pid_at).map(|pid| pids.push(pid));
        });
        let sound = self.system.word(offset) == Some(0);
        let (mut listed, mut all, mut odd_ones) = (0_u16, 1_u32, 0_u32);
        self.others(|object| {
            all = all.wrapping_add(1);
            match object.word(offset) {
                Some(parent) if is_pid(parent) && object.word(pid_at) != Some(parent) => {
                    listed = listed.saturating_add(u16::from(pids.contains(&parent)));
                }
                _ => odd_ones = odd_ones.wrapping_add(1),
            }
        });
        let sound = sound && odd_ones.saturating_mul(MOST_OBEY) <= all;
        (sound && listed >= WITNESSES).then_some(Field { offset, witnesses: listed })
    }

    #[inline(never)]
    fn descriptors(&self, peb: Field, section_base: Field) -> Option<(Field, DescriptorShape)> {
        let mut possible = DescriptorShape::ALL.map(|_| Possible::UNKNOWN);
        let mut spoken = false;
        self.others(|object| {
            let both = object.word(peb.offset).zip(object.word(section_base.offset));
            let Some((environment, image)) = both.filter(|(peb, section)| *peb != 0 && *section != 0) else { return };
            let found = DescriptorShape::ALL.map(|shape| {
                let mut found = Offsets::NONE;
                for (offset, value) in object.words() {
                    let field = object.at.wrapping_add(offset.into());
                    let could_be = match shape {
                        // Each process has a tree of its own.
                        DescriptorShape::Windows81 => {
                            self.system.word(offset) != Some(value)
                                && pointer(self.kernel.walker.space().mode, value).is_some()
                        }
                        DescriptorShape::Windows7 | DescriptorShape::Windows8 => value & !7 == field.get(),
                    };
                    if could_be && self.covers(Descriptors { field, shape }, environment, image) {
                        found.insert(offset);
                    }
                }
                found
            });
            if found.iter().any(|found| found.count() > 0) {
                spoken = true;
                for (possible, found) in possible.iter_mut().zip(found) {
                    possible.keep(found);
                }
            }
        });
        let all = possible.iter().fold(0, |sum: u32, one| sum.wrapping_add(one.offsets.count()));
        if !spoken || all != 1 {
            return None;
        }
        possible.iter().zip(DescriptorShape::ALL).find_map(|(one, shape)| Some((one.proven(WITNESSES)?, shape)))
    }

    /// Whether a tree has the two addresses, in different nodes.
    fn covers(&self, tree: Descriptors, environment: u64, image: u64) -> bool {
        let find = |address| tree.find(&self.kernel.walker, Gva::new(address)).ok().flatten();
        match (find(environment), find(image)) {
            (Some(one), Some(other)) => one.node != other.node,
            _ => false,
        }
    }

    /// `UserDirectoryTableBase`: 0 or 1, or a table that refers to itself like all of them and has the process's user half.
    #[inline(never)]
    fn user_tables(&self, table: Field) -> Option<Field> {
        let own_root = self.kernel.walker.space().root.table();
        let index = self_entry(*self.kernel.walker.mem(), own_root)?;
        let mut inside = Offsets::NONE;
        (0..self.links.offset).step_by(8).filter(|offset| *offset != table.offset).for_each(|at| inside.insert(at));
        let mut possible = Possible::new(inside);
        let own = |object: &Object| object.word(table.offset).and_then(|value| self.table(value));
        let judge = |object: &Object, own: Option<Gpa>, offset: u16| -> UserTable {
            let Some(value) = object.word(offset) else { return UserTable::Neither };
            if value < 2 {
                return UserTable::None;
            }
            let user = Cr3::new(value).table();
            if value >> 52 & 0x7ff != 0 || user.get() == 0 || own == Some(user) || !self.mem().holds_data(user) {
                return UserTable::Neither;
            }
            if !names_itself(*self.kernel.walker.mem(), user, index) {
                return UserTable::Neither;
            }
            match own {
                Some(own) if same_user_half(self.mem(), own, user) => UserTable::Shown,
                // The System process has no user half to show, and a process may have its own table hidden.
                _ => UserTable::Possible,
            }
        };
        let of_system = own(&self.system);
        possible.rule_out(|offset| judge(&self.system, of_system, offset) != UserTable::Neither);
        self.others(|object| {
            let own = own(object);
            let mut shown = Offsets::NONE;
            possible.rule_out(|offset| {
                let judged = judge(object, own, offset);
                if judged == UserTable::Shown {
                    shown.insert(offset);
                }
                judged != UserTable::Neither
            });
            if shown.count() > 0 {
                possible.keep(shown);
            }
        });
        possible.proven(WITNESSES)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum UserTable {
    /// No value of the field.
    Neither,
    /// The value of a process without one.
    None,
    /// A table that nothing speaks against.
    Possible,
    /// A table with the user half of the process.
    Shown,
}

fn zeros(object: &Object) -> Offsets {
    let mut zeros = Offsets::NONE;
    object.words().filter(|(_, value)| *value == 0).for_each(|(offset, _)| zeros.insert(offset));
    zeros
}

/// The aligned words of which the given half (0 or 4) is [`STILL_ACTIVE`].
fn active(object: &Object, half: u16) -> Offsets {
    let mut active = Offsets::NONE;
    for (offset, _) in object.words() {
        if object.half(offset.wrapping_add(half)) == Some(STILL_ACTIVE) {
            active.insert(offset);
        }
    }
    active
}

/// Whether two tables have the same user half, and one at all.
fn same_user_half<M: PhysRead>(mem: &M, own: Gpa, user: Gpa) -> bool {
    const BLOCK: usize = 64;
    let mut present = false;
    let (mut ours, mut theirs) = ([0_u64; BLOCK], [0_u64; BLOCK]);
    for block in 0..4_u64 {
        let at = block.wrapping_mul(512);
        if mem.load_words(own.wrapping_add(at), &mut ours).is_err()
            || mem.load_words(user.wrapping_add(at), &mut theirs).is_err()
        {
            return false;
        }
        for (our, their) in ours.iter().zip(&theirs) {
            let both = (our | their) & Pte::PRESENT != 0;
            present |= both;
            if both && (our ^ their) & (Pte::ADDRESS | Pte::PRESENT) != 0 {
                return false;
            }
        }
    }
    present
}
