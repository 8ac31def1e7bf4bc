//! A producer that misbehaves: it lies, remaps its region, breaks its sessions, and dies in the middle of a frame.
//!
//! What it never does is to lie about what it paints: a reader that checks every pixel against the number in the
//! descriptor has to find every frame whole, whatever else is wrong. So the descriptors' frame numbers, cursor and
//! geometry stay true, sizes are lied about only beyond what can be, and a sequence number only with an odd one.

use core::time::Duration;
use std::io;

use vgpu_perception::abi::{self, producer};

use crate::mapped::MappedRegion;
use crate::producer::{Producer, Start};
use crate::write::RegionWrite as _;

/// Decides what goes wrong, from a seed.
#[derive(Debug)]
pub(crate) struct Chaos {
    state: u64,
}

impl Chaos {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    fn next(&mut self) -> u64 {
        // xorshift64*
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, most: u64) -> u64 {
        (self.next() >> 32) % most
    }

    fn word(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).unwrap_or(0)
    }

    /// Whether the producer dies at this row of a frame; once in 200 000 rows.
    pub(crate) fn dies(&mut self) -> bool {
        self.below(200_000) == 0
    }

    /// What happens between two frames.
    pub(crate) fn between(&mut self, producer: &mut Producer<MappedRegion>) -> io::Result<()> {
        match self.below(1024) {
            0 | 1 => {
                producer.region().renew()?;
                let run_epoch = producer.run_epoch().wrapping_add(1);
                producer.restart(Start { run_epoch, ..Start::default() });
            }
            2 | 3 => producer.new_run_epoch(),
            4..=255 => {
                let at = self.place();
                let truth = producer.region().load_u32(at);
                let lie = self.lie(at);
                producer.region().store_u32(at, lie);
                std::thread::sleep(Duration::from_micros(self.below(20_000)));
                producer.region().store_u32(at, truth);
            }
            _ => {}
        }
        Ok(())
    }

    /// A word that may be lied about.
    fn place(&mut self) -> u64 {
        loop {
            let (start, len) = match self.below(8) {
                0 => (producer::CURSOR_SEQ, 4),
                1 => (producer::GEOM_SEQ, 4),
                2 | 3 => (producer::STATUS, 0x30),
                4 => (abi::CONTROL_OFFSET, 0x40),
                _ => (producer::LATEST, producer::CURSOR - producer::LATEST),
            };
            let at = start + 4 * self.below(len / 4);
            let in_desc = at.checked_sub(producer::DESC).map(|from| from % producer::DESC_BYTES);
            let frame_id = core::mem::offset_of!(abi::Desc, frame_id) as u64;
            let is_number = at < producer::CURSOR && in_desc.is_some_and(|field| field & !7 == frame_id);
            if !is_number {
                return at;
            }
        }
    }

    fn lie(&mut self, at: u64) -> u32 {
        let any = self.word();
        let is_seq =
            (producer::SEQ..producer::FRAME_ID).contains(&at) || at == producer::CURSOR_SEQ || at == producer::GEOM_SEQ;
        let is_desc = (producer::DESC..producer::CURSOR).contains(&at);
        match () {
            () if is_seq => any | 1,
            () if is_desc => any | 1 << 31,
            () if any & 1 == 0 => any >> 1 & 7,
            () => any,
        }
    }
}
