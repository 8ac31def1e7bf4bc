//! `VadRoot`: the tree of virtual address descriptors, and how its nodes look.

use super::super::eprocess::Object;
use super::super::layout::{Field, Offsets, Possible};
use super::super::memory::pointer;
use super::super::vad::{DescriptorShape, Descriptors};
use super::sample::Sample;
use super::{MOST_OBEY, WITNESSES};
use crate::addr::Gva;
use crate::phys::PhysRead;

pub(super) const RULE: &str = "the root of a tree that covers environment block and image, in nodes of their own";

/// Where each process has the root of a tree, by the shape of its nodes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trees {
    peb: Field,
    section_base: Field,
    shapes: [Possible; DescriptorShape::ALL.len()],
    /// Processes with an environment block and an image, and those of them that have no tree anywhere.
    all: u32,
    odd_ones: u32,
}

impl Trees {
    pub(super) const fn new(peb: Field, section_base: Field) -> Self {
        Self { peb, section_base, shapes: [Possible::UNKNOWN; DescriptorShape::ALL.len()], all: 0, odd_ones: 0 }
    }

    #[inline(never)]
    pub(super) fn see<M: PhysRead>(&mut self, sample: &Sample<'_, '_, M>, object: &Object) {
        let both = object.word(self.peb.offset).zip(object.word(self.section_base.offset));
        let Some((environment, image)) = both.filter(|(peb, section)| *peb != 0 && *section != 0) else { return };
        let found = DescriptorShape::ALL.map(|shape| {
            let mut found = Offsets::NONE;
            for (offset, value) in object.words() {
                let field = object.at.wrapping_add(offset.into());
                let could_be = match shape {
                    // Each process has a tree of its own.
                    DescriptorShape::Windows81 => {
                        sample.system.word(offset) != Some(value)
                            && pointer(sample.walker.space().mode, value).is_some()
                    }
                    DescriptorShape::Windows7 | DescriptorShape::Windows8 => value & !7 == field.get(),
                };
                if could_be && covers(sample, Descriptors { field, shape }, environment, image) {
                    found.insert(offset);
                }
            }
            found
        });
        self.all = self.all.wrapping_add(1);
        let speaks = self.shapes.iter().zip(found).any(|(possible, found)| possible.offsets.and(found).count() > 0);
        if !speaks {
            // It is being made or taken down. The hint beside the root, which now and then names the root, is known by
            // this: in most processes it names another node.
            self.odd_ones = self.odd_ones.wrapping_add(1);
            return;
        }
        for (possible, found) in self.shapes.iter_mut().zip(found) {
            possible.keep(found);
        }
    }

    pub(super) fn field(&self) -> Option<(Field, DescriptorShape)> {
        let all = self.shapes.iter().fold(0, |sum: u32, one| sum.wrapping_add(one.offsets.count()));
        if all != 1 || self.odd_ones.saturating_mul(MOST_OBEY) > self.all {
            return None;
        }
        self.shapes.iter().zip(DescriptorShape::ALL).find_map(|(one, shape)| Some((one.proven(WITNESSES)?, shape)))
    }
}

/// Whether a tree has the two addresses, in different nodes.
fn covers<M: PhysRead>(sample: &Sample<'_, '_, M>, tree: Descriptors, environment: u64, image: u64) -> bool {
    let find = |address| tree.find(&sample.walker, Gva::new(address)).ok().flatten();
    match (find(environment), find(image)) {
        (Some(one), Some(other)) => one.node != other.node,
        _ => false,
    }
}
