//! A DIMM that is plugged in after attaching: a new look sees it, whichever way the guest was named.

use core::time::Duration;
use std::thread::sleep;
use std::time::Instant;

use vgpu_perception::paging::WalkErrorKind;
use vgpu_perception::region::Sample;
use vgpu_perception::{PhysErrorKind, abi};
use vgpu_perception_guest_tests::{Guest, Memory, Options, Result};
use vgpu_perception_host::attach::{Attachment, attach};
use vgpu_perception_host::{Live, Ram};
use vgpu_perception_producer::pattern;

use super::ways::{SIZE, SMALL, show, spec};
use super::{Length, ensure};

const MIB: u64 = 256;
/// How long the guest's kernel may take to use what was plugged in.
const PATIENCE: Duration = Duration::from_secs(60);
/// Slots of a region's ring.
const SLOTS: u64 = abi::SLOT_COUNT as u64;
const ATTEMPTS: u32 = 5;

/// In shared memory, by the monitor; in full by process and name, and in private memory too.
pub(crate) fn run(length: Length) -> Result<()> {
    let shared = "memory-backend-memfd,id=more,size=256M,share=on";
    if length == Length::Short {
        later(Memory::Memfd, shared, 1)?;
        return outside(Memory::Memfd, shared);
    }
    later(Memory::Memfd, shared, 3)?;
    outside(Memory::Memfd, shared)?;
    let private = "memory-backend-ram,id=more,size=256M";
    later(Memory::Private, private, 3)?;
    outside(Memory::Private, private)
}

fn plug(guest: &mut Guest, backend: &str) -> Result<()> {
    guest.qmp().human(&format!("object_add {backend}"))?;
    let answer = guest.qmp().human("device_add pc-dimm,id=dimm1,memdev=more")?;
    ensure!(answer.is_empty(), "QEMU plugs no memory: {answer}");
    Ok(())
}

/// A producer that was found before writes to a slot for the first time after the DIMM was plugged in, and Linux takes
/// its pages from there: the reader's map does not have them, and says which page that is; the next survey reads it.
fn outside(memory: Memory, backend: &str) -> Result<()> {
    let mut guest = Guest::boot(Options { memory, append: "memhp_default_state=online", ..SMALL })?;
    let host = vgpu_perception_host::Guest::attach(&format!("qmp:{}", guest.qmp_path().display()))?;
    let mut picture = vec![0; (SIZE.0 * SIZE.1 * 4) as usize];
    let producer = format!("--width {} --height {} --fps 1", SIZE.0, SIZE.1);
    // A frame a second, and three slots: it is stopped before it has written to all of them, in a few attempts at most.
    let mut live = None;
    for _ in 0..ATTEMPTS {
        guest.start_producer(&producer)?;
        let found = first(&host)?;
        guest.send("freeze")?;
        guest.wait_for("frozen")?;
        if let Some(mut one) = found
            && let Sample::Fresh(frame) = one.frame(&mut picture)?
            && frame.desc.frame_id < SLOTS
        {
            live = Some(one);
            break;
        }
        guest.kill_producer()?;
    }
    let mut live = live.ok_or("no producer was stopped before its third frame")?;
    let before = total(&mut guest)?;
    plug(&mut guest, backend)?;
    let deadline = Instant::now() + PATIENCE;
    while total(&mut guest)? < before + (MIB << 9) {
        ensure!(Instant::now() < deadline, "the guest's kernel uses no memory that is plugged in: {before} KiB");
        sleep(Duration::from_millis(100));
    }
    guest.send("thaw")?;
    guest.wait_for("thawed")?;
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        ensure!(Instant::now() < deadline, "no frame lies in the memory that was plugged in");
        match live.frame(&mut picture) {
            Ok(_) => sleep(Duration::from_millis(10)),
            Err(error) => break error,
        }
    };
    // The table of the page may lie there too.
    let (WalkErrorKind::Page { error: page } | WalkErrorKind::Table { error: page, .. }) = error.error.kind else {
        return Err(format!("the page leads outside of the map, and this is said: {error}").into());
    };
    let says = error.to_string();
    ensure!(page.kind == PhysErrorKind::Gap && page.gpa.get() >= 4 << 30, "no page of the DIMM is named: {error}");
    ensure!(says.contains(&page.gpa.to_string()) && says.contains("plugged in"), "{says}");
    let mut live = first(&host)?.ok_or("the next survey does not find the producer")?;
    let deadline = Instant::now() + PATIENCE;
    let (mut taken, mut newest) = (0, 0);
    while taken < SLOTS {
        ensure!(Instant::now() < deadline, "{taken} frames after the next survey");
        let Sample::Fresh(frame) = live.frame(&mut picture)? else {
            sleep(Duration::from_millis(10));
            continue;
        };
        pattern::check(frame.desc.frame_id, SIZE.0, SIZE.1, &picture[..frame.bytes])?;
        ensure!(frame.desc.frame_id > newest, "frame {} after {newest}", frame.desc.frame_id);
        (taken, newest) = (taken + 1, frame.desc.frame_id);
    }
    println!(
        "  {memory:?}, a slot in memory that was plugged in later: \"{says}\"; after the next survey frames right"
    );
    Ok(())
}

/// KiB that the guest's kernel uses.
fn total(guest: &mut Guest) -> Result<u64> {
    guest.send("memory")?;
    let line = guest.wait_for("memory ")?;
    Ok(line.trim_start_matches("memory ").parse()?)
}

/// The first producer of a new survey whose heart beats.
fn first(host: &vgpu_perception_host::Guest) -> Result<Option<Live<Ram>>> {
    let mut survey = host.survey()?;
    sleep(survey.wait());
    Ok(survey.confirm()?.into_iter().next())
}

/// By the first of the ways, so many.
fn later(memory: Memory, backend: &str, count: usize) -> Result<()> {
    let mut guest = Guest::boot(Options { memory, ..SMALL })?;
    let ready = guest.start_producer(&format!("--width {} --height {} --fps 20", SIZE.0, SIZE.1))?;
    let ways = [
        format!("qmp:{}", guest.qmp_path().display()),
        format!("pid:{}", guest.pid()),
        format!("name:{}", guest.name()),
    ];
    let mut attached = Vec::new();
    for way in ways.iter().take(count) {
        let mut attachment = attach(&spec(way)?)?;
        let before = attachment.ram.bytes();
        attachment.refresh()?;
        ensure!(attachment.ram.bytes() == before, "{way}: nothing was plugged, and RAM has grown");
        attached.push((way, attachment, before));
    }
    plug(&mut guest, backend)?;
    for (way, mut attachment, before) in attached {
        let took = wait(&mut attachment, before)?;
        let after = attachment.ram.bytes();
        ensure!(after == before + (MIB << 20), "{way}: {before} bytes before, {after} after {MIB} MiB were plugged");
        ensure!(
            attachment.ram.end().get() > 4 << 30,
            "{way}: what is plugged lies above 4 GiB: {}",
            attachment.ram.end()
        );
        show(&attachment, ready, SIZE)?;
        // Who attaches now has it from the start.
        let now = attach(&spec(way)?)?.ram.bytes();
        ensure!(now == after, "{way}: attached anew, {now} bytes");
        let kind = way.split(':').next().unwrap_or_default();
        let notes: String = attachment.notes.iter().map(|note| format!("; {note}")).collect();
        println!(
            "  {memory:?}, {MIB} MiB plugged in later, by {kind}: seen {:.1} s after, frames right{notes}",
            took.as_secs_f64()
        );
    }
    Ok(())
}

/// Looks until there is more RAM.
fn wait(attachment: &mut Attachment, before: u64) -> Result<Duration> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        attachment.refresh()?;
        if attachment.ram.bytes() > before {
            break;
        }
        // A look is taken at each survey, and their number is limited.
        sleep(Duration::from_secs(4));
    }
    Ok(begun.elapsed())
}
