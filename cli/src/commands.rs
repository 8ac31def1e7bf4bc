//! `find`, `sample` and `status`.

use core::time::Duration;
use std::time::Instant;

use serde_json::{Value, json};
use vgpu_perception::region::{CursorSnapshot, GeometrySnapshot, StatusSnapshot};

use crate::args;
use crate::attach::{Attached, attach};
use crate::failure::Failure;
use crate::frames::Sampler;
use crate::search::{Search, Seen, search};
use crate::show;

/// What a command has to say: for scripts, and for people.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) json: Value,
    pub(crate) text: String,
    /// Set where the report is that nothing is there.
    pub(crate) nothing: Option<String>,
    /// What a person should know besides; not part of the result.
    pub(crate) note: Option<String>,
}

fn look(find: &args::Find) -> Result<(Attached, Search), Failure> {
    let attached = attach(&find.guest)?;
    let search = search(&attached, Duration::from_millis(find.wait_ms))?;
    Ok((attached, search))
}

/// The first live region, or the first at all where that is enough; a failure that says why there is none.
fn live(search: &Search, stale_will_do: bool) -> Result<&Seen, Failure> {
    let first = search.seen.first().filter(|seen| seen.is_alive() || stale_will_do);
    first.ok_or_else(|| {
        let hint = if search.seen.is_empty() { "" } else { "; --stale takes a region whose producer does not live" };
        Failure::Nothing(format!("{}{hint}", show::advice(search)))
    })
}

pub(crate) fn found(search: &Search) -> Report {
    let candidates: Vec<_> = search.seen.iter().map(show::candidate).collect();
    let mut lines: Vec<_> = search.seen.iter().map(show::line).collect();
    lines.push(show::summary(search));
    let alive = search.seen.iter().any(Seen::is_alive);
    let advice = (!alive).then(|| show::advice(search));
    let (nothing, note) = if search.seen.is_empty() { (advice, None) } else { (None, advice) };
    Report {
        json: json!({ "candidates": candidates, "scanned": show::scanned(search) }),
        text: lines.join("\n"),
        nothing,
        note,
    }
}

pub(crate) fn find(args: &args::Find) -> Result<Report, Failure> {
    let (_, search) = look(args)?;
    Ok(found(&search))
}

pub(crate) fn sample(args: &args::Sample) -> Result<Report, Failure> {
    let (attached, search) = look(&args.find)?;
    let seen = live(&search, args.stale)?;
    let mut region = seen.region;
    let mut sampler = Sampler::new();
    let patience = Duration::from_secs(args.timeout);
    let mut skipped = None;
    while sampler.tally.frames < args.frames {
        let before = sampler.tally.frames;
        skipped = sampler.take(&attached.ram, &mut region, before + 1, Instant::now() + patience, |_, _| Ok(()))?;
        if sampler.tally.frames == before {
            break;
        }
    }
    let Some(info) = sampler.last else {
        let why = skipped.map_or_else(|| "no frame".to_owned(), |skip| skip.to_string());
        return Err(Failure::Nothing(format!("no frame within {} s: {why}", args.timeout)));
    };
    sampler.write_png(&args.output)?;
    let short = (sampler.tally.frames < args.frames)
        .then(|| format!("{} of {} frames within the time", sampler.tally.frames, args.frames));
    Ok(Report {
        json: json!({
            "file": args.output.display().to_string(),
            "frame": show::frame(&info),
            "frames": sampler.tally.frames,
            "missed": sampler.tally.missed,
            "candidate": show::candidate(seen),
        }),
        text: format!(
            "{}: frame {}, {} x {}, {} bytes; {} taken, {} missed",
            args.output.display(),
            info.desc.frame_id,
            info.desc.width,
            info.desc.height,
            info.bytes,
            sampler.tally.frames,
            sampler.tally.missed
        ),
        nothing: short,
        note: None,
    })
}

pub(crate) fn status(args: &args::Status) -> Result<Report, Failure> {
    let (attached, search) = look(&args.find)?;
    let seen = live(&search, args.stale)?;
    let mut region = seen.region;
    let status = region.read_status(&attached.ram)?;
    let cursor = region.read_cursor(&attached.ram)?;
    let geometry = region.read_geometry(&attached.ram)?;
    let json = json!({
        "candidate": show::candidate(seen),
        "status": show::sample(status, status_json),
        "cursor": show::sample(cursor, cursor_json),
        "geometry": show::sample(geometry, geometry_json),
    });
    let lines = [
        show::line(seen),
        format!(
            "status    {}",
            show::text(status, |now| {
                format!(
                    "{} by {}, heartbeat {}, epoch {}, {} fps, error {}",
                    now.status, now.backend, now.heartbeat, now.run_epoch, now.applied_fps, now.error_code
                )
            })
        ),
        format!(
            "cursor    {}",
            show::text(cursor, |now| {
                let shown = if now.visible { "shown" } else { "hidden" };
                format!("{} at {}, {}, {shown}, glyph {} x {}", now.id, now.x, now.y, now.glyph_w, now.glyph_h)
            })
        ),
        format!(
            "geometry  {}",
            show::text(geometry, |now| {
                format!(
                    "{} x {} at {}, {}, captured from {}, {}, {} dpi, {} mHz",
                    now.virt_w, now.virt_h, now.virt_x, now.virt_y, now.cap_x, now.cap_y, now.dpi, now.refresh_mhz
                )
            })
        ),
    ];
    let text = lines.join("\n");
    Ok(Report { json, text, nothing: None, note: None })
}

fn status_json(status: StatusSnapshot) -> Value {
    json!({
        "heartbeat": status.heartbeat,
        "run_epoch": status.run_epoch,
        "status": status.status.to_string(),
        "backend": status.backend.to_string(),
        "error_code": status.error_code,
        "applied_fps": status.applied_fps,
        "supported_formats": status.supported_formats,
        "ctrl_ack": status.ctrl_ack,
        "full_frame_ack": status.full_frame_ack,
        "content_change_ns": status.content_change_ns,
    })
}

fn cursor_json(cursor: CursorSnapshot) -> Value {
    json!({
        "seq": cursor.seq,
        "visible": cursor.visible,
        "x": cursor.x,
        "y": cursor.y,
        "hot": [cursor.hot_x, cursor.hot_y],
        "glyph": [cursor.glyph_w, cursor.glyph_h],
        "id": cursor.id.to_string(),
    })
}

fn geometry_json(geometry: GeometrySnapshot) -> Value {
    json!({
        "virtual": { "x": geometry.virt_x, "y": geometry.virt_y, "w": geometry.virt_w, "h": geometry.virt_h },
        "capture": { "x": geometry.cap_x, "y": geometry.cap_y },
        "dpi": geometry.dpi,
        "refresh_mhz": geometry.refresh_mhz,
    })
}
