//! What an access needs and what a walk grants. Intel SDM vol. 3A, 4.6.

use super::pte::Pte;

/// What an access needs or a translation grants: the AND over all levels of the walk (Intel SDM vol. 3A, 4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights {
    /// User mode may access the page.
    pub user: bool,
    /// Writes are allowed.
    pub writable: bool,
    /// Instructions may be fetched.
    pub executable: bool,
}

impl Rights {
    /// Everything: where a walk starts.
    pub const ALL: Self = Self { user: true, writable: true, executable: true };
    /// Nothing: what an access needs that needs no right.
    pub const NONE: Self = Self { user: false, writable: false, executable: false };
    /// User access.
    pub const USER: Self = Self { user: true, ..Self::NONE };
    /// User access for writing.
    pub const USER_WRITE: Self = Self { user: true, writable: true, executable: false };

    /// What both grant.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            user: self.user & other.user,
            writable: self.writable & other.writable,
            executable: self.executable & other.executable,
        }
    }

    /// Whether these grant everything that `need` names.
    #[must_use]
    pub const fn grant(self, need: Self) -> bool {
        (self.user | !need.user) & (self.writable | !need.writable) & (self.executable | !need.executable)
    }
}

/// What a walk has met on its way down, as bits: [`Rights`] are made of it once, at the end.
#[derive(Clone, Copy)]
pub(crate) struct Grants {
    /// The AND of the entries: U/S and R/W grant where every level sets them.
    all: u64,
    /// The OR of the entries: XD denies where any level sets it.
    any: u64,
}

impl Grants {
    /// Before the first entry.
    pub(crate) const START: Self = Self { all: u64::MAX, any: 0 };

    /// Below levels that grant `above`.
    #[inline(always)]
    pub(crate) const fn below(above: Rights) -> Self {
        let denied = Need::of(Rights { user: !above.user, writable: !above.writable, executable: !above.executable });
        Self { all: !denied.set, any: denied.clear }
    }

    #[inline(always)]
    pub(crate) const fn and(self, entry: Pte) -> Self {
        Self { all: self.all & entry.get(), any: self.any | entry.get() }
    }

    /// Whether these grant everything that `need` names.
    #[inline(always)]
    pub(crate) const fn meet(self, need: Need) -> bool {
        (need.set & !self.all) | (need.clear & self.any) == 0
    }

    /// Whether a walk that needs `need` would follow all of these entries without asking anybody: each is present, sets
    /// none of the bits `reserved`, and grants what is needed.
    #[inline(always)]
    pub(crate) const fn follow(self, reserved: u64, need: Need) -> bool {
        self.meet(Need { set: need.set | Pte::PRESENT, clear: need.clear | reserved, ..need })
    }

    /// Whether every entry sets what `need` wants set.
    #[inline(always)]
    pub(crate) const fn all_set(self, need: Need) -> bool {
        need.set & !self.all == 0
    }

    #[inline(always)]
    pub(crate) const fn rights(self) -> Rights {
        Rights {
            user: self.all & Pte::USER != 0,
            writable: self.all & Pte::WRITABLE != 0,
            executable: self.any & Pte::NO_EXECUTE == 0,
        }
    }
}

/// The rights that an access needs, and the bits that say so: those that every entry sets, and that none may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    pub(super) rights: Rights,
    pub(super) set: u64,
    pub(super) clear: u64,
}

impl Need {
    pub(crate) const fn of(rights: Rights) -> Self {
        let user = if rights.user { Pte::USER } else { 0 };
        let writable = if rights.writable { Pte::WRITABLE } else { 0 };
        let clear = if rights.executable { Pte::NO_EXECUTE } else { 0 };
        Self { rights, set: user | writable, clear }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Rights> + Clone {
        (0..8_u32).map(|bits| Rights { user: bits & 1 != 0, writable: bits & 2 != 0, executable: bits & 4 != 0 })
    }

    #[test]
    fn an_entry_is_followed_if_it_is_present_and_sound_and_grants_what_is_needed() {
        const RESERVED: u64 = 1 << 51;
        for above in all() {
            for (bits, need) in (0..32_u64).flat_map(|bits| all().map(move |need| (bits, need))) {
                let flag = |bit: u64, flag: u64| if bits & bit != 0 { flag } else { 0 };
                let low = flag(1, Pte::PRESENT) | flag(2, Pte::WRITABLE) | flag(4, Pte::USER);
                let entry = Pte::new(low | flag(8, Pte::NO_EXECUTE) | flag(16, RESERVED) | 0x5000);
                let sound = entry.is_present() && entry.get() & RESERVED == 0;
                let right = sound && above.and(entry.rights()).grant(need);
                let met = Grants::below(above).and(entry);
                assert_eq!(met.follow(RESERVED, Need::of(need)), right, "{above:?} {entry} {need:?}");
                assert_eq!(met.rights(), above.and(entry.rights()), "{above:?} {entry}");
            }
        }
    }
}
