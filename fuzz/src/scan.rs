//! The structural scan over a guest that lies anywhere: bounded, and every candidate stands up to a second look.

use arbitrary::{Result, Unstructured};
use vgpu_perception::process::roots::KernelHalf;
use vgpu_perception::scan::{Discovery, ScanScratch, probe};
use vgpu_perception::{Budget, Process, Step};
use vgpu_perception_testkit::{Counting, naive};

use crate::guest::{Lie, Small, rest};

/// See [`crate`].
pub fn scan(data: &[u8]) {
    let _ = run(&mut Unstructured::new(data));
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let small = Small::build(u)?;
    let (budget, batch, words) = (u.int_in_range(1..=5000)?, u.int_in_range(1..=8)?, u.int_in_range(0..=8)?);
    let truth = u.arbitrary::<bool>()?;
    if !truth {
        for lie in rest::<Lie>(u, 64)? {
            lie.tell(&small.guest.ram);
        }
    }
    let ram = Counting::new(&small.guest.ram);
    let mut processes = vec![Process::default(); batch];
    let mut frames = vec![u64::MAX; words];
    let scratch = ScanScratch { processes: &mut processes, page_bitmap: &mut frames };
    let mut scan = Discovery::new(KernelHalf::new(small.space()), scratch);
    let mut found = 0_u64;
    // 256 pages can be as many roots, each with as many tables, each walked four times; and a tail of probes.
    let mut steps = 0_u64;
    loop {
        steps += 1;
        assert!(ram.counts().accesses() < 1 << 31, "the scan does not end: {:?}", scan.stats());
        match scan.step(&ram, &mut Budget::new(budget)).expect("the map of RAM can be read") {
            Step::Done => break,
            Step::Pending => {
                if steps > 20_000 {
                    return Ok(());
                }
            }
            Step::Found(candidate) => {
                found += 1;
                let space = candidate.process.space;
                let again = probe(&small.guest.ram, &space, candidate.base);
                assert_eq!(again, Ok(candidate.found), "nothing changed, and it is no region any more");
                let levels = if space.mode == vgpu_perception::PagingMode::FiveLevel { 5 } else { 4 };
                let plain = naive::NaiveSpace { cr3: space.root.get(), levels, phys_bits: 52 };
                let page = naive::translate(&small.guest.ram, plain, candidate.base.get()).expect("it is mapped");
                assert!(page.user && page.writable && page.gpa == candidate.found.page.get());
                if found > 200 {
                    return Ok(());
                }
            }
        }
    }
    assert!(!truth || found > 0, "an honest region was not found: {:?}", scan.stats());
    Ok(())
}
