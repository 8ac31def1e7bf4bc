//! Memory that is read in batches gives what any other gives, in far fewer calls.

mod common;

use common::batched::Batched;
use vgpu_perception::process::guest::{GuestKernel, GuestSearch};
use vgpu_perception::process::roots::{KernelHalf, RootCandidate, RootElection};
use vgpu_perception::region::FrameScratch;
use vgpu_perception::{AddressSpace, Budget, Cr3, Gpa, NextUse, PhysRead, ProcessSource, Step};
use vgpu_perception_testkit::windows::{LAYOUTS, Options, Shape, StartBlock, WindowsGuest};
use vgpu_perception_testkit::{LinuxOptions, candidates, standard_linux};

fn all<S: ProcessSource>(mem: &impl PhysRead, mut source: S, budget: u64) -> Vec<(Cr3, Option<Cr3>)> {
    let mut found = Vec::new();
    loop {
        match source.next_process(mem, &mut Budget::new(budget)).unwrap() {
            Step::Found(process) => found.push((process.space.root, process.user_root)),
            Step::Pending => {}
            Step::Done => return found,
        }
    }
}

#[test]
fn roots_and_candidates_are_the_same() {
    for kpti in [false, true] {
        let linux = standard_linux(LinuxOptions { kpti, ..LinuxOptions::default() });
        let ram = &linux.guest.ram;
        let reference = AddressSpace::new(Cr3::new(linux.kernel.init.root.get()));
        let batched = Batched::new(ram);
        for budget in [1, 100, u64::MAX] {
            let roots = all(&batched, KernelHalf::new(reference), budget);
            assert!(roots.len() > 5 && roots == all(ram, KernelHalf::new(reference), budget), "{roots:?}");
            let elect = |scratch: usize, batched: Option<&Batched<'_>>| {
                let mut kept = vec![RootCandidate::default(); scratch];
                match batched {
                    Some(mem) => all(mem, RootElection::new(None, &mut kept), budget),
                    None => all(ram, RootElection::new(None, &mut kept), budget),
                }
            };
            for scratch in [3, 4096] {
                assert_eq!(elect(scratch, Some(&batched)), elect(scratch, None), "scratch for {scratch}");
            }
        }
        let expected = candidates(ram, KernelHalf::new(reference));
        assert!(expected.len() >= 2, "{expected:?}");
        assert_eq!(candidates(&batched, KernelHalf::new(reference)), expected);
    }
}

fn search(mem: &impl PhysRead) -> Option<GuestKernel> {
    let mut scratch = vec![RootCandidate::default(); RootElection::CANDIDATES];
    let mut search = GuestSearch::new(None, &mut scratch);
    loop {
        match search.step(mem, &mut Budget::new(1 << 14)).unwrap() {
            Step::Found(kernel) => return Some(kernel),
            Step::Pending => {}
            Step::Done => return None,
        }
    }
}

#[test]
fn a_windows_kernel_is_the_same() {
    for start_block in [StartBlock::System, StartBlock::Missing] {
        let options = Options { start_block, ..Options::default() };
        let windows = WindowsGuest::build(&LAYOUTS[0], Shape::FourLevel, options);
        let expected = search(&windows.ram);
        assert!(matches!(expected, Some(GuestKernel::Nt(_))), "{start_block:?}: {expected:?}");
        assert_eq!(search(&Batched::new(&windows.ram)), expected);
    }
}

#[test]
fn passes_take_a_call_for_many_pages() {
    let linux = standard_linux(LinuxOptions::default());
    let ram = &linux.guest.ram;
    let pages = ram.present_pages().count() as u64;
    let reference = AddressSpace::new(Cr3::new(linux.kernel.init.root.get()));
    let batched = Batched::new(ram);
    let roots = all(&batched, KernelHalf::new(reference), u64::MAX);
    // Whole tables for each root that passes, and 64 pages a call where they lie together.
    let calls = batched.calls.get();
    assert!(calls < pages / 4 + roots.len() as u64 * 600, "{calls} calls for {pages} pages and {} roots", roots.len());
}

#[test]
fn a_page_that_is_gone_hides_no_other() {
    let linux = standard_linux(LinuxOptions::default());
    let ram = &linux.guest.ram;
    let reference = AddressSpace::new(Cr3::new(linux.kernel.init.root.get()));
    let expected = all(ram, KernelHalf::new(reference), u64::MAX);
    // Every third page, roots among them, but not the one that the others are measured by.
    let is_gone = |page: &Gpa| page.get().is_multiple_of(0x3000) && *page != reference.root.table();
    let gone: Vec<Gpa> = ram.present_pages().filter(is_gone).collect();
    let batched = Batched { gone: &gone, ..Batched::new(ram) };
    let roots = |list: Vec<(Cr3, Option<Cr3>)>| list.iter().map(|(root, _)| *root).collect::<Vec<_>>();
    let found = roots(all(&batched, KernelHalf::new(reference), u64::MAX));
    let kept: Vec<Cr3> = roots(expected).into_iter().filter(|root| !gone.contains(&root.table())).collect();
    assert!(!kept.is_empty() && found == kept, "{found:?}");
}

#[test]
fn a_frame_takes_a_call_a_table() {
    let linux = standard_linux(LinuxOptions::default());
    let ram = &linux.guest.ram;
    let batched = Batched::new(ram);
    let space = AddressSpace::new(Cr3::new(linux.region.space.root.get()));
    let mut region = vgpu_perception::Region::new(space, linux.region.base);
    let mut pixels = vec![0; 64 * 48 * 4];
    let frame = region.sample_frame(&batched, &mut FrameScratch::new(), &mut pixels, NextUse::Unknown).unwrap();
    let frame = frame.fresh().unwrap();
    assert!(pixels == linux.region.image.pixels(frame.desc.frame_id));
    assert!(batched.calls.get() < 80, "{} calls", batched.calls.get());
}
