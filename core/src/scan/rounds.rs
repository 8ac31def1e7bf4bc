//! The two rounds of a batch: the first tables of each process, then all tables of those that have more. No process is
//! scanned to its end while the others have not had their turn.

use crate::paging::LeafCursor;

/// Tables of a process that are visited before its neighbours get their turn: the page tables of 8 GiB.
const FIRST_TABLES: u64 = 1 << 12;

/// Which round a batch is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    /// Processes are scanned to their end: the batch has one only, or all had their turn.
    whole: bool,
    /// The first so many of the batch have more tables than were visited.
    cut: usize,
}

impl Rounds {
    /// The first round of a batch of so many processes.
    pub(super) const fn first(len: usize) -> Self {
        Self { whole: len < 2, cut: 0 }
    }

    /// Tables of each process that are visited in this round.
    pub(super) const fn tables(&self) -> u64 {
        if self.whole { LeafCursor::TABLES } else { FIRST_TABLES }
    }

    /// Notes that the limit of tables ended the enumeration of process `index` in a pass over the batch. Gives whether
    /// that is for good. Else the process goes to the front, among those that get another turn; whoever was there had
    /// this pass already.
    pub(super) fn note_cut<T>(&mut self, processes: &mut [T], index: usize) -> bool {
        if !self.whole && index >= self.cut && index < processes.len() {
            processes.swap(index, self.cut);
            self.cut = self.cut.wrapping_add(1);
        }
        self.whole
    }

    /// The same outside of a pass, where nobody may change places: a phase that goes on afterwards knows its process by
    /// its place. Then all of the batch get another turn.
    pub(super) const fn note_cut_outside(&mut self, len: usize) {
        if !self.whole {
            self.cut = len;
        }
    }

    /// Begins the second round, and gives how many processes take part; `None` where there is none.
    pub(super) const fn next(&mut self) -> Option<usize> {
        let (len, whole) = (self.cut, self.whole);
        *self = Self { whole: true, cut: 0 };
        if whole || len == 0 { None } else { Some(len) }
    }
}
