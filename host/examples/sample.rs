//! A frame of a guest as a picture: `cargo run -p vgpu-perception-host --example sample`
//!
//! Without arguments it makes a guest of its own. For yours: `sample GUEST`, as `vgpu list` names it. The frame is
//! written to `frame.ppm`, which every image viewer opens.

use core::error::Error;

use vgpu_perception_host::{FrameBuffer, Guest, Ram, Sample};

mod own;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1) {
        Some(name) => sample(&Guest::attach(&name)?),
        None => own::guest().and_then(|(_running, guest)| sample(&guest)),
    }
}

fn sample(guest: &Guest<Ram>) -> Result<(), Box<dyn Error>> {
    let mut survey = guest.survey()?;
    println!("{} candidates", survey.candidates().len());
    // Only producers whose heartbeat moves meanwhile are given.
    std::thread::sleep(survey.wait());
    let mut live = survey.confirm()?.into_iter().next().ok_or("no producer lives in this guest")?;
    let mut bgra = FrameBuffer::new(3840 * 2160 * 4);
    let frame = loop {
        match live.frame(&mut bgra)? {
            Sample::Fresh(frame) => break frame,
            // The writer was at work, or there is no frame yet.
            Sample::Skip(why) => println!("not yet: {why}"),
        }
        std::thread::sleep(core::time::Duration::from_millis(2));
    };
    let (width, height) = (frame.desc.width, frame.desc.height);
    let mut ppm = format!("P6 {width} {height} 255\n").into_bytes();
    ppm.extend(bgra[..frame.bytes].chunks_exact(4).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]));
    std::fs::write("frame.ppm", ppm)?;
    println!("frame.ppm: frame {}, {width} x {height}", frame.desc.frame_id);
    if let Sample::Fresh(cursor) = live.cursor()? {
        println!("cursor {} at {}, {}", cursor.id, cursor.x, cursor.y);
    }
    Ok(())
}
