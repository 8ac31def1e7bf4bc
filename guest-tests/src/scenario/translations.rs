//! Every page of every process, compared with QEMU's own page walker, and with memflow's.

use core::time::Duration;
use std::collections::BTreeMap;
use std::time::Instant;

use memflow::architecture::x86::x64;
use memflow::connector::{CloneFile, FileIoMemory};
use memflow::mem::{MemoryMap, VirtualTranslate3 as _};
use memflow::types::Address;
use serde_json::json;
use vgpu_perception::paging::{LeafCursor, LeafStep};
use vgpu_perception::process::roots::KernelHalf;
use vgpu_perception::{
    AddressSpace, Budget, Gva, PAGE_BYTES, PageSize, PageWalker, PagingMode, PhysRead, ProcessSource as _, Step,
    WalkError, WalkErrorKind,
};
use vgpu_perception_guest_tests::{Guest, Options, Qmp, Result};

use super::ensure;

/// Pages of one process: more than any has here.
const USER_PAGES: usize = 1 << 20;
/// Pages of the kernel half that are compared; it has more than is worth the time.
const KERNEL_PAGES: usize = 20_000;

/// What was compared.
#[derive(Debug, Default)]
struct Tally {
    /// Pages by size in bytes.
    pages: BTreeMap<u64, u64>,
    /// Addresses that neither side maps.
    holes: u64,
}

/// Four levels, then five with two roots a process.
pub(crate) fn run() -> Result<()> {
    compare(Options::PC)?;
    compare(super::life::LA57)
}

fn compare(options: Options) -> Result<()> {
    let begun = Instant::now();
    let mut guest = Guest::boot(options)?;
    guest.start_producer("--width 640 --height 360 --fps 30")?;
    // Three frames, so that the whole ring is there.
    std::thread::sleep(Duration::from_millis(500));
    let ram = guest.ram()?;
    guest.qmp().execute("stop", &json!({}))?;
    let reference = guest.space()?;
    let roots = roots(&ram, &reference)?;
    let mut gdb = guest.debugger()?;

    if reference.mode == PagingMode::FourLevel {
        let agreed = against_memflow(&guest, &ram, &roots)?;
        println!("figure: translations, memflow: {agreed:?}");
        ensure!(agreed.same > 1000, "that is too little to be a guest");
    }
    let mut user = Tally::default();
    let mut now = reference.root.get();
    for space in &roots {
        gdb.set_cr3(now, space.root.get())?;
        now = space.root.get();
        ensure!(guest.qmp().register("CR3")? == now, "CR3 is not what it was set to");
        walk(&ram, guest.qmp(), space, (Gva::new(0), space.mode.user_end()), USER_PAGES, &mut user)?;
    }
    gdb.set_cr3(now, reference.root.get())?;
    let mut kernel = Tally::default();
    let upper = Gva::new(0_u64.wrapping_sub(reference.mode.user_end().get()));
    walk(&ram, guest.qmp(), &reference, (upper, Gva::new(u64::MAX)), KERNEL_PAGES, &mut kernel)?;
    println!("figure: translations, {:?}: {} roots, user {user:?}, kernel {kernel:?}", reference.mode, roots.len());
    ensure!(user.pages.values().sum::<u64>() > 1000 && roots.len() >= 5, "that is too little to be a guest");

    // The guest has noticed nothing.
    drop(gdb);
    guest.qmp().execute("cont", &json!({}))?;
    guest.send("ping after")?;
    guest.wait_for("pong after")?;
    println!("  the same as QEMU's walker in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// How memflow's translations compare.
#[derive(Debug, Default)]
struct Agreed {
    same: u64,
    /// The PAT bit of a large page's entry, bit 12, which memflow takes for a part of the address.
    pat: u64,
}

/// Each page of the user halves by the walker of memflow, which knows four levels, over the RAM file.
fn against_memflow(guest: &Guest, ram: &impl PhysRead, roots: &[AddressSpace]) -> Result<Agreed> {
    let mut map = MemoryMap::new();
    for segment in guest.segments()?.segments() {
        map.push_remap(Address::from(segment.gpa.get()), segment.len, Address::from(segment.offset));
    }
    let file = CloneFile::from(std::fs::File::open(guest.ram_path())?);
    let mut memory = FileIoMemory::with_mem_map(file, map)?;
    let mut agreed = Agreed::default();
    for space in roots {
        let walker = PageWalker::new(ram, *space);
        let theirs = x64::new_translator(Address::from(space.root.table().get()));
        let mut cursor = LeafCursor::new(Gva::new(0), space.mode.user_end());
        loop {
            let leaf = match walker.next_leaf(&mut cursor, &mut Budget::unlimited()) {
                LeafStep::Leaf(leaf) => leaf,
                LeafStep::Skipped(error) => return Err(format!("{}: {error}", space.root).into()),
                LeafStep::Table(_) | LeafStep::Pending => continue,
                LeafStep::Done => break,
            };
            let gva = leaf.gva.wrapping_add(leaf.size.bytes() / 2 + 24);
            let ours = walker.translate(gva)?.gpa.get();
            let theirs = theirs.virt_to_phys(&mut memory, Address::from(gva.get()))?.address().to_umem();
            let differ = ours ^ theirs;
            if differ == 0 {
                agreed.same += 1;
            } else {
                ensure!(
                    leaf.size != PageSize::Size4K && differ == 1 << 12,
                    "{} {gva}: {ours:#x} by us, {theirs:#x} by memflow",
                    space.root
                );
                agreed.pat += 1;
            }
        }
    }
    Ok(agreed)
}

/// All roots, of user mode too.
fn roots(ram: &impl PhysRead, reference: &AddressSpace) -> Result<Vec<AddressSpace>> {
    let mut source = KernelHalf::new(*reference);
    let mut spaces = Vec::new();
    loop {
        match source.next_process(ram, &mut Budget::unlimited())? {
            Step::Found(process) => {
                spaces.push(process.space);
                spaces.extend(process.user_root.map(|root| process.space.at_root(root)));
            }
            Step::Pending => {}
            Step::Done => return Ok(spaces),
        }
    }
}

/// Each page by a word in it, large ones by their first and last too, and the address behind it where that is not
/// mapped.
fn walk(
    ram: &impl PhysRead,
    qmp: &mut Qmp,
    space: &AddressSpace,
    (start, end): (Gva, Gva),
    most: usize,
    tally: &mut Tally,
) -> Result<()> {
    let walker = PageWalker::new(ram, *space);
    let mut cursor = LeafCursor::new(start, end);
    let mut expected: Vec<(Gva, Option<u64>)> = Vec::new();
    for _ in 0..most {
        let leaf = match walker.next_leaf(&mut cursor, &mut Budget::unlimited()) {
            LeafStep::Leaf(leaf) => leaf,
            LeafStep::Skipped(error) => return Err(format!("{}: {error}", space.root).into()),
            LeafStep::Table(_) | LeafStep::Pending => continue,
            LeafStep::Done => break,
        };
        let bytes = leaf.size.bytes();
        let words = [bytes / 2 + 24, 0, bytes - 8];
        for skip in words.into_iter().take(if bytes > PAGE_BYTES { 3 } else { 1 }) {
            let (gva, gpa) = (leaf.gva.wrapping_add(skip), leaf.gpa.wrapping_add(skip));
            let ours = walker.translate(gva)?;
            ensure!(ours.gpa == gpa, "{} {gva}: {gpa} by the enumeration, {} by translation", space.root, ours.gpa);
            expected.push((gva, Some(gpa.get())));
        }
        *tally.pages.entry(bytes).or_default() += 1;
        let behind = leaf.gva.wrapping_add(bytes);
        if behind > leaf.gva
            && behind < end
            && matches!(walker.translate(behind), Err(WalkError { kind: WalkErrorKind::NotMapped { .. }, .. }))
        {
            expected.push((behind, None));
            tally.holes += 1;
        }
    }
    let questions: Vec<u64> = expected.iter().map(|(gva, _)| gva.get()).collect();
    for ((gva, ours), theirs) in expected.into_iter().zip(qmp.gva2gpa_each(&questions)?) {
        ensure!(ours == theirs, "{} {gva}: {ours:x?} by us, {theirs:x?} by QEMU", space.root);
    }
    Ok(())
}
