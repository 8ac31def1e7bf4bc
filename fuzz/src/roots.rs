//! Roots from one, and from none, in RAM that is full of lies.

use std::collections::BTreeSet;

use arbitrary::{Result, Unstructured};
use vgpu_perception::process::roots::{KernelHalf, RootCandidate, RootElection, guess_mode};
use vgpu_perception::{Budget, PhysRead, ProcessSource, Step};
use vgpu_perception_testkit::Counting;

use crate::guest::{Lie, RAM, Small, rest};

/// See [`crate`].
pub fn roots(data: &[u8]) {
    let _ = run(&mut Unstructured::new(data));
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let small = Small::build(u)?;
    let budget = u.int_in_range(1..=2000)?;
    let room = u.int_in_range(0..=16)?;
    let truth = u.arbitrary::<bool>()?;
    for lie in rest::<Lie>(u, if truth { 0 } else { 200 })? {
        lie.tell(&small.guest.ram);
    }
    let ram = Counting::new(&small.guest.ram);
    let root = small.space().root;
    let pages = RAM >> 12;
    let checked = KernelHalf::check(&ram, &small.space());
    let from_one = all(&ram, KernelHalf::new(small.space()), budget, pages * 2600);
    if truth {
        assert_eq!(checked, Ok(()));
        assert!(from_one.contains(&root.get()), "the reference shares its own kernel half");
    }
    let mut scratch = vec![RootCandidate::default(); room];
    let from_none = all(&ram, RootElection::new(None, &mut scratch), budget, pages * 12_000 + 1_000_000);
    assert!(!truth || room < 2 || from_none.contains(&root.get()), "{from_none:x?}");
    let before = ram.counts().accesses();
    let _ = guess_mode(&ram, root);
    assert!(ram.counts().accesses() - before <= 2 * 1024 * 5);
    Ok(())
}

fn all<M: PhysRead, S: ProcessSource>(ram: &Counting<M>, mut source: S, budget: u64, bound: u64) -> BTreeSet<u64> {
    let before = ram.counts().accesses();
    let mut found = BTreeSet::new();
    loop {
        assert!(ram.counts().accesses() - before <= bound, "{} loads", ram.counts().accesses() - before);
        match source.next_process(ram, &mut Budget::new(budget)).expect("the map of RAM can be read") {
            Step::Found(process) => {
                assert!(found.insert(process.space.root.get()), "a root twice");
                assert!(process.space.root.get() < RAM);
            }
            Step::Pending => {}
            Step::Done => return found,
        }
    }
}
