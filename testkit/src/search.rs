//! All candidates of a guest, for tests that are about something else.

use vgpu_perception::paging::NotPresentResolver;
use vgpu_perception::scan::{Candidate, Discovery, ScanScratch};
use vgpu_perception::{Budget, Gpa, PhysRead, Process, ProcessSource, Step};

/// Scans every process of `source`, with room for 64 and for RAM up to 8 GiB; in the order in which they are found.
///
/// # Panics
/// Where the memory or the source fails as a whole.
pub fn candidates<S: ProcessSource>(ram: &impl PhysRead, source: S) -> Vec<Candidate<S::Resolver>>
where
    S::Resolver: NotPresentResolver + Default,
{
    let words = ScanScratch::<S::Resolver>::page_bitmap_words(Gpa::new(8 << 30));
    let mut processes = vec![Process::default(); 64];
    let mut frames = vec![0; usize::try_from(words).expect("a few thousand words")];
    let mut discovery = Discovery::new(source, ScanScratch { processes: &mut processes, page_bitmap: &mut frames });
    let mut found = Vec::new();
    loop {
        match discovery.step(ram, &mut Budget::unlimited()).expect("the guest can be read") {
            Step::Found(candidate) => found.push(candidate),
            Step::Pending => {}
            Step::Done => return found,
        }
    }
}
