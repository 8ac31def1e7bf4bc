//! Where QEMU's guest has RAM: the answer to `info mtree -f`, parsed.
//!
//! Firmware, overlays and device pages cut a block of RAM into many runs. Runs of one block that lie equally far from
//! their place in the block are one stretch: what lies between them is the block's too, only that the guest sees a ROM
//! or a device there.

use vgpu_perception::Gpa;

/// A stretch of guest physical memory that shows one block of QEMU's, without a break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamStretch {
    /// What QEMU calls the block.
    pub name: String,
    /// The first guest physical byte.
    pub gpa: Gpa,
    /// Its length in bytes.
    pub len: u64,
    /// Where in the block it starts, in bytes.
    pub offset: u64,
}

/// The most stretches that are taken: machines have one to three, and one for each memory device.
pub const MAX_STRETCHES: usize = 1024;

/// The RAM that processors see, ascending: blocks whose name `is_ram` accepts. Empty where the text has none.
///
/// Blocks inside a device's window (ivshmem, video memory) are no RAM: QEMU gives those a priority of their own.
pub fn ram(tree: &str, is_ram: impl Fn(&str) -> bool) -> Vec<RamStretch> {
    let mut found: Vec<RamStretch> = Vec::new();
    let mut of_processors = false;
    for line in tree.lines() {
        if line.starts_with("FlatView") {
            if of_processors && !found.is_empty() {
                break;
            }
            of_processors = false;
        }
        // ` AS "memory", root: system` names the view that the processors see.
        of_processors |= line.contains("AS \"memory\"") || line.contains("Root memory region: system");
        if !of_processors {
            continue;
        }
        let Some(run) = run(line).filter(|run| is_ram(&run.name)) else { continue };
        let distance = |at: &RamStretch| at.gpa.get().wrapping_sub(at.offset);
        if let Some(last) =
            found.iter_mut().rev().find(|last| last.name == run.name && distance(last) == distance(&run))
        {
            if run.gpa >= last.gpa {
                last.len = last.len.max(run.gpa.get() - last.gpa.get() + run.len);
            }
        } else if found.len() < MAX_STRETCHES {
            found.push(run);
        }
    }
    if let Some(first) = found.first_mut()
        && first.gpa.get() == first.offset
    {
        // Low RAM starts at 0 even where its first page shows something else.
        first.len += first.offset;
        first.gpa = Gpa::new(0);
        first.offset = 0;
    }
    found
}

/// `  0000000100000000-000000013fffffff (prio 0, ram): pc.ram @0000000080000000 KVM`
fn run(line: &str) -> Option<RamStretch> {
    let (range, rest) = line.trim().split_once(" (prio ")?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (hex(start)?, hex(end)?);
    let (rights, rest) = rest.split_once("): ")?;
    // An nvdimm is `nv-ram`.
    if !matches!(rights, "0, ram" | "0, nv-ram") {
        return None;
    }
    // A name may hold spaces: what follows it is `@offset`, `KVM`, or nothing.
    let (name, offset) = match rest.rsplit_once(" @") {
        Some((name, after)) => (name, hex(after.split_whitespace().next()?)?),
        None => (rest.strip_suffix(" KVM").unwrap_or(rest), 0),
    };
    let len = end.checked_sub(start)?.checked_add(1)?;
    // Nothing past what a page table can name; then no sum of these overflows.
    let fits = |at: u64| at.checked_add(len).is_some_and(|end| end <= 1 << 52);
    (fits(start) && fits(offset)).then(|| RamStretch {
        name: name.trim().to_owned(),
        gpa: Gpa::new(start),
        len,
        offset,
    })
}

fn hex(text: &str) -> Option<u64> {
    if text.starts_with('+') { None } else { u64::from_str_radix(text, 16).ok() }
}

/// The host address in the answer to `gpa2hva`: `Host virtual address for 0x0 (pc.ram) is 0x7fb47fe00000`, with the
/// name of the block it lies in.
#[must_use]
pub fn host_address(answer: &str) -> Option<(&str, u64)> {
    let rest = answer.trim().strip_prefix("Host virtual address for 0x")?;
    let (_, rest) = rest.split_once(" (")?;
    let (name, address) = rest.rsplit_once(") is 0x")?;
    Some((name, hex(address.trim())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "\
FlatView #0
 AS \"I/O\", root: io
 Root memory region: io
  0000000000000000-0000000000000007 (prio 0, i/o): dma-chan

FlatView #1
 AS \"memory\", root: system
 AS \"cpu-memory-0\", root: system
 Root memory region: system
  0000000000000000-00000000000c2fff (prio 0, ram): n0
  00000000000c3000-00000000000e7fff (prio 0, rom): n0 @00000000000c3000
  0000000000100000-0000000000102fff (prio 0, ram): n0 @0000000000100000 KVM
  0000000000103000-0000000000103fff (prio 0, ram): synic-0-msg-page KVM
  0000000000104000-000000003fffffff (prio 0, ram): n0 @0000000000104000 KVM
  0000000040000000-000000007fffffff (prio 0, ram): n1 KVM
  00000000fd000000-00000000fdffffff (prio 1, ram): iv
  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
  0000000100000000-000000013fffffff (prio 0, ram): n1 @0000000040000000
  0000000140000000-000000014fffffff (prio 0, ram): d0
  0000000150000000-0000000157ffffff (prio 0, nv-ram): nv

FlatView #2
 AS \"cpu-smm-0\", root: memory
  0000000000000000-00000000000bffff (prio 0, ram): n0
";

    fn stretch(name: &str, gpa: u64, len: u64, offset: u64) -> RamStretch {
        RamStretch { name: name.to_owned(), gpa: Gpa::new(gpa), len, offset }
    }

    #[test]
    fn several_blocks_on_both_sides_of_the_hole() {
        let names = ["n0", "n1", "d0", "iv", "nv"];
        let found = ram(TREE, |name| names.contains(&name));
        let gib = 1 << 30;
        assert_eq!(
            found,
            [
                stretch("n0", 0, gib, 0),
                stretch("n1", gib, gib, 0),
                stretch("n1", 4 * gib, gib, gib),
                stretch("d0", 5 * gib, 256 << 20, 0),
                stretch("nv", 5 * gib + (256 << 20), 128 << 20, 0),
            ]
        );
        assert_eq!(ram(TREE, |name| name == "other"), []);
        assert_eq!(ram("FlatView #0\n AS \"memory\", root: system\n", |_| true), []);
    }

    #[test]
    fn low_ram_starts_at_0() {
        let tree =
            "AS \"memory\"\n  0000000000001000-000000000fffffff (prio 0, ram): /objects/a b @0000000000001000 KVM\n";
        assert_eq!(ram(tree, |_| true), [stretch("/objects/a b", 0, 256 << 20, 0)]);
    }

    #[test]
    fn host_addresses() {
        let text = "Host virtual address for 0x40000000 (a (b) c) is 0x7f3d3bffe000\r\n";
        assert_eq!(host_address(text), Some(("a (b) c", 0x7f3d_3bff_e000)));
        assert_eq!(host_address("No memory is mapped at address 0x180000000\r\n"), None);
    }
}
