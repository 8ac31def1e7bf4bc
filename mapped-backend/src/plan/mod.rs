//! How to copy: what this processor and this copy call for.
//!
//! Three things decide. *Where the source lies*: pages that are scattered over the guest cost a translation miss and a
//! restart of the prefetcher each, so several of them are copied in turn, a few lines of each, and their misses overlap.
//! *Where the result goes*: what will not stay in the caches is stored past them (non-temporal stores); what the caller
//! reads next is stored into them. *How much it is*: none of this pays for a few pages.
//!
//! The numbers here were measured on one machine (Zen 4, 32 MiB of L3); `docs/performance.md` has them.

mod method;

use std::sync::OnceLock;

use vgpu_perception::{CopyHint, CopyMethod, CopyPolicy, NextUse, PhysRun};

pub(crate) use method::Method;
pub use method::copy_methods;

/// What this processor has that a copy can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// 32-byte loads and stores.
    pub(crate) avx2: bool,
    /// 64-byte loads and stores.
    pub(crate) avx512: bool,
    /// A fast `rep movsb`.
    pub(crate) erms: bool,
    /// Bytes of its last level of cache.
    pub(crate) cache: u64,
}

impl Cpu {
    /// This processor, asked once.
    pub(crate) fn this() -> Self {
        static THIS: OnceLock<Cpu> = OnceLock::new();
        *THIS.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            let (avx2, avx512, erms) = (
                std::is_x86_feature_detected!("avx2"),
                std::is_x86_feature_detected!("avx512f"),
                std::is_x86_feature_detected!("ermsb"),
            );
            #[cfg(not(target_arch = "x86_64"))]
            let (avx2, avx512, erms) = (false, false, false);
            Self { avx2, avx512, erms, cache: last_level_cache().unwrap_or(16 << 20) }
        })
    }
}

/// The largest cache that Linux reports for the first processor.
fn last_level_cache() -> Option<u64> {
    let levels = (0..8).filter_map(|index| {
        let size = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size")).ok()?;
        crate::map::parse_number(&size)
    });
    levels.max()
}

/// Below this many bytes in one call, setting up more than a plain copy costs more than it brings.
const FEW: usize = 32 << 10;
/// Pieces shorter than this are not worth a cursor: nearly all of their lines would be stitched.
const CRUMBS: usize = 1 << 10;
/// Pieces at least as long as this are read in order: the processor's own prefetcher sees them coming.
const LONG: usize = 512 << 10;
/// A transfer that the caller hands on unread fits a core's own cache up to about here, and is then best left there.
const HANDOFF: u64 = 1 << 20;

/// Where a source and its destination have to lie alike for bursts, in bytes: the same place in each block of so many.
/// `rep movsb` is up to twice as slow where they do not, slowest by far where the destination is 16 bytes ahead.
const STEP: usize = 32;

/// What is to be copied, of the transfer that a hint describes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pieces: usize,
    bytes: usize,
    /// Whether the source and the destination lie alike: see [`STEP`].
    in_step: bool,
}

impl Shape {
    /// All of `runs`, to `dst`. Pages begin at the same place of a block in the guest and in this process.
    pub(crate) fn of(runs: &[PhysRun], dst: &[u8]) -> Self {
        let from = runs.first().map_or(0, |run| run.gpa.get() as usize);
        let in_step = (from ^ dst.as_ptr().addr()).is_multiple_of(STEP);
        Self { pieces: runs.len(), bytes: dst.len(), in_step }
    }
}

/// Chooses how to copy.
pub(crate) fn choose(cpu: Cpu, shape: Shape, hint: CopyHint) -> Method {
    if let CopyPolicy::Fixed(CopyMethod(number)) = hint.policy {
        let known = Method::numbered(number).filter(|method| method.is_of_use(cpu));
        return known.unwrap_or(Method::Plain);
    }
    let Shape { pieces, bytes, in_step } = shape;
    let average = bytes / pieces.max(1);
    if bytes < FEW || average < CRUMBS || !cfg!(all(target_arch = "x86_64", not(miri))) {
        return Method::Plain;
    }
    let total = hint.total.max(bytes as u64);
    // Half of the cache: the source passes through it as well.
    let fits = total <= cpu.cache / 2;
    let streaming = match hint.next_use {
        NextUse::Handoff => total >= HANDOFF,
        _ => !fits,
    };
    match (average >= LONG, streaming) {
        // Faster than past the caches, too: whoever it is handed to finds it there.
        (true, _) if fits && in_step && cpu.erms => Method::MoveHalfPages,
        (true, true) => Method::OneStreamed,
        (true, false) if cpu.avx2 => Method::One,
        (_, false) => Method::Six,
        (_, true) => Method::SixStreamed,
    }
}

#[cfg(test)]
mod tests {
    use vgpu_perception::Gpa;

    use super::*;

    const CPU: Cpu = Cpu { avx2: true, avx512: true, erms: true, cache: 32 << 20 };

    fn hint(total: u64, next_use: NextUse) -> CopyHint {
        CopyHint::new(total, next_use)
    }

    const fn shape(pieces: usize, bytes: usize) -> Shape {
        Shape { pieces, bytes, in_step: true }
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[test]
    fn size_and_use_decide_where_stores_go() {
        let part = |total, next_use| match choose(CPU, shape(512, 2 << 20), hint(total, next_use)) {
            Method::Six => false,
            Method::SixStreamed => true,
            other => panic!("scattered pages of a frame, {other:?}"),
        };
        assert!(!part(8 << 20, NextUse::ReadSoon));
        assert!(!part(8 << 20, NextUse::Unknown));
        assert!(part(8 << 20, NextUse::Handoff));
        assert!(part(33 << 20, NextUse::ReadSoon));
        assert!(part(0, NextUse::Handoff), "a transfer is at least what is copied now");
        let whole = |cpu, next_use| choose(cpu, shape(1, 2 << 20), hint(2 << 20, next_use));
        assert_eq!(whole(CPU, NextUse::Unknown), Method::MoveHalfPages);
        assert_eq!(whole(CPU, NextUse::Handoff), Method::MoveHalfPages);
        let large = choose(CPU, shape(1, 33 << 20), hint(33 << 20, NextUse::ReadSoon));
        assert_eq!(large, Method::OneStreamed);
        let askew = Shape { in_step: false, ..shape(1, 2 << 20) };
        assert_eq!(choose(CPU, askew, hint(2 << 20, NextUse::Unknown)), Method::One);
        assert_eq!(choose(CPU, askew, hint(2 << 20, NextUse::Handoff)), Method::OneStreamed);
        let old = Cpu { erms: false, ..CPU };
        assert_eq!(whole(old, NextUse::Unknown), Method::One);
        assert_eq!(whole(old, NextUse::Handoff), Method::OneStreamed);
        let older = Cpu { avx2: false, ..old };
        assert_eq!(whole(older, NextUse::Unknown), Method::Six);
    }

    #[test]
    fn source_and_buffer_are_in_step_where_both_lie_alike_in_a_block() {
        let buffer = [0_u8; 256];
        let from = buffer.as_ptr().align_offset(STEP);
        for (gpa, skip, in_step) in
            [(0x1000, 0, true), (0x1000, 64, true), (0x1010, 16, true), (0x1000, 16, false), (0x1001, 0, false)]
        {
            let run = PhysRun { gpa: Gpa::new(gpa), len: 100 };
            let shape = Shape::of(&[run], &buffer[from + skip..from + skip + 100]);
            assert_eq!((shape.pieces, shape.bytes, shape.in_step), (1, 100, in_step), "{gpa:#x} to {skip}");
        }
    }

    #[test]
    fn little_and_crumbled_copies_are_plain() {
        for next_use in [NextUse::Unknown, NextUse::ReadSoon, NextUse::Handoff] {
            assert_eq!(choose(CPU, shape(2, 8192), hint(33 << 20, next_use)), Method::Plain);
            assert_eq!(choose(CPU, shape(4096, 1 << 20), hint(33 << 20, next_use)), Method::Plain);
            assert_eq!(choose(CPU, shape(0, 0), hint(0, next_use)), Method::Plain);
        }
    }

    #[test]
    fn a_fixed_method_is_taken_whatever_the_copy_is() {
        for method in Method::ALL {
            let fixed = hint(8 << 20, NextUse::ReadSoon).with_policy(CopyPolicy::Fixed(CopyMethod(method.number())));
            let expected = if method.is_of_use(CPU) { method } else { Method::Plain };
            assert_eq!(choose(CPU, shape(1, 64), fixed), expected);
            assert_eq!(choose(CPU, shape(512, 2 << 20), fixed), expected);
        }
        let unknown = hint(8 << 20, NextUse::ReadSoon).with_policy(CopyPolicy::Fixed(CopyMethod(200)));
        assert_eq!(choose(CPU, shape(512, 2 << 20), unknown), Method::Plain);
    }

    #[test]
    fn this_machine_has_a_cache() {
        assert!(Cpu::this().cache >= 256 << 10, "{:?}", Cpu::this());
    }
}
