//! `find`, `sample` and `status`.

use core::time::Duration;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use vgpu_perception::NextUse;
use vgpu_perception::region::{CursorSnapshot, GeometrySnapshot, StatusSnapshot};
use vgpu_perception_host::attach::bytes;
use vgpu_perception_host::{Live, Ram, Sighting};

use crate::args;
use crate::attach::attach;
use crate::failure::Failure;
use crate::frames::Sampler;
use crate::look::{Look, Until, look};
use crate::output::{Still, Target, named, numbered};
use crate::progress::Progress;
use crate::show;
use crate::verbose;
use crate::which::{self, Choice};

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

/// The best live region that fits, or the best at all where that is enough or nothing can live, with what to say of
/// others.
fn chosen(look: &mut Look, choice: &Choice<'_>, stale_will_do: bool) -> Result<Chosen, Failure> {
    let mut live = choice.live(look);
    if !live.is_empty() {
        let (one, seen) = live.remove(0);
        let note = which::several(&seen, &live);
        return Ok((one, seen, note));
    }
    match choice.first(look) {
        Some(first) if stale_will_do || look.stands_still => Ok((look.survey.open(&first), first, None)),
        _ => Err(choice.none(look)),
    }
}

type Chosen = (Live<Ram>, Sighting, Option<String>);

pub(crate) fn found(look: &Look) -> Report {
    let seen = look.survey.candidates();
    let candidates: Vec<_> = seen.iter().map(show::candidate).collect();
    let mut lines = vec![show::result(look)];
    lines.extend(seen.iter().map(show::row));
    if verbose::is_enabled() {
        lines.push(show::kind(look.survey.kernel()));
        lines.push(show::summary(look));
    }
    let advice = look.lives.is_empty().then(|| show::advice(look));
    let (nothing, note) = if seen.is_empty() { (advice, None) } else { (None, advice) };
    Report {
        json: json!({
            "candidates": candidates,
            "left": look.survey.left(),
            "live": !look.lives.is_empty(),
            "scanned": show::scanned(look),
        }),
        text: lines.join("\n"),
        nothing,
        note,
    }
}

pub(crate) fn find(args: &args::Find) -> Result<Report, Failure> {
    let look = look_at(args, Until::AllAreKnown)?;
    if look.unusable.is_some() && look.survey.candidates().is_empty() {
        return Err(Failure::Guest(show::advice(&look)));
    }
    Ok(found(&look))
}

/// The place of the picture is tried before anything is waited for.
pub(crate) fn sample(args: &args::Sample, json: bool) -> Result<Report, Failure> {
    let target = Target::of(&args.output);
    if target.is_stdout() && (json || args.all || args.each.is_some()) {
        let other = if json { "--json" } else { "--each or --all" };
        return Err(Failure::Usage(format!("{other} does not go with -o -: give -o FILE")));
    }
    let still = Still::of(args.format, &args.output)?;
    target.check()?;
    let until = if args.all { Until::AllAreKnown } else { Until::BestIsKnown };
    let mut look = look_at(&args.find, until)?;
    let choice = Choice::new(&args.which, &args.find.guest);
    if args.all {
        return sample_all(args, &mut look, &choice, still);
    }
    let (live, seen, note) = chosen(&mut look, &choice, args.stale)?;
    let report = take(args, live, &seen, &args.output, still)?;
    let note = [note, report.note].into_iter().flatten().reduce(|one, other| format!("{one}\n{other}"));
    Ok(Report { note, ..report })
}

/// Each live region into a file of its own.
fn sample_all(args: &args::Sample, look: &mut Look, choice: &Choice<'_>, still: Still) -> Result<Report, Failure> {
    let live = choice.live(look);
    if live.is_empty() {
        return Err(choice.none(look));
    }
    let (mut json, mut lines, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for (live, seen) in live {
        let (base, root) = (seen.candidate.base.get(), seen.candidate.process.space.root.get());
        let path = named(&args.output, &format!("{base:x}-{root:x}"));
        match take(args, live, &seen, &path, still) {
            Ok(report) => {
                json.push(report.json);
                lines.push(report.text);
                failed.extend(report.nothing);
            }
            Err(failure) => {
                json.push(json!({ "candidate": show::candidate(&seen), "error": failure.to_string() }));
                failed.push(format!("{}: {failure}", show::line(&seen)));
            }
        }
    }
    let nothing = (!failed.is_empty()).then(|| failed.join("\n"));
    Ok(Report { json: json!({ "regions": json }), text: lines.join("\n"), nothing, note: None })
}

/// Takes frames of one region, and writes the last or each.
fn take(
    args: &args::Sample,
    mut live: Live<Ram>,
    seen: &Sighting,
    output: &Path,
    still: Still,
) -> Result<Report, Failure> {
    let target = Target::of(output);
    let mut sampler = Sampler::new();
    live.set_copy(NextUse::ReadSoon);
    let wanted = args.each.unwrap_or(args.frames);
    let mut files = Vec::new();
    let mut why = None;
    let progress = Progress::start("waiting for a frame");
    while sampler.tally.frames < wanted {
        let before = sampler.tally.frames;
        progress.say(|| format!("{before} of {wanted} frames taken"));
        let until = Instant::now() + Duration::from_secs(args.timeout);
        match sampler.take(&mut live, before + 1, until, |_, _| Ok(())) {
            Ok(_) if sampler.tally.frames > before => {}
            Ok(skip) => {
                let what = skip.map_or_else(|| "no frame".to_owned(), |skip| skip.to_string());
                why = Some(format!("no frame within {} s: {what}", args.timeout));
            }
            // What was taken before is not lost with the producer.
            Err(failure) if before > 0 => why = Some(failure.to_string()),
            Err(failure) => return Err(failure),
        }
        if why.is_some() {
            break;
        }
        if let Some(count) = args.each {
            let file = numbered(output, sampler.tally.frames, count);
            sampler.write(&Target::File(file.clone()), still)?;
            files.push(file.display().to_string());
        }
    }
    drop(progress);
    let Some(info) = sampler.last else {
        return Err(Failure::Nothing(why.unwrap_or_else(|| "no frame".to_owned())));
    };
    if args.each.is_none() {
        sampler.write(&target, still)?;
        files.push(target.to_string());
    }
    let nothing = why.map(|why| format!("{} of {wanted} frames: {why}", sampler.tally.frames));
    let mut text = format!(
        "{}: frame {}, {} x {}; {} taken, {} missed",
        files.last().map_or("-", String::as_str),
        info.desc.frame_id,
        info.desc.width,
        info.desc.height,
        sampler.tally.frames,
        sampler.tally.missed
    );
    if verbose::is_enabled() {
        let (size, raced) = (bytes(info.bytes as u64), sampler.tally.raced);
        text.push_str(&format!("; {size} of pixels, {raced} retries\n  {}", show::line(seen)));
    }
    let json = json!({
        "file": files.last(),
        "files": files,
        "frame": show::frame(&info),
        "frames": sampler.tally.frames,
        "missed": sampler.tally.missed,
        "live": seen.is_alive(),
        "candidate": show::candidate(seen),
    });
    let (text, note) = if target.is_stdout() { (String::new(), Some(text)) } else { (text, None) };
    Ok(Report { json, text, nothing, note })
}

pub(crate) fn status(args: &args::Status) -> Result<Report, Failure> {
    let mut look = look_at(&args.find, Until::BestIsKnown)?;
    let choice = Choice::new(&args.which, &args.find.guest);
    let (mut live, seen, note) = chosen(&mut look, &choice, args.stale)?;
    let status = live.status()?;
    let cursor = live.cursor()?;
    let geometry = live.geometry()?;
    let json = json!({
        "live": seen.is_alive(),
        "candidate": show::candidate(&seen),
        "status": show::sample(status, status_json),
        "cursor": show::sample(cursor, cursor_json),
        "geometry": show::sample(geometry, geometry_json),
    });
    let lines = [
        format!(
            "status    {}",
            show::text(status, |now| {
                format!(
                    "{}, heartbeat {}, session {}, {} frames a second, error {}",
                    show::capture(&now),
                    now.heartbeat,
                    now.run_epoch,
                    now.applied_fps,
                    now.error_code
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
                    "{} x {} at {}, {}, captured from {}, {}, {} dpi, {}",
                    now.virt_w,
                    now.virt_h,
                    now.virt_x,
                    now.virt_y,
                    now.cap_x,
                    now.cap_y,
                    now.dpi,
                    show::hertz(now.refresh_mhz)
                )
            })
        ),
        format!("region    {}", show::line(&seen)),
    ];
    let text = lines.join("\n");
    Ok(Report { json, text, nothing: None, note })
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
