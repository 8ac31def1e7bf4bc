//! The walk along the list that process objects are on.

use super::memory::{pointer, word};
use crate::addr::Gva;
use crate::paging::{NotPresentResolver, PageWalker};
use crate::phys::PhysRead;

/// A way along a list of two directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// Nodes of the way forward that are remembered.
const TRAIL: usize = 16;
/// How often an edge is looked at before it counts as broken: the list may be changing.
const TRIES: u32 = 3;

/// The node after `node`, where it leads back to `node`; `None` where it does not. A walk that takes only such edges
/// enters no loop but the one that it began in, as long as memory stands still.
///
/// # Bound
/// Six walks.
pub(super) fn next_node<M: PhysRead, R: NotPresentResolver>(
    walker: &PageWalker<M, R>,
    node: Gva,
    direction: Direction,
) -> Option<Gva> {
    let (there, back) = match direction {
        Direction::Forward => (0, 8),
        Direction::Backward => (8, 0),
    };
    for _ in 0..TRIES {
        let next = word(walker, node.wrapping_add(there)).ok();
        let Some(next) = next.and_then(|value| pointer(walker.space().mode, value)) else { continue };
        if word(walker, next.wrapping_add(back)) == Ok(node.get()) {
            return Some(next);
        }
    }
    None
}

/// The nodes of a list, from one of them: forward until the circle closes or an edge is broken, then backward to where
/// the way forward ended. Each node is given once, as long as memory stands still.
///
/// # Bound
/// At most as many nodes as it is told; six walks each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nodes {
    start: Gva,
    at: Option<Gva>,
    direction: Direction,
    /// The last nodes of the way forward, where the way backward ends: several, since the last may have left the list.
    trail: [Gva; TRAIL],
    met: usize,
    left: u32,
    broken: bool,
}

impl Nodes {
    pub(super) const fn new(start: Gva, limit: u32) -> Self {
        Self {
            start,
            at: None,
            direction: Direction::Forward,
            trail: [start; TRAIL],
            met: 0,
            left: limit,
            broken: false,
        }
    }

    /// Whether the list did not lead around: processes may be missing.
    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn next<M: PhysRead, R: NotPresentResolver>(&mut self, walker: &PageWalker<M, R>) -> Option<Gva> {
        self.left = match self.left.checked_sub(1) {
            Some(left) => left,
            None => {
                self.broken = true;
                return None;
            }
        };
        let Some(at) = self.at else {
            self.at = Some(self.start);
            return Some(self.start);
        };
        if self.direction == Direction::Forward {
            match next_node(walker, at, Direction::Forward) {
                Some(next) if next == self.start => {
                    self.left = 0;
                    return None;
                }
                Some(next) => {
                    self.at = Some(next);
                    if let Some(slot) = self.trail.get_mut(self.met % TRAIL) {
                        *slot = next;
                    }
                    self.met = self.met.wrapping_add(1);
                    return Some(next);
                }
                None => {
                    self.broken = true;
                    self.direction = Direction::Backward;
                    self.at = Some(self.start);
                }
            }
        }
        let next = next_node(walker, self.at?, Direction::Backward);
        match next {
            Some(next) if next != self.start && !self.trail.contains(&next) => {
                self.at = Some(next);
                Some(next)
            }
            _ => {
                self.left = 0;
                None
            }
        }
    }
}
