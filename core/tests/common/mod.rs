//! What several test files share.
#![allow(dead_code, reason = "each test file takes what it needs")]

pub(crate) mod batched;

use vgpu_perception::paging::NotPresentResolver;
use vgpu_perception::scan::{Candidate, Discovery, ScanScratch, ScanStats};
use vgpu_perception::{AddressSpace, Budget, Gpa, PhysError, PhysRead, Process, ProcessSource, Step};

/// A source of spaces that are known already.
#[derive(Debug)]
pub(crate) struct These<R> {
    spaces: Vec<AddressSpace<R>>,
    next: usize,
}

impl<R> These<R> {
    pub(crate) const fn new(spaces: Vec<AddressSpace<R>>) -> Self {
        Self { spaces, next: 0 }
    }
}

impl<R: NotPresentResolver> ProcessSource for These<R> {
    type Resolver = R;

    fn next_process<M: PhysRead>(&mut self, _mem: &M, _budget: &mut Budget) -> Result<Step<Process<R>>, PhysError> {
        let next = self.spaces.get(self.next).map(|space| Step::Found(Process::unnamed(*space)));
        self.next += 1;
        Ok(next.unwrap_or(Step::Done))
    }
}

/// All candidates, with a budget of `budget` a step and scratch memory for `batch` processes and `words` x 64 pages.
pub(crate) fn scan<S: ProcessSource>(
    mem: &impl PhysRead,
    source: S,
    budget: u64,
    batch: usize,
    words: usize,
) -> (Vec<Candidate<S::Resolver>>, ScanStats)
where
    S::Resolver: Default,
{
    let mut processes = vec![Process::default(); batch];
    let mut frames = vec![u64::MAX; words];
    let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut frames };
    let mut discovery = Discovery::new(source, scratch);
    let mut candidates = Vec::new();
    loop {
        match discovery.step(mem, &mut Budget::new(budget)).unwrap() {
            Step::Found(candidate) => candidates.push(candidate),
            Step::Pending => {}
            Step::Done => return (candidates, discovery.stats()),
        }
    }
}

pub(crate) fn words(end: u64) -> usize {
    usize::try_from(ScanScratch::<()>::page_bitmap_words(Gpa::new(end))).unwrap()
}
