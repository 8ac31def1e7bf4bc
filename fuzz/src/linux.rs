//! The walker with Linux's meaning of entries without P, against the naive walker and a second reading of those
//! entries: over tables that are mostly nonsense, some of whose entries are sampled as the kernel does it.

use arbitrary::{Arbitrary, Result, Unstructured};
use vgpu_perception::paging::{LeafCursor, LeafStep, Residence};
use vgpu_perception::process::linux::LinuxPaging;
use vgpu_perception::{AddressSpace, Budget, Cr3, Gpa, Gva, PageWalker, PagingMode, PhysRead, RunList, WalkErrorKind};
use vgpu_perception_testkit::naive::{self, NaiveFault, NaiveSpace};
use vgpu_perception_testkit::{Counting, Ram};

use crate::guest::{Lie, RAM, page, rest};
use crate::walk::address;

const NUMBER: u64 = 0x000f_ffff_ffff_f000;

/// A word of a table, and whether the kernel then takes its page away to see who uses it.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Entry {
    lie: Lie,
    how: u8,
}

/// What should be found at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Present(u64),
    InRam(u64),
    NotResident,
    NotMapped,
    Other,
}

pub(crate) fn compare(data: &[u8]) {
    let _ = run(&mut Unstructured::new(data));
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let ram = Ram::flat(RAM);
    let mode = if u.arbitrary()? { PagingMode::FiveLevel } else { PagingMode::FourLevel };
    let cr3 = page(u.arbitrary()?);
    let pages: Vec<Gva> = (0..8).map(|_| address(u)).collect::<Result<_>>()?;
    let span = u.int_in_range(1..=0x40_0000_u64)?;
    for Entry { lie, how } in rest(u, 256)? {
        lie.tell(&ram);
        let before = ram.load_u64(lie.at()).unwrap_or(0);
        // `pte_modify(pte, PAGE_NONE)`: P, U and W go, bit 8 says why, the page number is inverted.
        if how % 2 == 1 && before & 1 == 1 {
            ram.write_u64(lie.at(), (before & (1 << 63 | 0xee0)) | 0x100 | (!before & NUMBER));
        }
    }
    let space = AddressSpace::new(Cr3::new(cr3)).with_mode(mode).with_resolver(LinuxPaging);
    let levels = if mode == PagingMode::FiveLevel { 5 } else { 4 };
    let plain = NaiveSpace { cr3, levels, phys_bits: 52 };
    let mem = Counting::new(&ram);
    let walker = PageWalker::new(&mem, space);
    for gva in pages {
        same(&walker, &ram, plain, gva);
        runs(&walker, gva, span);
    }
    let mut cursor = LeafCursor::new(Gva::new(0), mode.user_end()).with_tables(64);
    for _ in 0..2000 {
        match walker.next_leaf(&mut cursor, &mut Budget::new(700)) {
            LeafStep::Leaf(leaf) => {
                let found = walker.translate(leaf.gva).expect("an enumerated page is found");
                assert_eq!((found.gpa, found.residence), (leaf.gpa, leaf.residence), "{}", leaf.gva);
                same(&walker, &ram, plain, leaf.gva);
            }
            LeafStep::Done => break,
            _ => {}
        }
    }
    Ok(())
}

fn same(walker: &PageWalker<&Counting<&Ram>, LinuxPaging>, ram: &Ram, plain: NaiveSpace, gva: Gva) {
    let ours = match walker.translate(gva) {
        Ok(found) if found.residence == Residence::Present => Expected::Present(found.gpa.get()),
        Ok(found) => Expected::InRam(found.gpa.get()),
        Err(error) => match error.kind {
            WalkErrorKind::NotMapped { .. } => Expected::NotMapped,
            WalkErrorKind::NotResident { .. } => Expected::NotResident,
            _ => Expected::Other,
        },
    };
    assert_eq!(ours, expected(ram, plain, gva.get()), "{gva}");
}

fn expected(ram: &Ram, plain: NaiveSpace, gva: u64) -> Expected {
    match naive::translate(ram, plain, gva) {
        Ok(page) => Expected::Present(page.gpa),
        Err(NaiveFault::NotPresent { level, entry }) => absent(ram, gva, level, entry),
        Err(_) => Expected::Other,
    }
}

/// What Linux means by an entry without P (its `pgtable.h` and `pgtable-invert.h`), in numbers.
fn absent(ram: &Ram, gva: u64, level: u32, entry: u64) -> Expected {
    if gva >> 63 == 1 || entry == 0 {
        return Expected::NotMapped;
    }
    let (bit, size) = match level {
        1 => (0x100, 1 << 12),
        2 => (0x80, 1 << 21),
        3 => (0x80, 1 << 30),
        _ => return Expected::NotResident,
    };
    let gpa = (!entry & NUMBER) / size * size + gva % size;
    if entry & bit == 0 || !ram.is_ram(Gpa::new(gpa & NUMBER)) {
        return Expected::NotResident;
    }
    Expected::InRam(gpa)
}

/// The runs of a range are what its pages translate to, one by one.
fn runs(walker: &PageWalker<&Counting<&Ram>, LinuxPaging>, gva: Gva, span: u64) {
    let mut list: RunList<64> = RunList::new();
    walker.mem().take();
    let got = walker.runs(gva, span, &mut list);
    let loads = walker.mem().take().accesses();
    assert!(loads <= (span / 4096 + 2) * 6, "{loads} loads for {span} bytes");
    let Ok(covered) = got else {
        assert_eq!(got.err(), walker.translate(gva).err());
        return;
    };
    assert!(walker.still_in(gva, covered, &list), "nothing changed");
    assert_eq!(list.iter().map(|run| run.len).sum::<u64>(), covered);
    let mut at = gva;
    for run in list.iter() {
        let mut skip = 0;
        while skip < run.len {
            let found = walker.translate(at).expect("a page of a run is found");
            assert_eq!(found.gpa, run.gpa.wrapping_add(skip), "{at}");
            let step = found.bytes_left().min(run.len - skip);
            skip += step;
            at = at.wrapping_add(step);
        }
    }
}
