//! What the commands print: JSON for scripts, lines for people.

use serde_json::{Value, json};
use vgpu_perception::PagingMode;
use vgpu_perception::abi::Backend;
use vgpu_perception::process::guest::{GuestKernel, GuestPaging};
use vgpu_perception::region::{FrameInfo, Liveness, Sample, StatusSnapshot};
use vgpu_perception::scan::{Candidate, FoundBy};
use vgpu_perception_host::Sighting;
use vgpu_perception_mapped::Change;

use crate::look::Look;

/// An address, as JSON cannot hold it.
pub(crate) fn hex(value: u64) -> Value {
    json!(format!("{value:#x}"))
}

pub(crate) fn candidate(seen: &Sighting) -> Value {
    let process = &seen.candidate.process;
    let found = &seen.candidate.found;
    let pulse = match seen.liveness {
        Some(Liveness::Alive(pulse) | Liveness::Stale(pulse) | Liveness::Restarted(pulse)) => pulse,
        Some(_) | None => found.pulse,
    };
    json!({
        "base": hex(seen.candidate.base.get()),
        "cr3": hex(process.space.root.get()),
        "pid": process.pid,
        "process": process.name.map(|name| name.to_string()),
        "alive": seen.is_alive(),
        "heartbeat": pulse.heartbeat,
        "run_epoch": pulse.run_epoch,
        "status": found.status.to_string(),
        "frame_id": found.frame_id,
        "gpa": hex(found.page.get()),
        "found_by": match seen.candidate.by {
            FoundBy::RunStart => "run_start",
            FoundBy::Run => "run",
            FoundBy::Page => "page",
        },
    })
}

pub(crate) const fn levels(mode: PagingMode) -> u32 {
    match mode {
        PagingMode::FourLevel => 4,
        PagingMode::FiveLevel => 5,
    }
}

/// What kind of kernel the processes were listed by.
pub(crate) const fn system(kernel: &GuestKernel) -> &'static str {
    match kernel {
        GuestKernel::Nt(_) => "windows",
        GuestKernel::Roots(_) => "roots",
    }
}

pub(crate) fn scanned(look: &Look) -> Value {
    let stats = look.survey.stats();
    json!({
        "spaces": stats.spaces,
        "tables": stats.tables,
        "runs": stats.runs,
        "frames": stats.pages,
        "judged": stats.judged,
        "skipped": stats.skipped,
        "not_ram": stats.not_ram,
        "truncated": stats.truncated,
        "levels": levels(look.survey.kernel().space().mode),
        "system": system(look.survey.kernel()),
        "milliseconds": look.survey.took().as_secs_f64() * 1000.0,
        "ram_changes": look.change.map(|change| matches!(change, Change::Changing { .. })),
    })
}

/// Whether a candidate's producer lives, as people say it.
fn state(seen: &Sighting) -> &'static str {
    match seen.liveness {
        Some(Liveness::Alive(_)) => "alive",
        Some(Liveness::Stale(_)) => "stale (no heartbeat)",
        Some(Liveness::Restarted(_)) => "restarted meanwhile",
        Some(Liveness::Unclear(_)) => "unclear",
        None if seen.gone.is_some() => "gone",
        None => "not known yet",
    }
}

/// Where a candidate is: its process by name where it has one, and the two numbers that options take.
fn place(candidate: &Candidate<GuestPaging>) -> String {
    let process = &candidate.process;
    let mut text = String::new();
    if let Some(name) = process.name {
        text.push_str(&format!("{name}  "));
    }
    if let Some(pid) = process.pid {
        text.push_str(&format!("pid {pid}  "));
    }
    text.push_str(&format!("base {:#x}  cr3 {:#x}", candidate.base.get(), process.space.root.get()));
    text
}

/// One line about a candidate.
pub(crate) fn line(seen: &Sighting) -> String {
    let found = &seen.candidate.found;
    format!("{}  {}  {}  frame {}", state(seen), place(&seen.candidate), found.status, found.frame_id)
}

/// The same as a line of a table.
pub(crate) fn row(seen: &Sighting) -> String {
    let state = state(seen);
    format!("  {state:20}{}", line(seen).strip_prefix(state).unwrap_or_default())
}

/// The result of a search in one line.
pub(crate) fn result(look: &Look) -> String {
    let seen = look.survey.candidates();
    let alive = seen.iter().filter(|one| one.is_alive()).count();
    let others = seen.len() - alive;
    let regions = |count: usize| if count == 1 { "region" } else { "regions" };
    match (alive, others) {
        (0, 0) => "no region".to_owned(),
        (0, _) => format!("{others} {}, no live one", regions(others)),
        (_, 0) => format!("{alive} live {}", regions(alive)),
        _ => format!("{alive} live {}, {others} not live", regions(alive)),
    }
}

/// What runs in the guest, as far as its processes tell.
pub(crate) fn kind(kernel: &GuestKernel) -> String {
    match kernel {
        GuestKernel::Nt(kernel) => match kernel.version {
            Some(version) => format!("Windows {version}"),
            None => "Windows, of a version that could not be read".to_owned(),
        },
        GuestKernel::Roots(_) => "Linux or another system: processes have no names".to_owned(),
    }
}

/// What a producer does and how it captures, in words.
pub(crate) fn capture(now: &StatusSnapshot) -> String {
    let status = now.status;
    match now.backend {
        Backend::NONE => status.to_string(),
        Backend::NVFBC => format!("{status} by NVIDIA's frame buffer capture (NvFBC)"),
        Backend::DDA => format!("{status} by desktop duplication (DDA)"),
        other => format!("{status} by {other}"),
    }
}

/// Millihertz as people say a refresh rate: 60 Hz, 59.94 Hz.
pub(crate) fn hertz(millihertz: u32) -> String {
    let (whole, rest) = (millihertz / 1000, millihertz % 1000);
    match rest {
        0 => format!("{whole} Hz"),
        _ => format!("{whole}.{} Hz", format!("{rest:03}").trim_end_matches('0')),
    }
}

/// What was searched, in one line.
pub(crate) fn summary(look: &Look) -> String {
    let stats = look.survey.stats();
    let mut text = format!(
        "searched {} address spaces, {} page tables, {} pages in {:.0} ms",
        stats.spaces,
        stats.tables,
        stats.pages,
        look.survey.took().as_secs_f64() * 1000.0
    );
    if stats.skipped + stats.truncated > 0 {
        text.push_str(&format!("; {} stretches unreadable, {} spaces cut short", stats.skipped, stats.truncated));
    }
    text
}

/// Why nothing lives, where that is known.
pub(crate) fn advice(look: &Look) -> String {
    let what = if look.survey.candidates().is_empty() {
        "no region in any process"
    } else {
        "no candidate's heartbeat advanced"
    };
    if let Some(why) = &look.unusable {
        return format!("{what}; {why}");
    }
    if look.stands_still {
        return format!("{what}: this memory stands still, and shows what was when it was written");
    }
    match look.change {
        Some(Change::Frozen { pages }) => format!(
            "{what}; none of {pages} pages of this RAM changed meanwhile: the guest is paused, or its RAM is not \
             shared with the file (share=off)"
        ),
        _ => {
            let mut text = format!("{what}; is the producer running in the guest?");
            let skipped = look.survey.stats().skipped;
            if look.survey.candidates().is_empty() && skipped > 0 {
                text.push_str(&format!(
                    " {skipped} stretches of page tables lie outside of this RAM: if its map was given or assumed, is \
                     it right (--machine, --map)?"
                ));
            }
            text
        }
    }
}

pub(crate) fn frame(info: &FrameInfo) -> Value {
    json!({
        "width": info.desc.width,
        "height": info.desc.height,
        "stride": info.desc.stride,
        "format": info.desc.format.to_string(),
        "frame_id": info.desc.frame_id,
        "timestamp_ns": info.desc.timestamp_ns,
        "bytes": info.bytes,
        "missed": info.missed,
    })
}

/// A lossy read as JSON: the value, or `{"skip": reason}`.
pub(crate) fn sample<T>(sample: Sample<T>, show: impl FnOnce(T) -> Value) -> Value {
    match sample {
        Sample::Fresh(value) => show(value),
        Sample::Skip(skip) => json!({ "skip": skip.to_string() }),
    }
}

/// A lossy read as text: the value, or the reason.
pub(crate) fn text<T>(sample: Sample<T>, show: impl FnOnce(T) -> String) -> String {
    match sample {
        Sample::Fresh(value) => show(value),
        Sample::Skip(skip) => skip.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_as_people_say_them() {
        for (millihertz, said) in [(60_000, "60 Hz"), (59_940, "59.94 Hz"), (143_998, "143.998 Hz"), (50, "0.05 Hz")] {
            assert_eq!(hertz(millihertz), said);
        }
    }
}
