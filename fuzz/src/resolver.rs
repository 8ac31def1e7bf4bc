//! The scan with the Windows resolver under it, and resolvers against second ones: over guests that are whole but for
//! some lies.

use arbitrary::{Result, Unstructured};
use vgpu_perception::paging::NotPresentResolver;
use vgpu_perception::process::nt::NtPaging;
use vgpu_perception::scan::{Discovery, ScanScratch, probe};
use vgpu_perception::{
    AddressSpace, Budget, Gpa, Gva, PAGE_BYTES, PageWalker, PhysError, PhysRead, Process, ProcessSource, Step, abi,
};
use vgpu_perception_testkit::naive::{self, NaiveSpace};
use vgpu_perception_testkit::windows::PrototypeState;
use vgpu_perception_testkit::{Counting, Ram};

use crate::nt::{Guest, among_lies};

/// See [`crate`]. The scan of one process of a Windows guest: no step runs on, and every candidate stands up to a
/// second look.
pub fn resolver(data: &[u8]) {
    among_lies(data, scan);
}

/// See [`crate`]. What the core says of a page, against the naive walker, what an entry without P means to Windows or
/// to Linux, and the truth that the guest was made from.
pub fn differential(data: &[u8]) {
    match data.split_first() {
        Some((kind, rest)) if kind % 2 == 1 => crate::linux::compare(rest),
        Some((_, rest)) => among_lies(rest, compare),
        None => {}
    }
}

/// One space.
struct One(Option<AddressSpace<NtPaging>>);

impl ProcessSource for One {
    type Resolver = NtPaging;
    fn next_process<M: PhysRead>(
        &mut self,
        _mem: &M,
        _b: &mut Budget,
    ) -> core::result::Result<Step<Process<NtPaging>>, PhysError> {
        Ok(self.0.take().map_or(Step::Done, |space| Step::Found(Process::unnamed(space))))
    }
}

fn scan(u: &mut Unstructured<'_>, guest: &Guest, lies: usize) -> Result<()> {
    let budget = u.int_in_range(1..=20_000)?;
    let words = u.int_in_range(0..=64)?;
    let ram = Counting::new(&guest.windows.ram);
    let mut processes = [Process::default(); 2];
    let mut bitmap = vec![0; words];
    let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut bitmap };
    let mut scan = Discovery::new(One(Some(guest.producer)), scratch);
    let base = guest.windows.truth.shared.region.base;
    let mut found = false;
    let mut all = 0_u64;
    // A hostile space may go on for 2^27 pages: what is looked at here is that every step ends.
    while all < 1 << 17 {
        let step = scan.step(&ram, &mut Budget::new(budget)).expect("the map of RAM can be read");
        let loads = ram.take().accesses();
        all += loads.max(1);
        assert!(loads <= budget + Budget::PIECE, "{loads} loads in a step of {budget}");
        match step {
            Step::Done => break,
            Step::Pending => {}
            Step::Found(candidate) => {
                found |= candidate.base == base;
                let again = probe(&guest.windows.ram, &candidate.process.space, candidate.base);
                assert_eq!(again, Ok(candidate.found), "nothing changed, and it is no region any more");
            }
        }
    }
    assert!(found || lies > 0 || all >= 1 << 17, "an honest region was not found: {:?}", scan.stats());
    Ok(())
}

fn compare(u: &mut Unstructured<'_>, guest: &Guest, lies: usize) -> Result<()> {
    let windows = &guest.windows;
    let shared = &windows.truth.shared;
    let space = guest.producer;
    let levels = if windows.truth.mode == vgpu_perception::PagingMode::FiveLevel { 5 } else { 4 };
    let plain = NaiveSpace { cr3: space.root.get(), levels, phys_bits: 52 };
    let walker = PageWalker::new(&windows.ram, space);
    let mut from = u64::from(u.arbitrary::<u16>()?);
    for turn in 0..24 {
        let index = match shared.pages.get(usize::try_from(from).unwrap_or(0) % (shared.pages.len() * 2)) {
            Some(page) if turn % 3 != 2 => page.index,
            _ => from % (abi::REGION_BYTES / PAGE_BYTES),
        };
        from = from.wrapping_mul(25_173).wrapping_add(13_849);
        let gva = shared.region.base.wrapping_add(index * PAGE_BYTES);
        let ours = walker.translate(gva);
        // Whatever lies are told: where the processor would find a page, it is that page, and with those rights.
        if let Ok(theirs) = naive::translate(&windows.ram, plain, gva.get()) {
            let ours = ours.expect("a present page is found");
            assert_eq!((ours.gpa.get(), ours.size.bytes()), (theirs.gpa, theirs.size), "{gva}");
            assert_eq!((ours.rights.user, ours.rights.writable), (theirs.user, theirs.writable), "{gva}");
            continue;
        }
        // What the entry alone decides: a page in transition.
        if let Some(frame) = transition(&windows.ram, plain, gva) {
            assert_eq!(ours.expect("a page in transition is in RAM").gpa.get(), frame, "{gva}");
        }
        if lies == 0 {
            let page = shared.pages.iter().find(|page| page.index == index);
            let truth =
                page.filter(|page| matches!(page.state.prototype, PrototypeState::Valid | PrototypeState::Transition));
            assert_eq!(ours.ok().map(|found| found.gpa), truth.and_then(|page| page.frame), "{gva}");
        }
    }
    Ok(())
}

/// The page of a leaf entry in transition, by the naive walk down to its table.
fn transition(ram: &Ram, space: NaiveSpace, gva: Gva) -> Option<u64> {
    let mut table = space.cr3 & 0x000f_ffff_ffff_f000;
    for level in (1..=space.levels).rev() {
        let index = gva.get() >> (12 + 9 * (level - 1)) & 0x1ff;
        let entry = ram.load_u64(Gpa::new(table + 8 * index)).ok()?;
        if level == 1 {
            // Frames above 32 TiB are swizzled ones: see the resolver's own tests.
            let plain = entry & 0xc01 == 0x800 && entry >> 45 & 7 == 0;
            return plain.then_some(entry & 0x0000_ffff_ffff_f000);
        }
        if entry & 1 == 0 || entry & 0x80 != 0 || entry >> 48 & 0xf != 0 {
            return None;
        }
        table = entry & 0x000f_ffff_ffff_f000;
    }
    None
}

const _: () = assert!(NtPaging::LOADS <= Budget::PIECE);
