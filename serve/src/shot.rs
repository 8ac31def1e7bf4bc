//! One frame of a guest, and its pictures: made when the first client wants one, and given to all others who want the
//! same.

use core::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OnceCell, Semaphore};
use vgpu_perception::region::FrameInfo;
use vgpu_perception_host::FrameBuffer;
use vgpu_perception_view::{Picture, PictureError, fit};

/// How a picture is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Png,
    Jpeg,
}

impl Kind {
    pub(crate) const fn mime(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
        }
    }
}

/// The widths that there are: few, so that clients share pictures and cannot make the server keep many.
const WIDTHS: [u32; 4] = [160, 320, 640, 1280];
const VARIANTS: usize = 2 * (WIDTHS.len() + 1);
const QUALITY: u8 = 80;

/// A width that can be asked for; `None` is the frame's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Width(Option<usize>);

impl Width {
    pub(crate) fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None => Some(Self(None)),
            Some(text) => {
                let wanted: u32 = text.parse().ok()?;
                WIDTHS.iter().position(|width| *width == wanted).map(|index| Self(Some(index)))
            }
        }
    }
}

/// Memory of frames that were shown, to be used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<FrameBuffer>>>);

impl Pool {
    pub(crate) fn take(&self) -> FrameBuffer {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give(&self, memory: FrameBuffer) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is shown, and one that is being copied into, are enough.
        if held.len() < 2 {
            held.push(memory);
        }
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A frame that was taken.
pub(crate) struct Shot {
    pub(crate) info: FrameInfo,
    /// Which frame of which session of which attachment it is.
    pub(crate) tag: String,
    pixels: FrameBuffer,
    pool: Pool,
    variants: [OnceCell<Bytes>; VARIANTS],
}

impl fmt::Debug for Shot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shot").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl Shot {
    pub(crate) fn new(info: FrameInfo, tag: String, pixels: FrameBuffer, pool: Pool) -> Self {
        Self { info, tag, pixels, pool, variants: Default::default() }
    }

    /// The frame as a picture; `encoders` bounds how many are made at a time.
    pub(crate) async fn encoded(
        self: &Arc<Self>,
        kind: Kind,
        width: Width,
        encoders: &Arc<Semaphore>,
    ) -> Result<Bytes, String> {
        let row = width.0.map_or(0, |index| index + 1);
        let index = row * 2 + usize::from(kind == Kind::Jpeg);
        let Some(cell) = self.variants.get(index) else { return Err("no such size".into()) };
        let make = async || {
            let permit = Arc::clone(encoders).acquire_owned().await.map_err(|error| error.to_string())?;
            let shot = Arc::clone(self);
            let work = move || {
                let made = shot.encode(kind, width);
                drop(permit);
                made
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok(bytes)) => Ok(Bytes::from(bytes)),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        };
        cell.get_or_try_init(make).await.cloned()
    }

    fn encode(&self, kind: Kind, width: Width) -> Result<Vec<u8>, PictureError> {
        let desc = &self.info.desc;
        let mut picture = Picture::new(desc.width, desc.height, &self.pixels)?;
        let smaller;
        if let Some(most) = width.0.and_then(|index| WIDTHS.get(index)) {
            let (width, height) = fit(desc.width, desc.height, *most, *most);
            smaller = picture.scaled(width, height)?;
            picture = Picture::new(width, height, &smaller)?;
        }
        let mut bytes = Vec::new();
        match kind {
            Kind::Png => picture.png(&mut bytes)?,
            Kind::Jpeg => picture.jpeg(&mut bytes, QUALITY)?,
        }
        Ok(bytes)
    }
}

impl Drop for Shot {
    fn drop(&mut self) {
        self.pool.give(core::mem::take(&mut self.pixels));
    }
}
