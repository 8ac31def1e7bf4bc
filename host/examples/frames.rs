//! `cargo run --release -p vgpu-perception-host --example frames -- GUEST`
//!
//! Takes the newest frame of every producer that lives in a guest. The program of the project's README.

use vgpu_perception_host::{FrameBuffer, Guest, Sample};

fn main() -> Result<(), Box<dyn core::error::Error>> {
    let name = std::env::args().nth(1).ok_or("usage: frames GUEST, as `vgpu list` names it")?;
    // A VM's name, pid:N, qmp:SOCKET, ch:SOCKET, ram:FILE or core:FILE.
    let guest = Guest::attach(&name)?;
    // Candidates: whatever reads like a region, in any process of the guest.
    let mut survey = guest.survey()?;
    // The wait is yours: the library never sleeps.
    std::thread::sleep(survey.wait());
    let mut picture = FrameBuffer::new(3840 * 2160 * 4);
    // Only producers whose heartbeat moved.
    for mut live in survey.confirm()? {
        if let Sample::Fresh(frame) = live.frame(&mut picture)? {
            println!("frame {}: {} x {} pixels, BGRA", frame.desc.frame_id, frame.desc.width, frame.desc.height);
        }
    }
    Ok(())
}
