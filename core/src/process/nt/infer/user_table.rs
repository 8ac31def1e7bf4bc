//! `UserDirectoryTableBase`: the root that user mode runs on under page-table isolation.

use super::super::eprocess::Object;
use super::super::layout::{Field, Offsets, Possible};
use super::super::self_map::{names_itself, self_entry};
use super::WITNESSES;
use super::sample::Sample;
use crate::addr::{Cr3, Gpa};
use crate::paging::{KERNEL_HALF, Pte, all_pairs};
use crate::phys::PhysRead;

pub(super) const RULE: &str = "names a table that refers to itself and has the process's user half alone";

/// Where each process holds 0 or 1, or a table that refers to itself like all of them and has the process's user half.
#[derive(Clone, Copy, Debug)]
pub(super) struct UserTables {
    table: Field,
    /// The entry by which every table of this kernel refers to itself.
    index: u64,
    possible: Possible,
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

impl UserTables {
    #[inline(never)]
    pub(super) fn new<M: PhysRead>(sample: &Sample<'_, '_, M>, table: Field) -> Option<Self> {
        let index = self_entry(sample.mem(), sample.walker.space().root.table())?;
        let mut inside = Offsets::NONE;
        (0..sample.links.offset).step_by(8).filter(|offset| *offset != table.offset).for_each(|at| inside.insert(at));
        let mut rule = Self { table, index, possible: Possible::new(inside) };
        let own = rule.own(sample, sample.system);
        let mut possible = rule.possible;
        possible.rule_out(|offset| rule.judge(sample, sample.system, own, offset) != UserTable::Neither);
        rule.possible = possible;
        Some(rule)
    }

    #[inline(never)]
    pub(super) fn see<M: PhysRead>(&mut self, sample: &Sample<'_, '_, M>, object: &Object) {
        let own = self.own(sample, object);
        let mut shown = Offsets::NONE;
        let mut possible = self.possible;
        possible.rule_out(|offset| {
            let judged = self.judge(sample, object, own, offset);
            if judged == UserTable::Shown {
                shown.insert(offset);
            }
            judged != UserTable::Neither
        });
        if shown.count() > 0 {
            possible.keep(shown);
        }
        self.possible = possible;
    }

    pub(super) fn field(&self) -> Option<Field> {
        self.possible.proven(WITNESSES)
    }

    fn own<M: PhysRead>(&self, sample: &Sample<'_, '_, M>, object: &Object) -> Option<Gpa> {
        object.word(self.table.offset).and_then(|value| sample.table(value))
    }

    fn judge<M: PhysRead>(
        &self,
        sample: &Sample<'_, '_, M>,
        object: &Object,
        own: Option<Gpa>,
        offset: u16,
    ) -> UserTable {
        let Some(value) = object.word(offset) else { return UserTable::Neither };
        if value < 2 {
            return UserTable::None;
        }
        let user = Cr3::new(value).table();
        if value >> 52 & 0x7ff != 0 || user.get() == 0 || own == Some(user) || !sample.mem().holds_data(user) {
            return UserTable::Neither;
        }
        if !names_itself(sample.mem(), user, self.index) {
            return UserTable::Neither;
        }
        match own {
            Some(own) if same_user_half(sample.mem(), own, user) => UserTable::Shown,
            // The System process has no user half to show, and a process may have its own table hidden.
            _ => UserTable::Possible,
        }
    }
}

/// Whether two tables have the same user half, and one at all.
fn same_user_half<M: PhysRead>(mem: &M, own: Gpa, user: Gpa) -> bool {
    let mut present = false;
    let same = all_pairs(mem, [own, user], 0..KERNEL_HALF.start, |_, [ours, theirs]| {
        let either = ours.is_present() || theirs.is_present();
        present |= either;
        !either || (ours.get() ^ theirs.get()) & (Pte::ADDRESS | Pte::PRESENT) == 0
    });
    same == Ok(true) && present
}
