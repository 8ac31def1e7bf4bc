//! The tour: the main job with nothing to install. A synthetic guest in a RAM file, a producer in another process, and
//! the library that knows of neither.

mod machine;

use core::time::Duration;
use std::time::Instant;

use serde_json::json;
use vgpu_perception::NextUse;
use vgpu_perception_host::attach::bytes;
use vgpu_perception_producer::pattern;

use crate::args;
use crate::commands::{Report, found};
use crate::failure::Failure;
use crate::frames::Sampler;
use crate::look::{Until, look};
use crate::output::{Still, Target};
use crate::show;
use crate::stop::Stop;

use machine::{Machine, Remains};

pub(crate) use machine::produce;

/// Says what is done while it is done; on standard error, so that the result stays the only output.
struct Guide {
    quiet: bool,
    step: u32,
}

impl Guide {
    fn say(&mut self, text: &str) {
        self.step += 1;
        if !self.quiet {
            eprintln!("{}. {text}", self.step);
        }
    }

    fn more(&self, text: &str) {
        if !self.quiet {
            eprintln!("   {text}");
        }
    }
}

pub(crate) fn demo(args: &args::Demo, quiet: bool) -> Result<Report, Failure> {
    let remains = Remains::default();
    let stop = Stop::on_signals({
        let remains = remains.clone();
        move || remains.clear()
    })?;
    let done = tour(args, quiet, &remains, &stop);
    remains.clear();
    done
}

/// An end by a signal is none of the guest's.
fn go_on(stop: &Stop, remains: &Remains) -> Result<(), Failure> {
    match stop.signal() {
        Some(signal) => Err(Failure::Nothing(format!("ended by signal {signal}; nothing is left behind"))),
        None => remains.check(),
    }
}

fn tour(args: &args::Demo, quiet: bool, remains: &Remains, stop: &Stop) -> Result<Report, Failure> {
    let mut guide = Guide { quiet, step: 0 };
    let target = Target::of(&args.output);
    let still = Still::of(None, &args.output)?;
    target.check()?;
    let system = if args.windows { "Windows" } else { "Linux" };
    guide.say(&format!(
        "Building a {system} guest of 4 GiB in a sparse file, and starting a producer in another process"
    ));
    let machine = Machine::start(args.windows, remains)?;
    guide.more(&format!("{}, of which {} are written", machine.ram.display(), bytes(machine.taken())));
    guide.say("Searching its memory for a region, knowing only where its RAM is");
    let guest = machine.attach()?;
    // The producer draws its first frame while it is being looked for: a retry is the normal case of a guest that
    // boots.
    let deadline = Instant::now() + Duration::from_secs(20);
    let (look, mut live) = loop {
        go_on(stop, remains)?;
        let mut look = look(&guest, Duration::from_millis(600), Until::AllAreKnown)?;
        if !look.lives.is_empty() {
            let live = look.lives.remove(0);
            break (look, live);
        }
        if Instant::now() > deadline {
            return Err(Failure::Nothing(show::advice(&look)));
        }
    };
    let report = found(&look);
    guide.more(&report.text.replace('\n', "\n   "));
    guide.say(&format!("Taking frames for {} s, and comparing every pixel with what the producer drew", args.seconds));
    let mut sampler = Sampler::new();
    live.set_copy(NextUse::ReadSoon);
    let mut whole = 0_u64;
    for second in 0..args.seconds {
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            go_on(stop, remains)?;
            let short = until.min(Instant::now() + Duration::from_millis(100));
            sampler.take(&mut live, u64::MAX, short, |info, pixels| {
                let (id, width, height) = (info.desc.frame_id, info.desc.width, info.desc.height);
                whole += u64::from(pattern::check(id, width, height, pixels).is_ok());
                Ok(())
            })?;
        }
        guide.more(&format!("{} s: {} frames, {whole} of them right", second + 1, sampler.tally.frames));
    }
    let Some(info) = sampler.last else { return Err(Failure::Nothing("the producer published no frame".into())) };
    guide.say(&format!("Writing the last one to {target}"));
    sampler.write(&target, still)?;
    let tally = sampler.tally;
    let text = format!(
        "{whole} of {} frames verified pixel by pixel in {} s; {} missed, {} retries\n{target}: frame {}, {} x {}",
        tally.frames, args.seconds, tally.missed, tally.raced, info.desc.frame_id, info.desc.width, info.desc.height
    );
    let json = json!({
        "find": report.json,
        "frames": tally.frames,
        "whole": whole,
        "missed": tally.missed,
        "raced": tally.raced,
        "frame": show::frame(&info),
        "file": target.to_string(),
    });
    let torn = (whole != tally.frames).then(|| format!("{} frames were not whole", tally.frames - whole));
    let report = Report { json, text, nothing: torn, note: None };
    #[cfg(feature = "serve")]
    if args.serve {
        return wall(args, quiet, report, machine, (remains, stop));
    }
    Ok(report)
}

/// The wall on the built-in guests, until a signal comes.
#[cfg(feature = "serve")]
fn wall(
    args: &args::Demo,
    quiet: bool,
    report: Report,
    first: Machine,
    (remains, stop): (&Remains, &Stop),
) -> Result<Report, Failure> {
    let second = Machine::start(!args.windows, remains)?;
    let names = if args.windows { ["windows", "linux"] } else { ["linux", "windows"] };
    let mut sources = Vec::new();
    for (name, machine) in names.into_iter().zip([first, second]) {
        eprintln!("   on {name}, from another terminal: vgpu stream {} | ffmpeg -i - {name}.mkv", machine.words());
        let attach = move || machine.attach().map_err(|failure| failure.to_string());
        sources.push(vgpu_perception_serve::Source { name: name.into(), key: name.into(), attach: Box::new(attach) });
    }
    if !quiet {
        eprintln!("   {}", report.text.replace('\n', "\n   "));
        eprintln!("Open this page; ctrl-C ends it, and removes the guests:");
    }
    crate::serve::run(sources, None, &args.listen, quiet, stop, || remains.news())?;
    // The result was said before the wall was.
    Ok(Report { text: String::new(), ..report })
}
