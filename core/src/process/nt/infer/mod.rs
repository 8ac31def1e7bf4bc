//! Field offsets, inferred from the objects themselves: no symbols and no table of versions are needed.
//!
//! Each field has a rule that its content obeys in every process, and that nothing else in the object obeys. An offset
//! that breaks the rule in one process is out; an offset is proven when it alone is left and enough processes obey the
//! rule there. Each file has the rules of the fields that are inferred together, and the text that users read about
//! them.
//!
//! ```text
//! links ─► tables ─► life (ExitStatus, CreateTime, ExitTime) ─► environment (Peb, SectionBaseAddress, parent) ─► descriptors
//!             └────► user_table          name
//! ```

mod descriptors;
mod environment;
mod life;
mod links;
mod name;
mod sample;
mod tables;
mod user_table;

pub(super) use links::is_pid;
use sample::Sample;

use super::charged::Charged;
use super::eprocess::Object;
use super::error::NtError;
use super::layout::{Field, FieldName, Layout};
use super::links::Nodes;
use super::paging::KernelPaging;
use super::pe::KernelImage;
use super::vad::DescriptorShape;
use crate::addr::{Cr3, Gva};
use crate::budget::Budget;
use crate::paging::{AddressSpace, PageWalker};
use crate::phys::PhysRead;
use crate::process::Step;

/// What tells each field from the rest of an object, in words.
pub(super) const fn rule(field: FieldName) -> &'static str {
    match field {
        FieldName::DirectoryTableBase => tables::RULE,
        FieldName::UserDirectoryTableBase => user_table::RULE,
        FieldName::UniqueProcessId => links::NUMBER,
        FieldName::ActiveProcessLinks => links::RULE,
        FieldName::ImageFileName => name::RULE,
        FieldName::CreateTime => life::CREATED,
        FieldName::ExitTime => life::ENDED,
        FieldName::ExitStatus => life::STATUS,
        FieldName::Peb => environment::BLOCK,
        FieldName::SectionBaseAddress => environment::SECTION,
        FieldName::InheritedFromUniqueProcessId => environment::PARENT,
        FieldName::VadRoot => descriptors::RULE,
    }
}

/// Processes that are looked at.
const SAMPLE: u32 = 64;
/// Processes that have to speak for a field.
const WITNESSES: u16 = 3;
/// Of so many processes one may break a rule that a process can break by itself.
const MOST_OBEY: u32 = 8;
/// `UniqueProcessId` of the System process.
const SYSTEM_PID: u64 = 4;

/// A layout, and the root that the System process names.
pub(super) struct Inferred {
    pub(super) layout: Layout,
    pub(super) root: Cr3,
}

/// The rule that the processes of the sample are held against at the moment.
#[derive(Clone, Copy, Debug)]
enum Rule {
    Begin,
    Links(links::Witnesses),
    Nearest(links::Nearest),
    Tables(tables::Tables),
    Statuses(life::Statuses),
    Created(life::Created),
    Environment(environment::Environment),
    Name(name::Names),
    UserTables(user_table::UserTables),
    Ended(life::Ended),
    Numbers(environment::Numbers),
    Parents(environment::Parents),
    Descriptors(descriptors::Trees),
    End,
}

/// What the rules that are done gave.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    table: Option<Field>,
    exit_status: Option<Field>,
    create_time: Option<Field>,
    exit_time: Option<Field>,
    environment: Option<(Field, Field)>,
    name: Option<Field>,
    user_table: Option<Field>,
    ppid: Option<Field>,
    descriptors: Option<(Field, DescriptorShape)>,
}

/// The way from the System process to the layout: resumable after each process that a rule looked at.
///
/// # Bound
/// At most 13 passes over 64 objects of 3072 bytes. A rule may cost [`Budget::PIECE`] loads in one object; an object
/// that costs more does not speak. Some ten thousand loads in a real guest, 2^25 at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inference {
    space: AddressSpace<KernelPaging>,
    image: KernelImage,
    may_swizzle: bool,
    at: Gva,
    system: Object,
    links: Field,
    extent: u64,
    nodes: Nodes,
    rule: Rule,
    known: Known,
}

impl Inference {
    /// The layout of the objects of the kernel that `space` maps, from the System process at `system`.
    pub(super) const fn new(
        space: AddressSpace<KernelPaging>,
        image: KernelImage,
        may_swizzle: bool,
        system: Gva,
    ) -> Self {
        Self {
            space,
            image,
            may_swizzle,
            at: system,
            system: Object::BLANK,
            links: Field { offset: 0, witnesses: 0 },
            extent: u64::MAX,
            nodes: Nodes::new(system, 0),
            rule: Rule::Begin,
            known: Known {
                table: None,
                exit_status: None,
                create_time: None,
                exit_time: None,
                environment: None,
                name: None,
                user_table: None,
                ppid: None,
                descriptors: None,
            },
        }
    }

    /// The System process's object.
    pub(super) const fn system(&self) -> Gva {
        self.at
    }

    /// Goes on until the layout is known or the budget is spent.
    ///
    /// # Errors
    /// What is missing without which there is no list.
    pub(super) fn step<M: PhysRead>(&mut self, mem: &M, budget: &mut Budget) -> Result<Step<Inferred>, NtError> {
        loop {
            if budget.is_spent() {
                return Ok(Step::Pending);
            }
            let charged = Charged::new(mem, Budget::PIECE);
            let before = self.rule;
            let step = self.piece(&charged);
            budget.spend(charged.spent().max(1));
            if let Some(inferred) = step? {
                return Ok(Step::Found(inferred));
            }
            if charged.is_exhausted() && core::mem::discriminant(&before) == core::mem::discriminant(&self.rule) {
                // Half of what an object says is not its word.
                self.rule = before;
            }
        }
    }

    /// One object under one rule, or the end of a rule.
    #[inline(never)]
    fn piece<M: PhysRead>(&mut self, mem: &Charged<'_, M>) -> Result<Option<Inferred>, NtError> {
        let walker = PageWalker::new(mem, self.space);
        if matches!(self.rule, Rule::Begin) {
            self.begin(&walker)?;
            return Ok(None);
        }
        let Some(node) = self.nodes.next(&walker) else { return self.end_of_rule(&walker) };
        // The head of the list is a variable of the kernel, not part of a process.
        let offset = u64::from(self.links.offset);
        if node == self.at.wrapping_add(offset) || self.image.contains(node) {
            return Ok(None);
        }
        let mut object = Object::BLANK;
        if object.fill(&walker, Gva::new(node.get().wrapping_sub(offset))).is_err() || !object.is_process() {
            return Ok(None);
        }
        object.cut(self.extent);
        let sample = Sample { walker, may_swizzle: self.may_swizzle, system: &self.system, links: self.links };
        match &mut self.rule {
            Rule::Begin | Rule::End => {}
            Rule::Links(rule) => rule.see(),
            Rule::Nearest(rule) => rule.see(&object),
            Rule::Tables(rule) => rule.see(&sample, &object),
            Rule::Statuses(rule) => rule.see(&object),
            Rule::Created(rule) => rule.see(&object),
            Rule::Environment(rule) => rule.see(&sample, &object),
            Rule::Name(rule) => rule.see(&object),
            Rule::UserTables(rule) => rule.see(&sample, &object),
            Rule::Ended(rule) => rule.see(&object),
            Rule::Numbers(rule) => rule.see(&sample, &object),
            Rule::Parents(rule) => rule.see(&sample, &object),
            Rule::Descriptors(rule) => rule.see(&sample, &object),
        }
        Ok(None)
    }

    fn begin<M: PhysRead>(&mut self, walker: &PageWalker<&Charged<'_, M>, KernelPaging>) -> Result<(), NtError> {
        let at = self.at;
        self.system.fill(walker, at).map_err(|error| NtError::System { at, error })?;
        if !self.system.is_process() {
            return Err(NtError::NotAProcess { at });
        }
        self.links.offset = links::find(walker, &self.system)?;
        self.over(Rule::Links(links::Witnesses::new()));
        Ok(())
    }

    /// Holds the sample against another rule.
    fn over(&mut self, rule: Rule) {
        self.nodes = Nodes::new(self.at.wrapping_add(self.links.offset.into()), SAMPLE);
        self.rule = rule;
    }

    /// Looks at no more than `len` bytes of an object from now on.
    fn cut(&mut self, len: u64) {
        self.extent = self.extent.min(len);
        self.system.cut(self.extent);
    }

    /// Takes what a rule gave, and goes on with the next that has what it needs.
    fn end_of_rule<M: PhysRead>(
        &mut self,
        walker: &PageWalker<&Charged<'_, M>, KernelPaging>,
    ) -> Result<Option<Inferred>, NtError> {
        let system = self.system;
        let known = &mut self.known;
        // Where the end of the object is not known, dates and nodes that lie behind it could be taken for its fields.
        let ends = known.exit_status.is_some();
        let next = match self.rule {
            Rule::Begin | Rule::End => Rule::End,
            Rule::Links(rule) => {
                self.links.witnesses = rule.count();
                Rule::Nearest(links::Nearest::new(self.at))
            }
            Rule::Nearest(rule) => {
                self.cut(rule.least());
                let sample =
                    Sample { walker: *walker, may_swizzle: self.may_swizzle, system: &self.system, links: self.links };
                Rule::Tables(tables::Tables::new(&sample))
            }
            Rule::Tables(rule) => {
                let field = FieldName::DirectoryTableBase;
                known.table = Some(rule.field().ok_or(NtError::Unproven { field })?);
                Rule::Statuses(life::Statuses::new(&system))
            }
            Rule::Statuses(rule) => {
                known.exit_status = rule.field();
                match known.exit_status {
                    Some(field) => {
                        self.cut(life::end_after(field));
                        Rule::Created(life::Created::new(&self.system))
                    }
                    None => self.environment(),
                }
            }
            Rule::Created(rule) => {
                known.create_time = rule.field();
                self.environment()
            }
            Rule::Environment(rule) => {
                known.environment = rule.fields();
                Rule::Name(name::Names::new(&system))
            }
            Rule::Name(rule) => {
                known.name = rule.field();
                let table = known.table.unwrap_or(Field { offset: 0, witnesses: 0 });
                let sample =
                    Sample { walker: *walker, may_swizzle: self.may_swizzle, system: &system, links: self.links };
                match user_table::UserTables::new(&sample, table) {
                    Some(rule) => Rule::UserTables(rule),
                    None => self.ended(),
                }
            }
            Rule::UserTables(rule) => {
                known.user_table = rule.field();
                self.ended()
            }
            Rule::Ended(rule) => {
                known.exit_time = rule.field();
                self.numbers()
            }
            Rule::Numbers(rule) => match known.environment.and_then(|(_, section)| rule.parents(&system, section)) {
                Some(rule) => Rule::Parents(rule),
                None => self.descriptors(ends),
            },
            Rule::Parents(rule) => {
                known.ppid = rule.field();
                self.descriptors(ends)
            }
            Rule::Descriptors(rule) => {
                known.descriptors = rule.field();
                Rule::End
            }
        };
        self.over(next);
        Ok(if matches!(self.rule, Rule::End) { self.inferred() } else { None })
    }

    fn environment(&self) -> Rule {
        let table = self.known.table.unwrap_or(Field { offset: 0, witnesses: 0 });
        Rule::Environment(environment::Environment::new(&self.system, table))
    }

    fn ended(&self) -> Rule {
        match self.known.create_time.zip(self.known.exit_status) {
            Some((created, status)) => Rule::Ended(life::Ended::new(&self.system, created, status)),
            None => self.numbers(),
        }
    }

    fn numbers(&self) -> Rule {
        match self.known.environment {
            Some(_) => Rule::Numbers(environment::Numbers::new()),
            None => Rule::End,
        }
    }

    fn descriptors(&self, ends: bool) -> Rule {
        match self.known.environment.filter(|_| ends) {
            Some((peb, section_base)) => Rule::Descriptors(descriptors::Trees::new(peb, section_base)),
            None => Rule::End,
        }
    }

    fn inferred(&self) -> Option<Inferred> {
        let known = &self.known;
        let table = known.table?;
        let (peb, section_base) = known.environment.unzip();
        let layout = Layout {
            table,
            pid: Field { offset: self.links.offset.wrapping_sub(8), witnesses: self.links.witnesses },
            links: self.links,
            name: known.name,
            user_table: known.user_table,
            create_time: known.create_time,
            exit_time: known.exit_time,
            exit_status: known.exit_status,
            peb,
            section_base,
            ppid: known.ppid,
            descriptors: known.descriptors,
        };
        Some(Inferred { layout, root: Cr3::new(self.system.word(table.offset).unwrap_or_default()) })
    }
}
