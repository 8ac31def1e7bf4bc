//! The walker against a second one that was written from the manual: over tables that are mostly nonsense.

use arbitrary::{Result, Unstructured};
use vgpu_perception::paging::{LeafCursor, LeafStep, Rights};
use vgpu_perception::{AddressSpace, Budget, Cr3, Gva, PageWalker, PagingMode, PhysRead, WalkErrorKind};
use vgpu_perception_testkit::naive::{self, NaiveFault, NaiveSpace};
use vgpu_perception_testkit::{Counting, Ram};

use crate::guest::{Lie, RAM, page, rest};

/// See [`crate`].
pub fn walk(data: &[u8]) {
    let _ = run(&mut Unstructured::new(data));
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let ram = Ram::flat(RAM);
    let mode = if u.arbitrary()? { PagingMode::FiveLevel } else { PagingMode::FourLevel };
    let phys_bits = u.int_in_range(32..=52)?;
    let cr3 = page(u.arbitrary()?) | u64::from(u.arbitrary::<u16>()? & 0xfff);
    let pages: Vec<Gva> = (0..8).map(|_| address(u)).collect::<Result<_>>()?;
    let span = u.int_in_range(1..=0x40_0000_u64)?;
    for lie in rest::<Lie>(u, 256)? {
        lie.tell(&ram);
    }
    let space = AddressSpace::new(Cr3::new(cr3)).with_mode(mode).with_phys_bits(phys_bits);
    let levels = if mode == PagingMode::FiveLevel { 5 } else { 4 };
    let plain = NaiveSpace { cr3, levels, phys_bits };
    let walker = PageWalker::new(&ram, space);
    for gva in &pages {
        same(&walker, &ram, plain, *gva);
        runs(&walker, *gva, span);
    }
    together(&walker, &pages);
    leaves(&ram, space, plain, pages[0]);
    Ok(())
}

/// Addresses whose indices are small at every level: they meet.
pub(crate) fn address(u: &mut Unstructured<'_>) -> Result<Gva> {
    let mut gva = u64::from(u.arbitrary::<u16>()? & 0xfff);
    for shift in [12, 21, 30, 39, 48] {
        let index = u64::from(u.arbitrary::<u8>()?);
        gva |= (if index < 240 { index % 4 } else { index + 256 }) << shift;
    }
    Ok(Gva::new(if u.arbitrary()? { gva } else { gva | 0xff00_0000_0000_0000 }))
}

fn same(walker: &PageWalker<&Ram>, ram: &Ram, plain: NaiveSpace, gva: Gva) {
    let ours = walker.translate(gva);
    match (ours, naive::translate(ram, plain, gva.get())) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!((ours.gpa.get(), ours.size.bytes()), (theirs.gpa, theirs.size), "{gva}");
            let rights = (ours.rights.user, ours.rights.writable, ours.rights.executable);
            assert_eq!(rights, (theirs.user, theirs.writable, theirs.executable), "{gva}");
        }
        (Err(ours), Err(theirs)) => {
            let agree = matches!(
                (ours.kind, theirs),
                (WalkErrorKind::NonCanonical, NaiveFault::NonCanonical)
                    | (WalkErrorKind::NotMapped { .. }, NaiveFault::NotPresent { .. })
                    | (WalkErrorKind::Reserved { .. }, NaiveFault::Reserved { .. })
                    | (WalkErrorKind::Table { .. }, NaiveFault::NoTable { .. })
            );
            assert!(agree, "{gva}: {ours:?} against {theirs:?}");
        }
        (ours, theirs) => panic!("{gva}: {ours:?} against {theirs:?}"),
    }
    if let Ok((found, trail)) = walker.translate_with_trail(gva) {
        assert_eq!(Ok(found), ours);
        assert_eq!(trail.still_holds(ram), Ok(true), "nothing changed");
    }
}

/// Side by side, in this space and in one of the other depth in turn, addresses translate as they do alone.
fn together(walker: &PageWalker<&Ram>, pages: &[Gva]) {
    let space = *walker.space();
    let five = space.mode == PagingMode::FourLevel;
    let other = space.with_mode(if five { PagingMode::FiveLevel } else { PagingMode::FourLevel }).with_phys_bits(52);
    let walks: Vec<_> = pages.iter().flat_map(|gva| [(space, *gva), (other, *gva), (space, *gva)]).collect();
    for need in [Rights::NONE, Rights::USER_WRITE, Rights::ALL] {
        let counted = PageWalker::new(Counting::new(walker.mem()), space).needing(need);
        let mut results = Vec::new();
        counted.translate_together(walks.iter().map(|(space, gva)| (space, *gva)), |result| results.push(result));
        let count = counted.mem().counts().accesses();
        assert!(count <= walks.len() as u64 * 2 * 5, "{count} loads for {} walks", walks.len());
        assert_eq!(results.len(), walks.len());
        for ((space, gva), result) in walks.iter().zip(results) {
            assert_eq!(result, PageWalker::new(walker.mem(), *space).needing(need).translate(*gva), "{need:?} {gva}");
        }
    }
}

/// The runs of a range are what its pages translate to, one by one.
fn runs(walker: &PageWalker<&Ram>, gva: Gva, span: u64) {
    let mut list: vgpu_perception::RunList<64> = vgpu_perception::RunList::new();
    let counted = PageWalker::new(Counting::new(walker.mem()), *walker.space());
    let got = counted.runs(gva, span, &mut list);
    let bound = (span / 4096 + 2) * 6;
    assert!(counted.mem().counts().accesses() <= bound, "{} loads for {span} bytes", counted.mem().counts().accesses());
    let Ok(covered) = got else {
        assert_eq!(got.err(), walker.translate(gva).err());
        return;
    };
    assert!(covered > 0 && covered <= span);
    assert!(walker.still_in(gva, covered, &list), "nothing changed");
    assert_eq!(list.iter().map(|run| run.len).sum::<u64>(), covered);
    let mut at = gva;
    for run in list.iter() {
        let mut skip = 0;
        while skip < run.len {
            let found = walker.translate(at).expect("a page of a run is mapped");
            assert_eq!(found.gpa, run.gpa.wrapping_add(skip), "{at}");
            let step = found.bytes_left().min(run.len - skip);
            skip += step;
            at = at.wrapping_add(step);
        }
    }
}

/// Every page of the enumeration is one that translates, in ascending order, within the bound.
fn leaves(ram: &Ram, space: AddressSpace, plain: NaiveSpace, start: Gva) {
    let counted = Counting::new(ram);
    let walker = PageWalker::new(&counted, space);
    let mut cursor = LeafCursor::new(Gva::new(start.get() & 0x7fff_ffff_f000), space.mode.user_end()).with_tables(64);
    let mut last = None;
    for _ in 0..2000 {
        match walker.next_leaf(&mut cursor, &mut Budget::new(700)) {
            LeafStep::Leaf(leaf) => {
                assert!(last.is_none_or(|last| leaf.gva > last), "{leaf:?} after {last:?}");
                last = Some(leaf.gva);
                let theirs = naive::translate(ram, plain, leaf.gva.get()).expect("an enumerated page is mapped");
                assert_eq!(
                    (leaf.gpa.get(), leaf.size.bytes(), leaf.rights.user),
                    (theirs.gpa, theirs.size, theirs.user)
                );
            }
            LeafStep::Done => break,
            LeafStep::Table(_) => panic!("nobody asked for tables"),
            LeafStep::Skipped(_) | LeafStep::Pending => {}
        }
    }
    assert!(counted.counts().accesses() <= 64 * 512 + 64, "{} loads", counted.counts().accesses());
    let _ = (Rights::ALL, ram.next_extent(vgpu_perception::Gpa::new(0)));
}
