//! Scenarios against real guests: `vgpu-guest [SCENARIO…]`, or without arguments those marked *.
//!
//! | scenario | guest |
//! | --- | --- |
//! | `pc` * | `pc`, 1 GiB: the life of a producer, from the first frame over its end to a reboot |
//! | `q35` * | the same on `q35` with 3 GiB, RAM on both sides of the hole |
//! | `la57` * | the same with five levels of page tables, and page-table isolation |
//! | `translations` * | `pc`, with four levels and with five: every page of every process, compared with QEMU's own walker |
//! | `chaos` * | `pc`, two processors: a producer that lies, remaps and dies, and memory under pressure; for five minutes, or `VGPU_GUEST_SECONDS` |
//! | `restarts` | `pc`, `q35`, five levels: a watch follows 300 killed producers (`VGPU_KILLS`) through 30 reboots (`VGPU_REBOOTS`) |
//! | `soak` * | none: bare shared memory, a writer at full speed, 10^9 cursors (`VGPU_SOAK_CURSORS`) and 10^5 frames (`VGPU_SOAK_FRAMES`) |
//! | `ways` * | each kind of memory by each name, a DIMM plugged in later, proxies; some of it where none is named |
//! | `plugged` | DIMMs that are plugged in after attaching; `ways` runs it too |
//! | `dumps` | `q35`, RAM on both sides of the hole: its core as QEMU writes it, through the command |
//! | `advice` | what `vgpu doctor` and `vgpu list` print, followed |
//! | `speed` | `pc`, 1 GiB: how long attaching and finding takes by each way |
//! | `libvirt` | domains of a libvirtd that runs |
//! | `embed` | `pc`: the program `VGPU_EMBED` (C, see `c-api/examples/embed.c`) takes frames whose checksums the producer prints too |
//! | `forge` | `pc`: 200 regions that a process without rights forged; the program `VGPU_FORGE` (`c-api/tests/c/forge.c`) binds the live one within one round |
//! | `boot` | a `pc` with a producer, left running for other programs until standard input ends |
//!
//! Without arguments `chaos` and `soak` are cut short. Lines that begin with `figure:` are what was
//! measured.

mod scenario;

use std::process::ExitCode;
use std::time::Instant;

use scenario::Length;
use vgpu_perception_guest_tests::Result;

/// A scenario; told whether it was named, or is to be over soon.
type Scenario = (&'static str, Usual, fn(Length) -> Result<()>);

/// Whether a scenario runs when none is named.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Usual {
    Yes,
    No,
}

const SCENARIOS: &[Scenario] = &[
    ("pc", Usual::Yes, |_| scenario::life::run(scenario::life::PC)),
    ("q35", Usual::Yes, |_| scenario::life::run(scenario::life::Q35)),
    ("la57", Usual::Yes, |_| scenario::life::run(scenario::life::LA57)),
    ("translations", Usual::Yes, |_| scenario::translations::run()),
    ("readme", Usual::Yes, |_| scenario::readme::run()),
    ("ways", Usual::Yes, scenario::ways::run),
    ("plugged", Usual::No, scenario::plugged::run),
    ("chaos", Usual::Yes, scenario::chaos::run),
    ("restarts", Usual::No, scenario::restarts::run),
    ("soak", Usual::Yes, scenario::soak::run),
    ("dumps", Usual::No, |_| scenario::dumps::run()),
    ("advice", Usual::No, |_| scenario::advice::run()),
    ("speed", Usual::No, |_| scenario::speed::run()),
    ("libvirt", Usual::No, scenario::libvirt::run),
    ("look", Usual::No, scenario::libvirt::look),
    ("embed", Usual::No, |_| scenario::embed::run()),
    ("forge", Usual::No, |_| scenario::forge::run()),
    ("boot", Usual::No, |_| scenario::hold::run()),
];

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = named.iter().find(|name| !SCENARIOS.iter().any(|(known, ..)| known == name)) {
        let known: Vec<_> = SCENARIOS.iter().map(|(name, ..)| *name).collect();
        eprintln!("vgpu-guest: there is no scenario `{unknown}`; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let length = if named.is_empty() { Length::Short } else { Length::Full };
    let chosen = |name: &str, usual: Usual| match length {
        Length::Short => usual == Usual::Yes,
        Length::Full => named.iter().any(|chosen| chosen == name),
    };
    for (name, usual, run) in SCENARIOS {
        if !chosen(name, *usual) {
            continue;
        }
        let begun = Instant::now();
        println!("scenario {name}");
        if let Err(error) = run(length) {
            eprintln!("scenario {name} failed: {error}");
            return ExitCode::FAILURE;
        }
        println!("scenario {name} passed in {:.1} s", begun.elapsed().as_secs_f64());
    }
    ExitCode::SUCCESS
}
