//! What makes bytes a region: the structural rules, on one copy of the producer page and the control block.
//!
//! There is no magic number. A page is taken for a producer page when every field holds what a producer can have
//! written. The rules judge a copy and never look at guest memory.

use core::fmt;

use crate::abi::{self, Backend, Control, Desc, Format, ProducerPage, State};

/// What is wrong with a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DescFault {
    /// The width is 0 or above [`abi::MAX_WIDTH`].
    Width(u32),
    /// The height is 0 or above [`abi::MAX_HEIGHT`].
    Height(u32),
    /// The stride is not four bytes a pixel.
    Stride {
        /// What it is.
        stride: u32,
        /// The width that it does not match.
        width: u32,
    },
    /// The format is not one that this version reads.
    Format(u32),
    /// The frame has no number.
    FrameId,
}

impl fmt::Display for DescFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Width(width) => write!(f, "width {width} is not 1..={}", abi::MAX_WIDTH),
            Self::Height(height) => write!(f, "height {height} is not 1..={}", abi::MAX_HEIGHT),
            Self::Stride { stride, width } => write!(f, "stride {stride} is not 4 * width {width}"),
            Self::Format(format) => write!(f, "format {format} is not BGRA8888 (0)"),
            Self::FrameId => f.write_str("frame_id is 0"),
        }
    }
}

/// Checks a descriptor that is in use, and gives the bytes of its frame.
///
/// # Errors
/// The first fault, in the order of the fields.
pub fn check_desc(desc: &Desc) -> Result<u64, DescFault> {
    let (width, height, stride) = (desc.width.get(), desc.height.get(), desc.stride.get());
    if width == 0 || width > abi::MAX_WIDTH {
        return Err(DescFault::Width(width));
    }
    if height == 0 || height > abi::MAX_HEIGHT {
        return Err(DescFault::Height(height));
    }
    if u64::from(stride) != u64::from(width).wrapping_mul(u64::from(abi::BYTES_PER_PIXEL)) {
        return Err(DescFault::Stride { stride, width });
    }
    if desc.format.get() != Format::BGRA8888.0 {
        return Err(DescFault::Format(desc.format.get()));
    }
    if desc.frame_id.get() == 0 {
        return Err(DescFault::FrameId);
    }
    Ok(u64::from(height).wrapping_mul(u64::from(stride)))
}

/// Why a page is no producer page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// One word over and over: zeros, a fill pattern.
    Uniform(u64),
    /// `latest` names no slot.
    Latest(u32),
    /// `status` is no [`State`].
    Status(u32),
    /// `backend` is no [`Backend`].
    Backend(u32),
    /// `supported_formats` lacks the one format that every producer has.
    Formats(u32),
    /// `run_epoch` is 0.
    RunEpoch,
    /// `heartbeat` is 0.
    Heartbeat,
    /// The descriptor of a slot cannot be.
    Desc {
        /// The slot.
        slot: u32,
        /// Why.
        fault: DescFault,
    },
    /// A slot has a descriptor, but its sequence number was never moved.
    NeverWritten {
        /// The slot.
        slot: u32,
    },
    /// `latest` and `frame_id` do not agree on whether there is a frame, or on which.
    LatestDisagrees {
        /// `latest`.
        latest: u32,
        /// `frame_id` of the page.
        frame_id: u64,
        /// `frame_id` of the descriptor that `latest` names, or 0.
        described: u64,
    },
    /// `cursor_visible` is not 0 or 1.
    CursorVisible(u32),
    /// The geometry is neither all zero nor possible.
    Geometry {
        /// `virt_w`.
        width: u32,
        /// `virt_h`.
        height: u32,
        /// `dpi`.
        dpi: u32,
    },
    /// `desired_state` is no command.
    DesiredState(u32),
    /// `draw_cursor` is not 0 or 1.
    DrawCursor(u32),
}

impl Refusal {
    /// Whether a write that is under way can cause this, one that began after its sequence number was copied: then
    /// another copy may pass.
    #[must_use]
    pub const fn may_be_a_race(&self) -> bool {
        matches!(
            self,
            Self::Desc { .. } | Self::NeverWritten { .. } | Self::LatestDisagrees { .. } | Self::Geometry { .. }
        )
    }
}

/// The bytes of the producer page that the rules look at; a multiple of eight.
pub(crate) const JUDGED: usize = 0x130;

/// Judges a producer page by everything that stands in it alone.
///
/// # Errors
/// The first [`Refusal`].
pub fn check_producer(page: &ProducerPage) -> Result<(), Refusal> {
    check_uniform(page)?;
    check_lifecycle(page)?;
    for (slot, (desc, seq)) in (0_u32..).zip(page.heads.desc.iter().zip(&page.heads.seq)) {
        if is_zero(desc) {
            continue;
        }
        if seq.get() & 1 == 1 {
            // It is being written: nothing can be said of it.
            continue;
        }
        if seq.get() == 0 {
            return Err(Refusal::NeverWritten { slot });
        }
        check_desc(desc).map_err(|fault| Refusal::Desc { slot, fault })?;
    }
    check_latest(page)?;
    // A line under an odd sequence number is being written, perhaps for as long as the guest is paused.
    if page.cursor.seq.get() & 1 == 0 && page.cursor.visible.get() > 1 {
        return Err(Refusal::CursorVisible(page.cursor.visible.get()));
    }
    check_geometry(page)
}

/// A fill pattern can satisfy every other rule (a page of the word 1 does), and no producer writes one.
fn check_uniform(page: &ProducerPage) -> Result<(), Refusal> {
    use zerocopy::IntoBytes;
    let bytes = page.as_bytes().get(..JUDGED).unwrap_or_default();
    let mut words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    let first = words.next().unwrap_or(0);
    if words.all(|word| word == first) { Err(Refusal::Uniform(first)) } else { Ok(()) }
}

fn check_lifecycle(page: &ProducerPage) -> Result<(), Refusal> {
    let latest = page.heads.latest.get();
    if latest >= abi::SLOT_COUNT && latest != abi::LATEST_NONE {
        return Err(Refusal::Latest(latest));
    }
    let line = &page.status;
    if line.status.get() > State::ERROR.0 {
        return Err(Refusal::Status(line.status.get()));
    }
    if line.backend.get() > Backend::GDI.0 {
        return Err(Refusal::Backend(line.backend.get()));
    }
    if line.supported_formats.get() & (1 << Format::BGRA8888.0) == 0 {
        return Err(Refusal::Formats(line.supported_formats.get()));
    }
    if line.run_epoch.get() == 0 {
        return Err(Refusal::RunEpoch);
    }
    if line.heartbeat.get() == 0 {
        return Err(Refusal::Heartbeat);
    }
    Ok(())
}

fn check_latest(page: &ProducerPage) -> Result<(), Refusal> {
    let latest = page.heads.latest.get();
    let frame_id = page.heads.frame_id.get();
    let slot = usize::try_from(latest).ok().and_then(|slot| page.heads.desc.get(slot));
    let agrees = match slot {
        None => frame_id == 0,
        Some(desc) => frame_id != 0 && !is_zero(desc) && desc.frame_id.get().abs_diff(frame_id) <= 3,
    };
    let described = slot.map_or(0, |desc| desc.frame_id.get());
    if agrees { Ok(()) } else { Err(Refusal::LatestDisagrees { latest, frame_id, described }) }
}

fn check_geometry(page: &ProducerPage) -> Result<(), Refusal> {
    let line = &page.geometry;
    if line.seq.get() & 1 == 1 {
        return Ok(());
    }
    let (width, height, dpi) = (line.virt_w.get(), line.virt_h.get(), line.dpi.get());
    let unset = width == 0
        && height == 0
        && dpi == 0
        && line.refresh_mhz.get() == 0
        && [line.virt_x, line.virt_y, line.cap_x, line.cap_y].iter().all(|at| at.get() == 0);
    let possible =
        (1..=abi::MAX_VIRTUAL).contains(&width) && (1..=abi::MAX_VIRTUAL).contains(&height) && dpi <= abi::MAX_DPI;
    if unset || possible { Ok(()) } else { Err(Refusal::Geometry { width, height, dpi }) }
}

/// Judges a control block.
///
/// # Errors
/// The first [`Refusal`].
pub fn check_control(control: &Control) -> Result<(), Refusal> {
    if control.ctrl_gen.get() & 1 == 1 {
        return Ok(());
    }
    if control.desired_state.get() > abi::Command::PAUSE.0 {
        return Err(Refusal::DesiredState(control.desired_state.get()));
    }
    if control.draw_cursor.get() > 1 {
        return Err(Refusal::DrawCursor(control.draw_cursor.get()));
    }
    Ok(())
}

fn is_zero(desc: &Desc) -> bool {
    use zerocopy::IntoBytes;
    desc.as_bytes().iter().all(|byte| *byte == 0)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Uniform(word) => write!(f, "the page repeats {word:#x}"),
            Self::Latest(latest) => write!(f, "latest {latest:#x} names no slot"),
            Self::Status(status) => write!(f, "status {status} is no state"),
            Self::Backend(backend) => write!(f, "backend {backend} is none"),
            Self::Formats(formats) => write!(f, "supported_formats {formats:#x} lacks BGRA8888"),
            Self::RunEpoch => f.write_str("run_epoch is 0"),
            Self::Heartbeat => f.write_str("heartbeat is 0"),
            Self::Desc { slot, fault } => write!(f, "descriptor {slot}: {fault}"),
            Self::NeverWritten { slot } => write!(f, "descriptor {slot} is set, but its seq is 0"),
            Self::LatestDisagrees { latest, frame_id, described } => {
                write!(f, "latest {latest:#x} describes frame {described}, the page says {frame_id}")
            }
            Self::CursorVisible(visible) => write!(f, "cursor_visible is {visible}"),
            Self::Geometry { width, height, dpi } => write!(f, "geometry {width} x {height} at {dpi} dpi cannot be"),
            Self::DesiredState(state) => write!(f, "desired_state {state} is no command"),
            Self::DrawCursor(draw) => write!(f, "draw_cursor is {draw}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes;

    use super::*;
    use crate::abi::producer;

    fn page_of(word: u32) -> ProducerPage {
        let mut bytes = [0_u8; 4096];
        for chunk in bytes.chunks_exact_mut(4) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        ProducerPage::read_from_bytes(&bytes).unwrap()
    }

    /// A producer page with one published frame.
    fn valid() -> ProducerPage {
        let mut page = page_of(0);
        page.heads.latest.set(1);
        page.heads.seq[1].set(2);
        page.heads.frame_id.set(7);
        page.heads.desc[1] = desc(640, 480, 7);
        page.status.heartbeat.set(1);
        page.status.run_epoch.set(1);
        page.status.supported_formats.set(1);
        page
    }

    fn desc(width: u32, height: u32, id: u64) -> Desc {
        Desc {
            width: width.into(),
            height: height.into(),
            stride: (width * 4).into(),
            format: 0.into(),
            frame_id: id.into(),
            timestamp_ns: 1.into(),
        }
    }

    #[test]
    fn uniform_pages_are_refused_whatever_the_word() {
        assert_eq!(check_producer(&page_of(1)), Err(Refusal::Uniform(0x1_0000_0001)));
        assert_eq!(check_producer(&page_of(0)), Err(Refusal::Uniform(0)));
        for word in (0..=1024).chain([u32::MAX, 0xcccc_cccc, 0xdead_beef]) {
            assert!(check_producer(&page_of(word)).is_err(), "a page of {word:#x}");
        }
    }

    #[test]
    fn each_field_alone_can_refuse() {
        assert_eq!(check_producer(&valid()), Ok(()));
        type Lie = fn(&mut ProducerPage);
        let cases: [(Lie, Refusal); 15] = [
            (|p| p.heads.latest.set(3), Refusal::Latest(3)),
            (|p| p.status.status.set(5), Refusal::Status(5)),
            (|p| p.status.backend.set(4), Refusal::Backend(4)),
            (|p| p.status.supported_formats.set(2), Refusal::Formats(2)),
            (|p| p.status.run_epoch.set(0), Refusal::RunEpoch),
            (|p| p.status.heartbeat.set(0), Refusal::Heartbeat),
            (|p| p.heads.desc[1].width.set(3841), Refusal::Desc { slot: 1, fault: DescFault::Width(3841) }),
            (|p| p.heads.desc[1].height.set(0), Refusal::Desc { slot: 1, fault: DescFault::Height(0) }),
            (
                |p| p.heads.desc[1].stride.set(641),
                Refusal::Desc { slot: 1, fault: DescFault::Stride { stride: 641, width: 640 } },
            ),
            (|p| p.heads.desc[1].format.set(1), Refusal::Desc { slot: 1, fault: DescFault::Format(1) }),
            (|p| p.heads.desc[1].frame_id.set(0), Refusal::Desc { slot: 1, fault: DescFault::FrameId }),
            (|p| p.heads.seq[1].set(0), Refusal::NeverWritten { slot: 1 }),
            (|p| p.heads.frame_id.set(11), Refusal::LatestDisagrees { latest: 1, frame_id: 11, described: 7 }),
            (|p| p.cursor.visible.set(2), Refusal::CursorVisible(2)),
            (|p| p.geometry.dpi.set(96), Refusal::Geometry { width: 0, height: 0, dpi: 96 }),
        ];
        for (lie, refusal) in cases {
            let mut page = valid();
            lie(&mut page);
            assert_eq!(check_producer(&page), Err(refusal));
        }
    }

    #[test]
    fn a_slot_that_is_being_written_is_exempt() {
        let mut page = valid();
        page.heads.seq[2].set(5);
        page.heads.desc[2] = desc(u32::MAX / 4, 9999, 0);
        assert_eq!(check_producer(&page), Ok(()));
        page.heads.seq[2].set(6);
        assert!(check_producer(&page).is_err());
    }

    #[test]
    fn before_the_first_frame_there_is_no_number() {
        let mut page = page_of(0);
        page.heads.latest.set(abi::LATEST_NONE);
        page.status.heartbeat.set(1);
        page.status.run_epoch.set(1);
        page.status.supported_formats.set(1);
        assert_eq!(check_producer(&page), Ok(()));
        page.heads.frame_id.set(1);
        assert!(check_producer(&page).is_err());
    }

    #[test]
    fn what_is_judged_ends_with_the_status_line() {
        assert_eq!(JUDGED as u64, producer::STATUS + size_of::<abi::Status>() as u64);
    }
}
