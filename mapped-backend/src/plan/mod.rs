//! How to copy: what was fastest here, for copies like this one.
//!
//! Which method is fastest depends on the processor, on the caches that the guest's core shares with ours, on how the
//! frame's pages lie, and on what is done with the bytes. So it is measured, on the copies that are made anyway: a
//! [`Record`](record) for each class of copies tries the methods in its first frames, keeps the fastest, and tries the
//! others again now and then. What is known of one machine is only the first guess. A caller that wants no choice fixes
//! the method.

mod atomics {
    //! The atomics of a record: those of `core`, where the model in `loom-tests` has its own.
    pub(super) use core::sync::atomic::{AtomicU64, Ordering};
}
mod calibration;
mod chooser;
mod contest;
mod finals;
mod method;
mod primed;
mod record;
#[cfg(test)]
mod shared_tests;
#[cfg(test)]
mod simulation;
mod unread;

use std::sync::OnceLock;

use vgpu_perception::{CopyMethod, PhysRun};

pub use calibration::{Calibration, CalibrationError};
pub(crate) use chooser::{Chooser, Copying, nanoseconds_since};
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

impl Cpu {
    /// What Linux calls this processor, with its family and model: what a calibration was measured on.
    pub(crate) fn this_name() -> &'static str {
        static NAME: OnceLock<String> = OnceLock::new();
        NAME.get_or_init(|| {
            let all = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let line = |key: &str| {
                let mut pairs = all.lines().filter_map(|line| line.split_once(':'));
                pairs.find(|(name, _)| name.trim() == key).map_or("?", |(_, value)| value.trim()).to_owned()
            };
            format!("{} (family {}, model {})", line("model name"), line("cpu family"), line("model"))
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

    /// Bytes of a piece, on average.
    fn average(self) -> usize {
        self.bytes / self.pieces.max(1)
    }

    /// Whether a method could bring more than setting it up costs, on this kind of processor.
    fn is_worth_a_method(self) -> bool {
        self.bytes >= FEW && self.average() >= CRUMBS && cfg!(all(target_arch = "x86_64", not(miri)))
    }
}

/// The method that a caller fixes; the plain one where this processor has no such method.
pub(crate) fn fixed(cpu: Cpu, method: CopyMethod) -> Method {
    Method::numbered(method.0).filter(|method| method.is_of_use(cpu)).unwrap_or(Method::Plain)
}

/// The method to begin with: what was best on one machine (Zen 4), where half of the cache decides what is stored past
/// it.
fn guess(cpu: Cpu, long: bool, in_step: bool, total: u64, handoff: bool) -> Method {
    // Half of the cache: the source passes through it as well.
    let fits = total <= cpu.cache / 2;
    let streaming = if handoff { total > 1 << 20 } else { !fits };
    match (long, streaming) {
        (true, _) if fits && in_step && cpu.erms => Method::MoveHalfPages,
        (true, true) => Method::OneStreamed,
        (true, false) if cpu.avx2 => Method::One,
        (_, false) => Method::Six,
        (_, true) => Method::SixStreamed,
    }
}

/// Reads a buffer once, as a caller would that makes something of it.
pub(crate) fn read_once(bytes: &[u8]) {
    let mut sums = [0_u64; 8];
    for line in bytes.chunks_exact(64) {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    core::hint::black_box(sums);
}

#[cfg(test)]
mod tests {
    use vgpu_perception::Gpa;

    use super::*;

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
    fn a_fixed_method_is_taken_and_an_unknown_one_is_plain() {
        let cpu = Cpu { avx2: true, avx512: true, erms: true, cache: 32 << 20 };
        for method in Method::ALL {
            let expected = if method.is_of_use(cpu) { method } else { Method::Plain };
            assert_eq!(fixed(cpu, CopyMethod(method.number())), expected);
        }
        assert_eq!(fixed(cpu, CopyMethod(200)), Method::Plain);
        assert_eq!(fixed(Cpu { erms: false, ..cpu }, CopyMethod(Method::Moves.number())), Method::Plain);
    }

    #[test]
    fn this_machine_has_a_cache_and_a_name() {
        assert!(Cpu::this().cache >= 256 << 10, "{:?}", Cpu::this());
        assert!(!Cpu::this_name().is_empty());
    }
}
