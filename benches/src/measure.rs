//! Rounds of interleaved variants, medians, ratios.

use std::time::Instant;

use crate::builder::below;

/// A variant: what it is called, and one call of it.
pub(crate) type Variant<'v> = (&'static str, Box<dyn FnMut(usize) + 'v>);

/// A buffer that begins at a page, as one that is mapped or shared does, and as the library's own.
pub(crate) struct Buffer {
    memory: Vec<u8>,
    skip: usize,
}

const PAGE: usize = 4096;

impl Buffer {
    /// `len` bytes. They are written once: the faults of a new buffer are nobody's.
    pub(crate) fn new(len: usize) -> Self {
        let memory = vec![1_u8; len + PAGE];
        let skip = memory.as_ptr().align_offset(PAGE);
        Self { memory, skip }
    }

    /// The buffer.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        let end = self.memory.len() - PAGE;
        &mut self.memory[self.skip..self.skip + end]
    }
}

/// The medians of one table, in nanoseconds a call.
pub(crate) struct Medians(Vec<(&'static str, f64)>, Vec<Halves>);

/// The medians of a row in every other sample, and in those between.
struct Halves(&'static str, [f64; 2]);

impl Medians {
    /// The median of a row.
    pub(crate) fn of(&self, name: &str) -> f64 {
        self.0.iter().find(|(row, _)| *row == name).map_or(f64::NAN, |(_, median)| *median)
    }

    /// What the best of some rows takes: the row that is best in one half of the samples, as timed in the other half,
    /// and the other way round; the middle of both. The least of many medians would be that of the luckiest row.
    pub(crate) fn best_of(&self, names: &[&str]) -> f64 {
        let rows = || self.1.iter().filter(|row| names.contains(&row.0));
        let timed_in = |chosen: usize, timed: usize| {
            let best = rows().min_by(|one, other| one.1[chosen].total_cmp(&other.1[chosen]));
            best.map_or(f64::NAN, |best| best.1[timed])
        };
        (timed_in(0, 1) + timed_in(1, 0)) / 2.0
    }

    /// Adds a row that was measured elsewhere.
    pub(crate) fn push(&mut self, name: &'static str, median: f64) {
        self.0.push((name, median));
    }

    /// The rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.0.iter().copied()
    }

    /// No rows yet.
    pub(crate) const fn new() -> Self {
        Self(Vec::new(), Vec::new())
    }
}

/// Runs `rounds` rounds; in each, every variant once, in an order that changes, with one untimed call before `calls`
/// timed ones. The argument of a call counts the calls of all variants: what one has read is not the next one's warm
/// source.
pub(crate) fn interleave(rounds: usize, calls: usize, variants: Vec<Variant<'_>>) -> Medians {
    let variants = variants.into_iter().map(|(name, mut call)| {
        let both: Timed<'_> = Box::new(move |nth| {
            let start = Instant::now();
            call(nth);
            [start.elapsed().as_nanos() as f64, f64::NAN]
        });
        (name, both)
    });
    let [medians, _] = interleave_timed(rounds, Untimed::Calls(1), calls, variants.collect(), &mut |_| {});
    medians
}

/// The calls of a variant before its times count.
#[derive(Clone, Copy)]
pub(crate) enum Untimed {
    /// So many.
    Calls(usize),
    /// Until it is as fast as it gets: what the other variants did between has left the caches in a state that a
    /// program which does this one thing does not meet.
    UntilSettled,
}

/// Calls that are compared with as many before them, to see whether a variant still becomes faster.
const WINDOW: usize = 8;
/// Of the time of a window, in hundredths, what the next one has to take for the variant to have settled.
const SETTLED: f64 = 98.0;
/// Calls after which a variant is timed in any case.
const PATIENCE: usize = 64;

impl Untimed {
    /// Calls the variant until its times count.
    fn call(self, mut call: impl FnMut() -> f64) {
        if let Self::Calls(calls) = self {
            for _ in 0..calls {
                call();
            }
            return;
        }
        // Medians: an interruption is no slowness that passes.
        let mut window = || median(&mut core::array::from_fn::<_, WINDOW, _>(|_| call()));
        let mut before = window();
        for _ in 1..PATIENCE / WINDOW {
            let now = window();
            if now * 100.0 >= before * SETTLED {
                return;
            }
            before = now;
        }
    }
}

/// A variant that takes its own times: what it does, and that with what its consumer does, in nanoseconds.
pub(crate) type Timed<'v> = Box<dyn FnMut(usize) -> [f64; 2] + 'v>;

/// As [`interleave`], with two times a call, `untimed` calls before those that are timed, and `prepare` before every
/// call.
pub(crate) fn interleave_timed(
    rounds: usize,
    untimed: Untimed,
    calls: usize,
    mut variants: Vec<(&'static str, Timed<'_>)>,
    prepare: &mut dyn FnMut(usize),
) -> [Medians; 2] {
    let count = variants.len();
    let mut samples =
        [vec![Vec::with_capacity(rounds * calls); count], vec![Vec::with_capacity(rounds * calls); count]];
    let mut nth = 0;
    let mut order: Vec<usize> = (0..count).collect();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..rounds {
        for last in (1..count).rev() {
            order.swap(last, below(&mut seed, last as u64 + 1) as usize);
        }
        for &index in &order {
            let mut call = || {
                prepare(nth);
                let took = (variants[index].1)(nth);
                nth += 1;
                took
            };
            // Some variants take one time only.
            untimed.call(|| call().into_iter().fold(f64::NAN, f64::max));
            for _ in 0..calls {
                for (samples, took) in samples.iter_mut().zip(call()) {
                    samples[index].push(took);
                }
            }
        }
    }
    samples.map(|mut samples| {
        let named = || variants.iter().map(|(name, _)| *name);
        let half = |all: &[f64], nth: usize| median(&mut all.iter().skip(nth).step_by(2).copied().collect::<Vec<_>>());
        let halves = named().zip(&samples).map(|(name, all)| Halves(name, [half(all, 0), half(all, 1)])).collect();
        Medians(named().zip(&mut samples).map(|(name, all)| (name, median(all))).collect(), halves)
    })
}

/// The middle of some samples.
pub(crate) fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A goal: a ratio and the bound that it has to keep.
pub(crate) struct Goals {
    met: usize,
    missed: Vec<String>,
}

impl Goals {
    pub(crate) const fn new() -> Self {
        Self { met: 0, missed: Vec::new() }
    }

    /// Prints a ratio beside its bound.
    pub(crate) fn at_most(&mut self, what: &str, ratio: f64, bound: f64) {
        let good = ratio <= bound;
        println!("goal: {what:<66} {ratio:>7.3} <= {bound:<5} {}", if good { "met" } else { "MISSED" });
        if good {
            self.met += 1;
        } else {
            self.missed.push(format!("{what}: {ratio:.3}, bound {bound}"));
        }
    }

    /// The end of the report.
    pub(crate) fn sum_up(&self) {
        println!("\n{} goals met, {} missed", self.met, self.missed.len());
        for missed in &self.missed {
            println!("missed: {missed}");
        }
    }
}

/// What the processor is called, and what it has of cache.
pub(crate) fn processor() -> String {
    let all = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |key: &str| {
        let mut pairs = all.lines().filter_map(|line| line.split_once(':'));
        pairs.find(|(name, _)| name.trim() == key).map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let cache = |index: u32| {
        let size = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size"));
        size.map_or("?".to_owned(), |size| size.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (name, family, model) = (line("model name"), line("cpu family"), line("model"));
    format!(
        "{name}, family {family}, model {model}, {cores} processors, L1 {}, L2 {}, L3 {}",
        cache(0),
        cache(2),
        cache(3)
    )
}

/// Prints medians in milliseconds, each with its ratio to the row `base`.
pub(crate) fn print_ms(title: &str, base: &str, columns: &[(&str, &Medians)]) {
    println!("\n## {title}, ms (ratio to {base})\n");
    print(base, columns, 1e6);
}

/// Prints medians in nanoseconds, each with its ratio to the row `base`.
pub(crate) fn print_ns(title: &str, base: &str, columns: &[(&str, &Medians)]) {
    println!("\n## {title}, ns (ratio to {base})\n");
    print(base, columns, 1.0);
}

fn print(base: &str, columns: &[(&str, &Medians)], unit: f64) {
    print!("| {:<44} |", "");
    for (name, _) in columns {
        print!(" {name:<18} |");
    }
    print!("\n| {} |", "-".repeat(44));
    for _ in columns {
        print!(" {} |", "-".repeat(18));
    }
    println!();
    let Some((_, first)) = columns.first() else { return };
    for (row, _) in first.rows() {
        print!("| {row:<44} |");
        for (_, medians) in columns {
            let cell = medians.of(row);
            if cell.is_nan() {
                print!(" {:<18} |", "–");
            } else {
                print!(" {:<18} |", format!("{:.3} ({:.3})", cell / unit, cell / medians.of(base)));
            }
        }
        println!();
    }
}
