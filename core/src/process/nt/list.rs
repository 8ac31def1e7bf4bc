//! The processes that a Windows kernel lists.

use heapless::Vec;

use super::eprocess::Object;
use super::infer::is_pid;
use super::kernel::NtKernel;
use super::links::Nodes;
use super::memory::word;
use super::paging::{NtPaging, Owner};
use super::self_map::{names_itself, self_entry};
use crate::addr::{Cr3, Gpa, Gva};
use crate::budget::Budget;
use crate::paging::{Hardware, PageWalker};
use crate::phys::{PhysError, PhysRead};
use crate::process::kernel_half::shares_kernel_half;
use crate::process::roots::KernelHalf;
use crate::process::{Process, ProcessName, ProcessSource, Step};

/// Processes whose table field holds no table and whose tables are looked for in RAM.
const LOST: usize = 8;
/// Loads that one process costs, about.
const PIECE: u64 = 1 << 11;
/// Loads along one edge of the list, and for a field behind it.
const NODE: u64 = 6 * 6 + 6;
/// Loads to try a table for the processes that have none.
const TRY: u64 = 2 * LOST as u64 * 16;

/// Whether a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProcessState {
    /// It lives.
    Alive,
    /// It ended; something still refers to it.
    Exited,
}

/// How the root of a process was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RootBy {
    /// `DirectoryTableBase` names a table with this kernel's half.
    Field,
    /// `DirectoryTableBase` holds something else; `UserDirectoryTableBase` names the table that user mode runs on.
    UserField,
    /// Neither does: it is the one table of RAM with this kernel's half that maps the process's environment block, and
    /// no listed process names it.
    Search,
    /// Nothing told it: the process has no address space to read.
    Nothing,
}

/// A listed process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NtProcess {
    /// What is known of it. Where `root` is [`RootBy::Nothing`], its space is at root 0.
    pub process: Process<NtPaging>,
    /// Whether it lives.
    pub state: ProcessState,
    /// How its root was told.
    pub root: RootBy,
    /// What `DirectoryTableBase` holds.
    pub table_field: u64,
}

/// What a walk along the list met besides processes that live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListStats {
    /// Live processes with an address space.
    pub alive: u32,
    /// Processes that have ended.
    pub exited: u32,
    /// Live processes whose address space is unknown.
    pub lost: u32,
    /// Nodes that were no process object.
    pub strange: u32,
    /// The list did not lead around; it was walked from both ends.
    pub broken: bool,
}

#[derive(Clone, Copy, Debug)]
struct Lost {
    process: NtProcess,
    peb: Gva,
    section_base: u64,
    found: Option<Gpa>,
    ambiguous: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    List,
    /// Tables of processes whose field holds garbage.
    Tables(KernelHalf),
    /// Whether a listed process names what was found for a lost one.
    Lost {
        next: usize,
        nodes: Nodes,
    },
    End,
}

/// The processes of a [`NtKernel`], in the order of its list; each once. Where a list is broken it is walked from both
/// ends.
///
/// As a [`ProcessSource`] it gives the processes that live and have an address space; [`step`](Self::step) gives all.
///
/// # Bound
/// At most 2^16 nodes, about 2^12 loads each. A step overdraws its budget by no more than one node, or one table. Where
/// a live process's table field holds no table, one pass over RAM as [`KernelHalf`] makes, and for each of at most 8
/// such processes another walk along the list.
#[derive(Clone, Debug)]
pub struct ProcessList {
    kernel: NtKernel,
    nodes: Nodes,
    stage: Stage,
    lost: Vec<Lost, LOST>,
    self_entry: Option<Option<u64>>,
    stats: ListStats,
}

impl ProcessList {
    /// Nodes of a list that are followed.
    pub const NODES: u32 = 1 << 16;

    pub(super) const fn new(kernel: NtKernel) -> Self {
        let links = kernel.system.wrapping_add(kernel.layout.links.offset as u64);
        Self {
            kernel,
            nodes: Nodes::new(links, Self::NODES),
            stage: Stage::List,
            lost: Vec::new(),
            self_entry: None,
            stats: ListStats { alive: 0, exited: 0, lost: 0, strange: 0, broken: false },
        }
    }

    /// What was met so far.
    #[must_use]
    pub const fn stats(&self) -> ListStats {
        self.stats
    }

    /// The kernel whose list this is.
    #[must_use]
    pub const fn kernel(&self) -> &NtKernel {
        &self.kernel
    }

    /// The next process, whatever became of it.
    ///
    /// # Errors
    /// [`PhysError`] where the backend cannot say what is RAM; what concerns a single process is skipped and counted.
    pub fn step<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<Step<NtProcess>, PhysError> {
        loop {
            match &mut self.stage {
                Stage::End => return Ok(Step::Done),
                Stage::List => {
                    if !budget.spend(PIECE) {
                        return Ok(Step::Pending);
                    }
                    let walker = PageWalker::new(mem, self.kernel.kernel_space());
                    let Some(node) = self.nodes.next(&walker) else {
                        self.stats.broken = self.nodes.is_broken();
                        let space = self.kernel.kernel_space().with_resolver(Hardware);
                        self.stage =
                            if self.lost.is_empty() { Stage::End } else { Stage::Tables(KernelHalf::new(space)) };
                        continue;
                    };
                    if let Some(process) = self.at_node(mem, node) {
                        return Ok(Step::Found(process));
                    }
                }
                Stage::Tables(tables) => match tables.next_process(mem, budget)? {
                    Step::Pending => return Ok(Step::Pending),
                    Step::Found(root) => {
                        budget.spend(TRY);
                        self.try_table(mem, root.space.root);
                    }
                    Step::Done => self.stage = Stage::Lost { next: 0, nodes: self.links() },
                },
                Stage::Lost { next, nodes } => {
                    let (next, mut nodes) = (*next, *nodes);
                    let Some(lost) = self.lost.get(next).copied() else {
                        self.stage = Stage::End;
                        continue;
                    };
                    let mut found = lost.found.filter(|_| !lost.ambiguous);
                    if let Some(root) = found {
                        match self.is_named(mem, root, &mut nodes, budget) {
                            Some(named) => found = found.filter(|_| !named),
                            None => {
                                self.stage = Stage::Lost { next, nodes };
                                return Ok(Step::Pending);
                            }
                        }
                    }
                    self.stage = Stage::Lost { next: next.wrapping_add(1), nodes: self.links() };
                    let mut process = lost.process;
                    match found {
                        Some(root) => {
                            process.process.space = process.process.space.at_root(Cr3::new(root.get()));
                            process.root = RootBy::Search;
                            self.stats.alive = self.stats.alive.saturating_add(1);
                        }
                        None => self.stats.lost = self.stats.lost.saturating_add(1),
                    }
                    return Ok(Step::Found(process));
                }
            }
        }
    }

    /// The list, from its start.
    const fn links(&self) -> Nodes {
        Nodes::new(self.kernel.system.wrapping_add(self.kernel.layout.links.offset as u64), Self::NODES)
    }

    /// The process whose links are at `node`; `None` where there is none, or it is put off.
    fn at_node<M: PhysRead>(&mut self, mem: &M, node: Gva) -> Option<NtProcess> {
        let kernel = self.kernel;
        // The head of the list is a variable of the kernel.
        if kernel.image.contains(node) {
            return None;
        }
        let walker = PageWalker::new(mem, kernel.kernel_space());
        let at = Gva::new(node.get().wrapping_sub(kernel.layout.links.offset.into()));
        let object = Object::read(&walker, at).ok().filter(Object::is_process);
        let found = object.and_then(|object| Some((object, self.describe(mem, &object)?)));
        let Some((object, process)) = found else {
            self.stats.strange = self.stats.strange.saturating_add(1);
            return None;
        };
        // Freed while it was read: the memory is somebody else's now.
        let pid = word(&walker, at.wrapping_add(kernel.layout.pid.offset.into())).ok();
        let table = word(&walker, at.wrapping_add(kernel.layout.table.offset.into())).ok();
        if pid != object.word(kernel.layout.pid.offset) || table != object.word(kernel.layout.table.offset) {
            self.stats.strange = self.stats.strange.saturating_add(1);
            return None;
        }
        if process.state == ProcessState::Exited {
            self.stats.exited = self.stats.exited.saturating_add(1);
        } else if process.root != RootBy::Nothing {
            self.stats.alive = self.stats.alive.saturating_add(1);
        } else {
            let peb = process.process.peb;
            let section_base =
                kernel.layout.section_base.and_then(|field| object.word(field.offset)).filter(|base| *base != 0);
            if let (Some(peb), Some(section_base)) = (peb, section_base) {
                let lost = Lost { process, peb, section_base, found: None, ambiguous: false };
                if self.lost.push(lost).is_ok() {
                    return None;
                }
            }
            self.stats.lost = self.stats.lost.saturating_add(1);
        }
        Some(process)
    }

    /// What an object says; `None` where it is not that of a process.
    fn describe<M: PhysRead>(&mut self, mem: &M, object: &Object) -> Option<NtProcess> {
        let kernel = self.kernel;
        let layout = &kernel.layout;
        let pid = object.word(layout.pid.offset).filter(|pid| is_pid(*pid)).and_then(|pid| u32::try_from(pid).ok())?;
        let table_field = object.word(layout.table.offset)?;
        let field = |field: Option<super::layout::Field>| field.and_then(|field| object.word(field.offset));
        let ended = object.is_signaled() || field(layout.exit_time).is_some_and(|time| time != 0);
        let user_root = self.user_root(mem, field(layout.user_table), table_field);
        let (root, by) = if self.is_kernel_table(mem, table_field) {
            (Cr3::new(Cr3::new(table_field).table().get()), RootBy::Field)
        } else if let Some(user) = user_root {
            (user, RootBy::UserField)
        } else {
            (Cr3::new(0), RootBy::Nothing)
        };
        let owner = layout.descriptors.map(|(field, shape)| Owner {
            eprocess: object.at,
            table: (layout.table.offset, table_field),
            root: (field.offset, shape),
        });
        let space = kernel.kernel_space().at_root(root).with_resolver(kernel.paging().of(owner));
        let peb = field(layout.peb).filter(|peb| *peb != 0 && *peb < kernel.mode.user_end().get());
        let process = Process {
            space,
            user_root,
            pid: Some(pid),
            ppid: field(layout.ppid).and_then(|ppid| u32::try_from(ppid).ok()),
            name: layout.name.and_then(|name| object.name(name.offset)).map(|name| ProcessName::from_field(&name)),
            eprocess: Some(object.at),
            peb: peb.map(Gva::new),
        };
        let state = if ended { ProcessState::Exited } else { ProcessState::Alive };
        Some(NtProcess { process, state, root: by, table_field })
    }

    fn is_kernel_table<M: PhysRead>(&self, mem: &M, field: u64) -> bool {
        let table = Cr3::new(field).table();
        field >> 52 & 0x7ff == 0
            && mem.holds_data(table)
            && shares_kernel_half(mem, self.kernel.root.table(), table, self.kernel.kernel_space().phys_bits)
    }

    /// The table for user mode, where the field names one that refers to itself as all tables of this kernel do.
    fn user_root<M: PhysRead>(&mut self, mem: &M, field: Option<u64>, table_field: u64) -> Option<Cr3> {
        let field = field.filter(|value| *value > 1 && value >> 52 & 0x7ff == 0)?;
        let table = Cr3::new(field).table();
        let own = self.kernel.root.table();
        let index = (*self.self_entry.get_or_insert_with(|| self_entry(mem, own)))?;
        let sound = table != Cr3::new(table_field).table()
            && table != own
            && mem.holds_data(table)
            && names_itself(mem, table, index);
        sound.then(|| Cr3::new(table.get()))
    }

    /// Looks at a root of RAM for the lost processes.
    fn try_table<M: PhysRead>(&mut self, mem: &M, root: Cr3) {
        let space = self.kernel.kernel_space().at_root(root).with_resolver(self.kernel.paging());
        let walker = PageWalker::new(mem, space);
        for lost in &mut self.lost {
            // PEB.ImageBaseAddress
            let base = word(&walker, lost.peb.wrapping_add(0x10));
            let image = word(&walker, Gva::new(lost.section_base));
            if base == Ok(lost.section_base) && image.is_ok_and(|start| start & 0xffff == 0x5a4d) {
                lost.ambiguous |= lost.found.is_some();
                lost.found = Some(root.table());
            }
        }
    }

    /// Whether a listed process names `root` as its own; `None` where the budget is spent before that is known.
    fn is_named<M: PhysRead>(&self, mem: &M, root: Gpa, nodes: &mut Nodes, budget: &mut Budget) -> Option<bool> {
        let walker = PageWalker::new(mem, self.kernel.kernel_space());
        let links = u64::from(self.kernel.layout.links.offset);
        let table = u64::from(self.kernel.layout.table.offset);
        loop {
            if !budget.spend(NODE) {
                return None;
            }
            let Some(node) = nodes.next(&walker) else { return Some(false) };
            let field = Gva::new(node.get().wrapping_sub(links).wrapping_add(table));
            if word(&walker, field).is_ok_and(|value| Cr3::new(value).table() == root) {
                return Some(true);
            }
        }
    }
}

impl ProcessSource for ProcessList {
    type Resolver = NtPaging;

    fn next_process<M: PhysRead>(
        &mut self,
        mem: &M,
        budget: &mut Budget,
    ) -> Result<Step<Process<NtPaging>>, PhysError> {
        loop {
            match self.step(mem, budget)? {
                Step::Found(found) if found.state == ProcessState::Alive && found.root != RootBy::Nothing => {
                    return Ok(Step::Found(found.process));
                }
                Step::Found(_) => {}
                Step::Pending => return Ok(Step::Pending),
                Step::Done => return Ok(Step::Done),
            }
        }
    }
}
