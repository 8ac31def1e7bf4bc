//! `vgpu watch`: a guest's screen in the terminal, and how the reading goes.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Wrap};
use vgpu_perception::region::{CursorSnapshot, StatusSnapshot};
use vgpu_perception_host::Ram;
use vgpu_perception_view::{Condition, Counters, Feed, Picture, Taken, fit, pointer};

use crate::args;
use crate::attach::attach;
use crate::blocks::{Blocks, Colours};
use crate::failure::Failure;
use crate::show;
use crate::stop::Stop;

#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) guest: args::Guest,
    #[command(flatten)]
    pub(crate) which: args::Which,
    /// Looks a second
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=240))]
    pub(crate) fps: u32,
}

/// What the reader's thread shows to the one that draws.
#[derive(Debug, Default)]
struct Shown {
    condition: Condition,
    counters: Counters,
    /// The picture in the size of the terminal, and the size of the frame.
    pixels: Vec<u8>,
    size: (u32, u32),
    frame: Option<(u32, u32, u64)>,
    copied_in: Duration,
    status: Option<StatusSnapshot>,
    cursor: Option<CursorSnapshot>,
    fps: f64,
}

/// What both threads share.
#[derive(Debug, Default)]
struct Desk {
    shown: Mutex<Shown>,
    /// The room for the picture in half blocks: columns, and twice the lines.
    width: AtomicU32,
    height: AtomicU32,
    draws_cursor: AtomicBool,
}

pub(crate) fn watch(args: &Watch) -> Result<(), Failure> {
    if !io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "standard output is no terminal; for a pipe or a file: vgpu stream, vgpu sample".into(),
        ));
    }
    let guest = attach(&args.guest)?;
    if !guest.is_live() {
        return Err(Failure::Usage(
            "this is a dump, in which nothing moves: vgpu sample --stale takes its picture".into(),
        ));
    }
    let name = args.guest.guest.clone().or_else(|| args.guest.qmp.clone());
    let name = name.unwrap_or_else(|| args.guest.pid.map(|pid| format!("pid {pid}")).unwrap_or_default());
    // Whatever ends this, the terminal is as it was.
    let stop = Stop::on_signals(ratatui::restore)?;
    let desk = Arc::new(Desk { draws_cursor: AtomicBool::new(true), ..Desk::default() });
    let tick = Duration::from_secs(1) / args.fps;
    let reader = {
        let (desk, stop, feed) = (Arc::clone(&desk), stop.clone(), args.which.feed(guest));
        std::thread::Builder::new().name("reader".into()).spawn(move || read(feed, &desk, &stop, tick))
    };
    reader.map_err(|error| Failure::Guest(format!("cannot start a thread: {error}")))?;
    let mut terminal =
        ratatui::try_init().map_err(|error| Failure::Usage(format!("this terminal cannot be drawn on: {error}")))?;
    let done = draw(&mut terminal, &desk, &stop, &name);
    ratatui::restore();
    // The reader may be in the middle of a search; it holds nothing that outlives the process.
    done.map_err(|error| Failure::Guest(format!("terminal: {error}")))
}

/// Reads until the end, as often as frames are wanted.
fn read(mut feed: Feed<Ram>, desk: &Desk, stop: &Stop, tick: Duration) {
    let mut due = Instant::now();
    let (mut second, mut frames) = (Instant::now(), 0);
    let mut last = ((0, 0), None);
    while !stop.is_set() {
        feed.step(Instant::now());
        let taken = feed.take();
        let cursor = feed.cursor();
        let status = feed.status();
        let room = (desk.width.load(Ordering::Relaxed), desk.height.load(Ordering::Relaxed));
        let drawn = if desk.draws_cursor.load(Ordering::Relaxed) { cursor } else { None };
        let now = (room, drawn.map(|cursor| cursor.seq));
        let picture = if taken == Taken::New || (taken == Taken::Same && now != last) {
            last = now;
            let corner = feed.geometry().map_or((0, 0), |at| (at.cap_x, at.cap_y));
            feed.picture().and_then(|picture| small(&picture, room, drawn, corner))
        } else {
            None
        };
        {
            let mut shown = desk.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.condition = feed.condition().clone();
            shown.counters = *feed.counters();
            (shown.cursor, shown.status) = (cursor, status);
            if let Some((pixels, size)) = picture {
                (shown.pixels, shown.size) = (pixels, size);
                shown.frame = feed.frame().map(|info| (info.desc.width, info.desc.height, info.desc.frame_id));
                shown.copied_in = feed.copied_in();
            }
            if *feed.condition() != Condition::Live {
                // What nobody vouches for any more is not shown.
                shown.pixels.clear();
                shown.frame = None;
            }
            let gone = second.elapsed();
            if gone >= Duration::from_secs(1) {
                shown.fps = (feed.counters().frames - frames) as f64 / gone.as_secs_f64();
                (second, frames) = (Instant::now(), feed.counters().frames);
            }
        }
        due = (due + tick).max(Instant::now());
        stop.sleep_until(due);
    }
}

/// The picture as small as the room.
fn small(
    picture: &Picture<'_>,
    room: (u32, u32),
    cursor: Option<CursorSnapshot>,
    corner: (i32, i32),
) -> Option<(Vec<u8>, (u32, u32))> {
    if room.0 == 0 || room.1 == 0 {
        return None;
    }
    let (width, height) = fit(picture.width(), picture.height(), room.0, room.1);
    let mut pixels = picture.scaled(width, height).ok()?;
    if let Some(cursor) = cursor {
        // At its place in the small picture, in the size that it has on the screen.
        let scale = |at: i32, from: i32, small: u32, large: u32| {
            let place = (i64::from(at) - i64::from(from)) * i64::from(small) / i64::from(large.max(1));
            i32::try_from(place).unwrap_or(i32::MIN)
        };
        let x = scale(cursor.x, corner.0, width, picture.width());
        let y = scale(cursor.y, corner.1, height, picture.height());
        pointer::draw(&mut pixels, width, height, &CursorSnapshot { x, y, ..cursor }, 0, 0);
    }
    Some((pixels, (width, height)))
}

fn draw(terminal: &mut DefaultTerminal, desk: &Desk, stop: &Stop, name: &str) -> io::Result<()> {
    let colours = Colours::of_environment(|name| std::env::var(name).ok());
    while !stop.is_set() {
        terminal.draw(|frame| {
            let [top, middle, bottom] =
                Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(3)])
                    .areas(frame.area());
            desk.width.store(u32::from(middle.width), Ordering::Relaxed);
            desk.height.store(u32::from(middle.height) * 2, Ordering::Relaxed);
            let shown = desk.shown.lock().unwrap_or_else(PoisonError::into_inner);
            frame.render_widget(Line::from(format!("{name}: {}", shown.condition.word())), top);
            match Picture::new(shown.size.0, shown.size.1, &shown.pixels) {
                Ok(picture) => frame.render_widget(Blocks { picture, colours }, middle),
                Err(_) => {
                    let text = shown.condition.to_string();
                    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), middle);
                }
            }
            frame.render_widget(Paragraph::new(facts(&shown)), bottom);
        })?;
        // A key, or the next picture.
        let until = Instant::now() + Duration::from_millis(33);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !event::poll(left)? {
                break;
            }
            let Event::Key(key) = event::read()? else { continue };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                KeyCode::Char('c') => {
                    desk.draws_cursor.fetch_xor(true, Ordering::Relaxed);
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn facts(shown: &Shown) -> Vec<Line<'static>> {
    let Counters { frames, missed, retries, .. } = shown.counters;
    let mut first = format!("{:.1} fps  {frames} frames  {missed} missed  {retries} retries", shown.fps);
    if let Some((width, height, id)) = shown.frame {
        let micros = shown.copied_in.as_secs_f64() * 1e6;
        first.push_str(&format!("  seen to copied {micros:.0} us  {width} x {height}  frame {id}"));
    }
    let second = shown.status.map_or_else(String::new, |now| {
        format!(
            "{}, {} fps, heartbeat {}, session {}, error {}",
            show::capture(&now),
            now.applied_fps,
            now.heartbeat,
            now.run_epoch,
            now.error_code
        )
    });
    let third = shown.cursor.map_or_else(String::new, |now| {
        let seen = if now.visible { "" } else { ", hidden" };
        format!("cursor {} at {}, {}{seen}", now.id, now.x, now.y)
    });
    vec![Line::from(first), Line::from(second), Line::from(format!("{third}  [q]uit [c]ursor"))]
}
