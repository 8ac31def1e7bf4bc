//! Entries without P in a Linux guest, written as the kernel writes them: pages whose use is sampled, pages that were
//! swapped.

mod common;

use common::{These, scan, words};
use vgpu_perception::abi;
use vgpu_perception::paging::{LeafCursor, LeafStep, Level, PageWalker, Rights};
use vgpu_perception::process::guest::{GuestKernel, GuestPaging};
use vgpu_perception::region::{FrameScratch, Region, Sample, Skip};
use vgpu_perception::scan::{NoRegion, probe};
use vgpu_perception::{AddressSpace, Budget, Cr3, Gpa, Gva, NextUse, ProcessSource, Step, WalkError, WalkErrorKind};
use vgpu_perception_testkit::linux::{LinuxOptions, REGION_BASE, StandardLinux, standard_linux};
use vgpu_perception_testkit::{Counting, Placement, Ring};

const RAM: u64 = 8 << 30;

fn guest(placement: Placement) -> (StandardLinux, AddressSpace<GuestPaging>) {
    let linux = standard_linux(LinuxOptions { placement, ring: Ring::Written, ..LinuxOptions::default() });
    let kernel = GuestKernel::attach(&linux.guest.ram, Cr3::new(linux.kernel.init.root.get()), None).unwrap();
    let root = linux.processes[linux.producer].space.root;
    let mut processes = kernel.processes();
    loop {
        match processes.next_process(&linux.guest.ram, &mut Budget::unlimited()).unwrap() {
            Step::Found(process) if process.space.root.table() == root => {
                assert_eq!(process.space.resolver, GuestPaging::Linux, "by the evidence of its kernel half");
                return (linux, process.space);
            }
            Step::Found(_) | Step::Pending => {}
            Step::Done => panic!("the producer's root is missing"),
        }
    }
}

/// `pte_modify(pte, PAGE_NONE)` and `pmd_modify`: P, U and W go, G says why, the page number is inverted.
fn sampled(entry: u64) -> u64 {
    const NUMBER: u64 = 0x000f_ffff_ffff_f000;
    let kept = entry & (1 << 63 | 0x60 | 0xe00);
    let large = entry & 0x80;
    kept | large | 0x100 | (!entry & NUMBER)
}

/// `__swp_entry`: the type in the last five bits, the offset inverted from bit 9 on.
const fn swapped(offset: u64) -> u64 {
    1 << 59 | (!offset << 14 >> 5)
}

/// Samples every entry of `level` in `start .. start + len`; gives back what they were.
fn sample_all(linux: &StandardLinux, level: Level, start: Gva, len: u64) -> Vec<(Gva, u64)> {
    let space = linux.region.space;
    let mut before = Vec::new();
    for at in (0..len).step_by(usize::try_from(level.span()).unwrap()) {
        let gva = start.wrapping_add(at);
        if let Some(entry) = linux.guest.entry(space, level, gva).filter(|entry| entry & 1 == 1) {
            linux.guest.set_entry(space, level, gva, sampled(entry));
            before.push((gva, entry));
        }
    }
    before
}

fn restore(linux: &StandardLinux, level: Level, before: &[(Gva, u64)]) {
    for (gva, entry) in before {
        linux.guest.set_entry(linux.region.space, level, *gva, *entry);
    }
}

fn sample(linux: &StandardLinux, region: &mut Region<GuestPaging>) -> Option<Vec<u8>> {
    let mut dst = vec![0; 34 << 20];
    let sample = region.sample_frame(&linux.guest.ram, &mut FrameScratch::new(), &mut dst, NextUse::Unknown).ok()?;
    match sample {
        Sample::Fresh(frame) => {
            dst.truncate(frame.bytes);
            Some(dst)
        }
        Sample::Skip(_) => None,
    }
}

#[test]
fn a_ring_whose_use_is_sampled_is_read() {
    for (placement, level) in [(Placement::Scattered, Level::Pt), (Placement::Large2M, Level::Pd)] {
        let (linux, space) = guest(placement);
        let ram = &linux.guest.ram;
        let ring = REGION_BASE.wrapping_add(abi::RING_OFFSET);
        let mut region = Region::new(space, REGION_BASE);
        let whole = sample(&linux, &mut region).expect("nothing is sampled yet");
        assert_eq!(whole, linux.region.image.pixels(region.last_frame_id()));
        let before = sample_all(&linux, level, ring, abi::REGION_BYTES - abi::RING_OFFSET);
        assert!(!before.is_empty());
        // The processor's view: not there. Linux's: there, with rights that only the kernel knows.
        let walker = PageWalker::new(ram, space);
        for (gva, entry) in [before[0], *before.last().unwrap()] {
            let bare = PageWalker::new(ram, linux.region.space.space()).translate(gva);
            assert!(matches!(bare, Err(WalkError { kind: WalkErrorKind::NotMapped { .. }, .. })), "{bare:?}");
            assert_eq!(walker.translate(gva).unwrap().gpa, Gpa::new(entry & 0x000f_ffff_ffff_f000));
            let needing = walker.needing(Rights::USER).translate(gva);
            assert!(matches!(needing, Err(WalkError { kind: WalkErrorKind::RightsUnknown { .. }, .. })), "{needing:?}");
            assert!(walker.needing(Rights::USER).taking_unknown_rights().translate(gva).is_ok());
            // A page in the middle of a large one is its own.
            let inside = if level == Level::Pd { 0x12_3000 } else { 0 };
            let middle = walker.translate(gva.wrapping_add(inside + 5)).unwrap();
            assert_eq!(middle.gpa, Gpa::new((entry & 0x000f_ffff_ffff_f000) + inside + 5));
        }
        assert!(probe(ram, &space, REGION_BASE).is_ok(), "{placement:?}: a ring page proves nothing");
        region.forget_frames();
        assert_eq!(sample(&linux, &mut region).as_ref(), Some(&whole), "{placement:?}");
        let (found, _) = scan(ram, These::new(vec![space]), 100_000, 4, words(RAM));
        assert_eq!(found.len(), 1, "{placement:?}");
        restore(&linux, level, &before);
    }
}

#[test]
fn a_first_page_whose_use_is_sampled_is_a_matter_of_trying_again() {
    let (linux, space) = guest(Placement::Scattered);
    let ram = &linux.guest.ram;
    let mut region = Region::new(space, REGION_BASE);
    let Ok(Sample::Fresh(pulse)) = region.read_pulse(ram) else { panic!("it is there") };
    for offset in [abi::PRODUCER_OFFSET, abi::CONTROL_OFFSET] {
        let page = REGION_BASE.wrapping_add(offset);
        let before = sample_all(&linux, Level::Pt, page, 4096);
        let refused = probe(ram, &space, REGION_BASE);
        assert!(
            matches!(refused, Err(NoRegion::Page(WalkError { kind: WalkErrorKind::RightsUnknown { .. }, .. }))),
            "{offset:#x}: {refused:?}"
        );
        let (found, stats) = scan(ram, These::new(vec![space]), 100_000, 4, words(RAM));
        assert!(found.is_empty());
        assert!(stats.undecided > 0, "{offset:#x}: neither a candidate nor refused: {stats:?}");
        if offset == abi::PRODUCER_OFFSET {
            assert_eq!(region.read_pulse(ram), Ok(Sample::Skip(Skip::Sampled)));
            assert_eq!(sample(&linux, &mut region), None);
            assert_eq!(
                region.confirm_alive(ram, pulse).map(|alive| format!("{alive:?}")),
                Ok("Unclear(Sampled)".into())
            );
        }
        restore(&linux, Level::Pt, &before);
        assert_eq!(region.read_pulse(ram), Ok(Sample::Fresh(pulse)), "the same handle goes on");
        assert!(probe(ram, &space, REGION_BASE).is_ok());
    }
}

#[test]
fn what_was_swapped_is_not_resident() {
    let (linux, space) = guest(Placement::Scattered);
    let ram = &linux.guest.ram;
    let ring = REGION_BASE.wrapping_add(abi::RING_OFFSET);
    for offset in [0, 1, 0x12_3456, (1 << 40) - 1] {
        let entry = swapped(offset);
        assert_eq!(entry & 0x181, 0);
        for level in [Level::Pt, Level::Pd] {
            let before = linux.guest.entry(linux.region.space, level, ring).unwrap();
            linux.guest.set_entry(linux.region.space, level, ring, entry);
            let found = PageWalker::new(ram, space).translate(ring);
            assert!(
                matches!(found, Err(WalkError { kind: WalkErrorKind::NotResident { .. }, .. })),
                "{level} {offset:#x}: {found:?}"
            );
            linux.guest.set_entry(linux.region.space, level, ring, before);
        }
    }
    // An inverted number that is no RAM is no page, and nothing of the kernel half is sampled.
    let before = linux.guest.entry(linux.region.space, Level::Pt, ring).unwrap();
    linux.guest.set_entry(linux.region.space, Level::Pt, ring, sampled(0x000f_0000_0000_0067));
    let found = PageWalker::new(ram, space).translate(ring);
    assert!(matches!(found, Err(WalkError { kind: WalkErrorKind::NotResident { .. }, .. })), "{found:?}");
    linux.guest.set_entry(linux.region.space, Level::Pt, ring, before);
}

/// Tables that were freed hold anything: what reads like a large page that is not RAM is passed over an entry at a
/// time.
#[test]
fn a_garbage_directory_is_passed_over_entry_by_entry() {
    let (linux, space) = guest(Placement::Scattered);
    let mut builder = linux.guest.clone();
    for (level, span) in [(Level::Pdpt, 39), (Level::Pd, 30)] {
        let start = Gva::new(0x3000_0000_0000);
        let table = builder.make_tables(linux.region.space, level, start, true);
        for n in 0..512_u64 {
            // A page number far beyond RAM, inverted as Linux has it, with the bit of a large page.
            let entry = (!(0x7_0000_0000_0000 | n << 30) & 0x000f_ffff_ffff_f000) | 0x80;
            builder.ram.write_u64(table.wrapping_add(n * 8), entry);
        }
        let mem = Counting::new(&builder.ram);
        let walker = PageWalker::new(&mem, space);
        let mut cursor = LeafCursor::new(start, start.wrapping_add(1 << span));
        let mut skipped = 0;
        loop {
            match walker.next_leaf(&mut cursor, &mut Budget::unlimited()) {
                LeafStep::Skipped(_) => skipped += 1,
                LeafStep::Done => break,
                step => panic!("{step:?}"),
            }
        }
        let loads = mem.take().accesses();
        assert_eq!(skipped, 512, "at {level:?}");
        assert!(loads < 600, "{loads} loads for one table at {level:?}");
        builder.set_entry(linux.region.space, Level::Pml4, start, 0);
    }
}
