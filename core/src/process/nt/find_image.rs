//! Where the kernel's image lies: down from an address in it, or anywhere in the range where Windows loads it.

use super::pe::KernelImage;
use crate::addr::{Gva, PAGE_BYTES, PageSize};
use crate::budget::Budget;
use crate::paging::{LeafCursor, LeafStep, NotPresentResolver, PageWalker};
use crate::phys::PhysRead;
use crate::process::Step;

/// How far below an address in it an image can start.
const BELOW: u64 = 32 << 20;
/// Where kernels are loaded: known bases lie in the first 32 GiB of this part of the kernel half.
const START: Gva = Gva::new(0xffff_f800_0000_0000);
const END: Gva = Gva::new(0xffff_f808_0000_0000);
/// Pages of that range that are looked at, in both passes together: 4 GiB of them.
const PAGES: u64 = 1 << 20;
/// Tables of that range that are visited in each pass.
const TABLES: u64 = 1 << 14;
/// Loads for the first word of a page: five levels at most.
const WALK: u64 = 6;
/// Loads for the headers of an image.
const IMAGE: u64 = 64;

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Down, page by page, from the page of an address in the image.
    Down {
        next: u64,
        left: u64,
    },
    /// Every mapped page of the range; of large pages the first 4 KiB only, where kernels in large pages start...
    Starts(LeafCursor),
    /// ... and then the rest of large pages.
    Insides {
        cursor: LeafCursor,
        next: u64,
        end: u64,
    },
    End,
}

/// The first word of a page; `None` also where nobody has written the page: reading it would allocate it.
fn first_word<M: PhysRead, R: NotPresentResolver>(walker: &PageWalker<M, R>, page: Gva) -> Option<u64> {
    let at = walker.translate(page).ok()?.gpa;
    let mem = walker.mem();
    if mem.holds_data(at) { mem.load_u64(at).ok() } else { None }
}

/// A search for the image in one address space. Pages that cannot be read are passed over: hypervisors hide some.
///
/// # Bound
/// 8192 pages below the address that is known; then 2^20 pages of the range, whose tables are read twice. Each page is
/// a walk and a load, and for those that start as images do what [`KernelImage::read`] reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct ImageSearch {
    stage: Stage,
    left: u64,
}

impl ImageSearch {
    /// A search; `code` is an address that may be in the image.
    pub(super) const fn new(code: Option<Gva>) -> Self {
        let stage = match code {
            Some(code) => Stage::Down { next: code.align_down(PageSize::Size4K).get(), left: BELOW / PAGE_BYTES },
            None => Stage::Starts(Self::cursor()),
        };
        Self { stage, left: PAGES }
    }

    const fn cursor() -> LeafCursor {
        LeafCursor::new(START, END).with_tables(TABLES)
    }

    pub(super) fn step<M: PhysRead, R: NotPresentResolver>(
        &mut self,
        walker: &PageWalker<M, R>,
        budget: &mut Budget,
    ) -> Step<KernelImage> {
        loop {
            if budget.is_spent() {
                return Step::Pending;
            }
            let page = match &mut self.stage {
                Stage::End => return Step::Done,
                Stage::Down { next, left } => {
                    let page = Gva::new(*next);
                    *left = left.wrapping_sub(1);
                    *next = next.wrapping_sub(PAGE_BYTES);
                    if *left == 0 || *next < START.get() {
                        self.stage = Stage::Starts(Self::cursor());
                    }
                    page
                }
                Stage::Starts(cursor) => match walker.next_leaf(cursor, budget) {
                    LeafStep::Leaf(leaf) if self.left > 0 => {
                        self.left = self.left.wrapping_sub(1);
                        leaf.gva
                    }
                    LeafStep::Table(_) | LeafStep::Skipped(_) => continue,
                    LeafStep::Pending => return Step::Pending,
                    LeafStep::Leaf(_) | LeafStep::Done => {
                        self.stage = Stage::Insides { cursor: Self::cursor(), next: 0, end: 0 };
                        continue;
                    }
                },
                Stage::Insides { cursor, next, end } => {
                    if self.left == 0 {
                        self.stage = Stage::End;
                        continue;
                    }
                    if *next == *end {
                        match walker.next_leaf(cursor, budget) {
                            LeafStep::Leaf(leaf) if leaf.size != PageSize::Size4K => {
                                *next = leaf.gva.get().wrapping_add(PAGE_BYTES);
                                *end = leaf.gva.get().wrapping_add(leaf.size.bytes());
                            }
                            LeafStep::Leaf(_) | LeafStep::Table(_) | LeafStep::Skipped(_) => {}
                            LeafStep::Pending => return Step::Pending,
                            LeafStep::Done => self.stage = Stage::End,
                        }
                        continue;
                    }
                    let page = Gva::new(*next);
                    *next = next.wrapping_add(PAGE_BYTES);
                    self.left = self.left.wrapping_sub(1);
                    page
                }
            };
            budget.spend(WALK);
            if first_word(walker, page).is_some_and(|word| word & 0xffff == 0x5a4d) {
                budget.spend(IMAGE);
                if let Some(image) = KernelImage::read(walker, page) {
                    return Step::Found(image);
                }
            }
        }
    }
}
