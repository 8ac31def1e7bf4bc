//! What the commands print: JSON for scripts, lines for people.

use serde_json::{Value, json};
use vgpu_perception::PagingMode;
use vgpu_perception::process::guest::GuestKernel;
use vgpu_perception::region::{FrameInfo, Liveness, Sample};
use vgpu_perception::scan::FoundBy;
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

/// One line about a candidate.
pub(crate) fn line(seen: &Sighting) -> String {
    let candidate = &seen.candidate;
    let process = &candidate.process;
    let state = match seen.liveness {
        Some(Liveness::Alive(_)) => "alive",
        Some(Liveness::Stale(_)) => "stale",
        Some(Liveness::Restarted(_)) => "restarted",
        Some(Liveness::Unclear(_)) => "unclear",
        None if seen.gone.is_some() => "gone",
        None => "unknown",
    };
    let name = process.name.map_or_else(|| "-".to_owned(), |name| name.to_string());
    let pid = process.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    format!(
        "{state:9} base {:#x}  cr3 {:#x}  pid {pid}  {name}  {}  frame {}",
        candidate.base.get(),
        process.space.root.get(),
        candidate.found.status,
        candidate.found.frame_id
    )
}

/// What was looked at, in one line.
pub(crate) fn summary(look: &Look) -> String {
    let stats = look.survey.stats();
    let mut text = format!(
        "looked at {} address spaces ({}), {} page tables, {} frames in {:.1} ms",
        stats.spaces,
        match look.survey.kernel() {
            GuestKernel::Nt(_) => "listed by a Windows kernel",
            GuestKernel::Roots(_) => "by the kernel half that they share",
        },
        stats.tables,
        stats.pages,
        look.survey.took().as_secs_f64() * 1000.0
    );
    if stats.skipped + stats.truncated > 0 {
        text.push_str(&format!(" ({} stretches unreadable, {} spaces cut short)", stats.skipped, stats.truncated));
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
            "{what}; none of {pages} pages of this RAM changed meanwhile: the guest is paused, or its RAM is not shared \
             with the file (share=off)"
        ),
        _ => format!("{what}; is the producer running in the guest?"),
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
