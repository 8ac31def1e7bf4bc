//! MJPEG: one JPEG after another in a response that does not end.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Duration, Instant};

use crate::guest::{Shown, Viewer};
use crate::shot::{Kind, Shot, Width};

pub(crate) const MIME: &str = "multipart/x-mixed-replace; boundary=vgpu";

struct State {
    // Held for as long as the response: the reader copies frames while there is one.
    _viewer: Viewer,
    guest: Arc<Shown>,
    shots: watch::Receiver<Option<Arc<Shot>>>,
    encoders: Arc<Semaphore>,
    width: Width,
    tick: Duration,
    due: Instant,
    /// What of the current part is still to be sent, last first.
    parts: Vec<Bytes>,
}

/// The response: whenever the client has room, the frame that is the latest then. What was published meanwhile is
/// dropped, so that a client costs one picture of memory at most.
pub(crate) fn body(guest: &Arc<Shown>, fps: u32, width: Width, encoders: Arc<Semaphore>) -> Body {
    let (viewer, mut shots) = guest.stream(fps);
    shots.mark_changed();
    let state = State {
        _viewer: viewer,
        guest: Arc::clone(guest),
        shots,
        encoders,
        width,
        tick: Duration::from_secs(1) / fps.max(1),
        due: Instant::now(),
        parts: vec![Bytes::from_static(b"--vgpu\r\n")],
    };
    Body::from_stream(stream::unfold(state, |mut state| async move {
        loop {
            if let Some(part) = state.parts.pop() {
                return Some((Ok::<_, io::Error>(part), state));
            }
            tokio::time::sleep_until(state.due).await;
            state.shots.changed().await.ok()?;
            if state.guest.is_retired() {
                return None;
            }
            let Some(shot) = state.shots.borrow_and_update().clone() else { continue };
            state.due = (state.due + state.tick).max(Instant::now());
            match shot.encoded(Kind::Jpeg, state.width, &state.encoders).await {
                Ok(picture) => {
                    let head = format!(
                        "Content-Type: image/jpeg\r\nContent-Length: {}\r\nX-Frame-Id: {}\r\n\r\n",
                        picture.len(),
                        shot.info.desc.frame_id
                    );
                    // The boundary comes with the picture: browsers show it when they have seen that.
                    state.parts = vec![Bytes::from_static(b"\r\n--vgpu\r\n"), picture, Bytes::from(head)];
                }
                Err(why) => return Some((Err(io::Error::other(why)), state)),
            }
        }
    }))
}
