//! `frame_time RAM-FILE GPA:LENGTH:OFFSET...`: how long a frame takes, for others to be compared with.
//!
//! For each line of standard input, a number: takes so many times the latest frame anew, and prints the median in
//! microseconds. `.ci/python time` asks it and the Python module in turns.

use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use vgpu_perception::NextUse;
use vgpu_perception_host::attach::{GuestSource, GuestSpec};
use vgpu_perception_host::{FrameBuffer, Guest, Sample, Watch};
use vgpu_perception_mapped::SegmentMap;

fn main() -> Result<(), Box<dyn core::error::Error>> {
    let mut words = std::env::args().skip(1);
    let ram = words.next().ok_or("usage: frame_time RAM-FILE GPA:LENGTH:OFFSET...")?;
    let spec = GuestSpec::new(GuestSource::Ram(vec![ram.into()])).map(SegmentMap::parse(words)?);
    let mut watch = Watch::new(Guest::attach_to(&spec)?);
    while watch.live().is_none() {
        let (_, next) = watch.step(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let Some(live) = watch.live() else { return Ok(()) };
    live.set_copy(NextUse::ReadSoon);
    let mut picture = FrameBuffer::new(3840 * 2160 * 4);
    for line in std::io::stdin().lock().lines() {
        let mut times = Vec::new();
        for _ in 0..line?.trim().parse::<u32>()? {
            live.forget_frames();
            let begun = Instant::now();
            let sample = live.frame(&mut picture)?;
            if let Sample::Fresh(_) = sample {
                times.push(begun.elapsed());
            }
        }
        times.sort_unstable();
        let median = times.get(times.len() / 2).ok_or("no frame was taken")?;
        println!("{:.2}", median.as_secs_f64() * 1e6);
        std::io::stdout().flush()?;
    }
    Ok(())
}
