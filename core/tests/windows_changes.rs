//! A Windows guest that is written while it is read: whatever two readings of one place give, work stays bounded and
//! nothing panics; and pages that go away are errors.

use vgpu_perception::process::nt::{KernelSearch, NtKernel, RootBy};
use vgpu_perception::process::roots::RootCandidate;
use vgpu_perception::{Budget, PAGE_BYTES, PageWalker, PhysRead, Step, WalkErrorKind};
use vgpu_perception_testkit::windows::{EntryState, Layout, Options, Shape, WindowsGuest};
use vgpu_perception_testkit::{Counting, Flaky, Mutating};

const NAMES: [&str; 4] = ["2003 SP1", "8", "10 1903", "11 24H2"];

/// Finds the kernel, lists its processes, and translates some of the region in each. Gives what was found, and the
/// loads.
fn chain<M: PhysRead>(mem: &Counting<M>, windows: &WindowsGuest) -> (Option<NtKernel>, usize, u64) {
    let mut scratch = vec![RootCandidate::default(); 64];
    let mut search = KernelSearch::new(None, &mut scratch);
    let kernel = loop {
        match search.step(mem, &mut Budget::new(1 << 18)).unwrap() {
            Step::Found(kernel) => break Some(kernel),
            Step::Pending => {}
            Step::Done => break None,
        }
    };
    let mut count = 0;
    if let Some(kernel) = &kernel {
        let _ = kernel.revalidate(mem);
        let mut list = kernel.processes();
        loop {
            let one = match list.step(mem, &mut Budget::new(1 << 18)).unwrap() {
                Step::Found(one) => one,
                Step::Pending => continue,
                Step::Done => break,
            };
            count += 1;
            if one.root != RootBy::Nothing {
                let walker = PageWalker::new(mem, one.process.space);
                for page in &windows.truth.shared.pages {
                    let _ = walker.translate(windows.truth.shared.region.base.wrapping_add(page.index * PAGE_BYTES));
                }
            }
        }
    }
    (kernel, count, mem.counts().accesses())
}

#[test]
fn answers_that_change_are_survived() {
    let (mut found, mut lost) = (0, 0);
    for name in NAMES {
        let windows = WindowsGuest::build(&Layout::named(name), Shape::FourLevel, Options::default());
        for every in [1, 20, 1000, 100_000] {
            for seed in 0..6 {
                let mem = Counting::new(Mutating::new(&windows.ram, seed, every));
                let (kernel, count, loads) = chain(&mem, &windows);
                assert!(loads < 1 << 28, "{name}, one in {every}, seed {seed}: {loads} loads");
                assert!(count <= 1 << 16);
                *(if kernel.is_some() { &mut found } else { &mut lost }) += 1;
            }
        }
    }
    assert!(found > 10 && lost > 10, "{found} kernels were found, {lost} not: neither is tested");
}

/// Memory that was taken from the guest: an error that names it, not a page of zeros, and not another page.
#[test]
fn what_leads_to_a_page_may_be_gone() {
    for name in ["7 SP1", "10 2004"] {
        let windows = WindowsGuest::build(&Layout::named(name), Shape::FourLevel, Options::default());
        let kernel = NtKernel::attach(&windows.ram, windows.truth.kcr3, None).unwrap();
        let agent = &windows.truth.processes[windows.truth.producer];
        let mut list = kernel.processes();
        let space = loop {
            match list.step(&windows.ram, &mut Budget::unlimited()).unwrap() {
                Step::Found(one) if one.process.eprocess == Some(agent.eprocess) => break one.process.space,
                Step::Found(_) | Step::Pending => {}
                Step::Done => panic!("the producer is on the list"),
            }
        };
        let shared = &windows.truth.shared;
        let page = shared.pages.iter().find(|page| page.state.entry == EntryState::Direct).unwrap();
        let gva = shared.region.base.wrapping_add(page.index * PAGE_BYTES);
        let prototype = windows.guest.gpa(windows.kernel.space, shared.section.prototype(page.index));
        assert_eq!(PageWalker::new(&windows.ram, space).translate(gva).unwrap().gpa, page.frame.unwrap());
        let gone = Flaky::new(&windows.ram, [prototype]);
        let error = PageWalker::new(&gone, space).translate(gva).unwrap_err();
        assert!(
            matches!(error.kind, WalkErrorKind::Table { error, .. } if error.gpa.get() >> 12 == prototype.get() >> 12),
            "{error:?}"
        );
        // The object is gone: there is no list to read, and no panic either.
        let gone = Flaky::new(&windows.ram, [windows.field(&windows.truth.processes[0], 0)]);
        kernel.revalidate(&gone).unwrap_err();
        let mut list = kernel.processes();
        while let Step::Found(_) = list.step(&gone, &mut Budget::unlimited()).unwrap() {}
    }
}
