//! `find`, `sample` and `status`.

use core::time::Duration;
use std::time::Instant;

use serde_json::{Value, json};
use vgpu_perception::NextUse;
use vgpu_perception::region::{CursorSnapshot, GeometrySnapshot, StatusSnapshot};
use vgpu_perception_host::{Live, Ram, Sighting};

use crate::args;
use crate::attach::attach;
use crate::failure::Failure;
use crate::frames::Sampler;
use crate::look::{Look, Until, look};
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

fn look_at(find: &args::Find, until: Until) -> Result<Look, Failure> {
    look(&attach(&find.guest)?, Duration::from_millis(find.wait_ms), until)
}

/// The best live region, or the best at all where that is enough; a failure that says why there is none.
fn chosen(look: &mut Look, stale_will_do: bool) -> Result<(Live<Ram>, Sighting), Failure> {
    let first = look.survey.candidates().first().copied();
    let live = if look.lives.is_empty() { None } else { Some(look.lives.remove(0)) };
    match (live, first) {
        (Some(live), _) => {
            let place = (live.candidate().process.space.root, live.candidate().base);
            let same = |one: &&Sighting| (one.candidate.process.space.root, one.candidate.base) == place;
            let sighting = look.survey.candidates().iter().find(same).copied().or(first);
            sighting.map(|sighting| (live, sighting)).ok_or_else(|| Failure::Nothing(show::advice(look)))
        }
        (None, Some(first)) if stale_will_do => Ok((look.survey.open(&first), first)),
        (None, first) => {
            let hint = if first.is_none() { "" } else { "; --stale takes a region whose producer does not live" };
            Err(Failure::Nothing(format!("{}{hint}", show::advice(look))))
        }
    }
}

pub(crate) fn found(look: &Look) -> Report {
    let seen = look.survey.candidates();
    let candidates: Vec<_> = seen.iter().map(show::candidate).collect();
    let mut lines: Vec<_> = seen.iter().map(show::line).collect();
    lines.push(show::summary(look));
    let advice = look.lives.is_empty().then(|| show::advice(look));
    let (nothing, note) = if seen.is_empty() { (advice, None) } else { (None, advice) };
    Report {
        json: json!({ "candidates": candidates, "left": look.survey.left(), "scanned": show::scanned(look) }),
        text: lines.join("\n"),
        nothing,
        note,
    }
}

pub(crate) fn find(args: &args::Find) -> Result<Report, Failure> {
    Ok(found(&look_at(args, Until::AllAreKnown)?))
}

pub(crate) fn sample(args: &args::Sample) -> Result<Report, Failure> {
    let mut look = look_at(&args.find, Until::OneLives)?;
    let (mut live, seen) = chosen(&mut look, args.stale)?;
    let mut sampler = Sampler::new();
    live.set_copy(NextUse::ReadSoon);
    let patience = Duration::from_secs(args.timeout);
    let mut skipped = None;
    while sampler.tally.frames < args.frames {
        let before = sampler.tally.frames;
        skipped = sampler.take(&mut live, before + 1, Instant::now() + patience, |_, _| Ok(()))?;
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
            "candidate": show::candidate(&seen),
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
    let mut look = look_at(&args.find, Until::OneLives)?;
    let (mut live, seen) = chosen(&mut look, args.stale)?;
    let status = live.status()?;
    let cursor = live.cursor()?;
    let geometry = live.geometry()?;
    let json = json!({
        "candidate": show::candidate(&seen),
        "status": show::sample(status, status_json),
        "cursor": show::sample(cursor, cursor_json),
        "geometry": show::sample(geometry, geometry_json),
    });
    let lines = [
        show::line(&seen),
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
