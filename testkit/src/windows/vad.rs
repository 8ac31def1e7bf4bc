//! The tree of virtual address descriptors of a process.

use vgpu_perception::{Gva, PAGE_BYTES};

use crate::builder::GuestBuilder;

use super::kernel::Kernel;
use super::layout::{Layout, VadShape};
use super::section::Section;

/// A range of a process's addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range<'s> {
    /// Its first address.
    pub start: Gva,
    /// Its length, whole pages.
    pub len: u64,
    /// What it maps; private memory where there is none.
    pub section: Option<&'s Section>,
}

/// Bytes of a descriptor of either kind.
const NODE: usize = 0x90;

/// Writes the tree into the nonpaged pool. Gives the bytes of the process's root field, and a node for the hint.
pub(super) fn build(
    guest: &mut GuestBuilder,
    kernel: &mut Kernel,
    layout: &Layout,
    ranges: &mut [Range<'_>],
    root_at: Gva,
) -> (Vec<u8>, u64) {
    ranges.sort_by_key(|range| range.start);
    let shape = layout.vad;
    let nodes: Vec<u64> = ranges.iter().map(|_| kernel.nonpaged.take(guest, 0xa0, 0x10).get() + 0x10).collect();
    let tree = Tree { guest, kernel, shape, ranges, nodes: &nodes, growth: layout.descriptor_growth() };
    let embedded = shape != VadShape::Win81;
    let (root, depth) = tree.write(0, nodes.len(), if embedded { root_at.get() } else { 0 });
    // The node that was looked up last: the root in a process of one range, and now and then in others.
    let hint = if root_at.get() >> 6 & 3 == 0 { root } else { nodes.last().copied().unwrap_or(root) };
    if !embedded {
        return (root.to_le_bytes().to_vec(), hint);
    }
    // A table: its first node is the field itself, which is its own parent and has the tree on its right.
    let mut field = Vec::new();
    let count = (nodes.len() as u64) << 8 | depth;
    let rest = if shape == VadShape::Win8 { [count, root, root, 0] } else { [0, 0, count, root] };
    for word in [root_at.get(), 0, root].into_iter().chain(rest) {
        field.extend(word.to_le_bytes());
    }
    (field, hint)
}

struct Tree<'t> {
    guest: &'t GuestBuilder,
    kernel: &'t Kernel,
    shape: VadShape,
    ranges: &'t [Range<'t>],
    nodes: &'t [u64],
    growth: usize,
}

impl Tree<'_> {
    /// Writes the balanced tree over `from..to`; gives its root and depth.
    fn write(&self, from: usize, to: usize, parent: u64) -> (u64, u64) {
        if from == to {
            return (0, 0);
        }
        let middle = from.midpoint(to);
        let at = self.nodes[middle];
        let (left, left_depth) = self.write(from, middle, at);
        let (right, right_depth) = self.write(middle + 1, to, at);
        let node = self.node(&self.ranges[middle], left, right, parent);
        self.guest.write(self.kernel.space, Gva::new(at), &node);
        self.guest.write(self.kernel.space, Gva::new(at - 12), b"Vad ");
        (at, 1 + left_depth.max(right_depth))
    }

    fn node(&self, range: &Range<'_>, left: u64, right: u64, parent: u64) -> Vec<u8> {
        let mut node = vec![0; NODE];
        let mut put = |at: usize, bytes: &[u8]| node[at..at + bytes.len()].copy_from_slice(bytes);
        let first = range.start.get() / PAGE_BYTES;
        let last = first + range.len / PAGE_BYTES - 1;
        let low = |number: u64| u32::try_from(number & 0xffff_ffff).expect("32 bits fit").to_le_bytes();
        match self.shape {
            VadShape::Win81 => {
                put(0, &left.to_le_bytes());
                put(8, &right.to_le_bytes());
                // The low bits of the parent hold the balance.
                put(0x10, &(parent | u64::from(left == 0 && right != 0)).to_le_bytes());
                put(0x18, &low(first));
                put(0x1c, &low(last));
                put(0x20, &[u8::try_from(first >> 32).expect("47 bits"), u8::try_from(last >> 32).expect("47 bits")]);
            }
            VadShape::Win2003 | VadShape::Win7 | VadShape::Win8 => {
                put(0, &(parent | u64::from(left == 0 && right != 0)).to_le_bytes());
                put(8, &left.to_le_bytes());
                put(0x10, &right.to_le_bytes());
                if self.shape != VadShape::Win8 {
                    put(0x18, &first.to_le_bytes());
                    put(0x20, &last.to_le_bytes());
                } else {
                    assert!(last <= u64::from(u32::MAX), "this build's addresses end at 8 TiB");
                    put(0x18, &low(first));
                    put(0x1c, &low(last));
                }
            }
        }
        if self.shape == VadShape::Win2003 {
            if let Some(section) = range.section {
                put(0x30, &section.control_area.get().to_le_bytes());
                put(0x38, &section.first_prototype().get().to_le_bytes());
                put(0x40, &section.last_contiguous().get().to_le_bytes());
            }
            return node;
        }
        put(0x30, &0x0420_0004_u32.to_le_bytes());
        if let Some(section) = range.section {
            put(0x48 + self.growth, &section.subsection.get().to_le_bytes());
            put(0x50 + self.growth, &section.first_prototype().get().to_le_bytes());
            put(0x58 + self.growth, &section.last_contiguous().get().to_le_bytes());
        }
        node
    }
}
