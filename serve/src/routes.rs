//! What each path gives.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use vgpu_perception_view::Condition;

use crate::access::Access;
use crate::guest::Shown;
use crate::guests::Guests;
use crate::shot::{Kind, Width};
use crate::stream;

/// Whatever a response holds: nothing of another server, no script of another's, no frame around it, nothing kept on a
/// disk.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// What all requests share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) guests: Arc<Guests>,
    pub(crate) access: Arc<Access>,
    /// How many pictures are made at a time.
    pub(crate) encoders: Arc<Semaphore>,
}

pub(crate) fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(|| async { page("text/html; charset=utf-8", include_str!("../page/index.html")) }))
        .route("/wall.js", get(|| async { page("text/javascript; charset=utf-8", include_str!("../page/wall.js")) }))
        .route("/wall.css", get(|| async { page("text/css; charset=utf-8", include_str!("../page/wall.css")) }))
        .route("/guests", get(list))
        .route("/guests/{name}/frame.png", get(png))
        .route("/guests/{name}/frame.jpg", get(jpg))
        .route("/guests/{name}/stream", get(mjpeg))
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "No such path; see /guests.\n") })
        .layer(middleware::from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Lets in who has the right, before any path is looked at.
async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let mut response = match shared.access.check(request.method(), request.uri(), request.headers()) {
        Err(refused) => {
            shared.guests.metrics.refused.inc();
            let mut response = (refused.status(), refused.text()).into_response();
            if refused.status() == StatusCode::UNAUTHORIZED {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            response
        }
        // The token leaves the address bar, and the history with it.
        Ok(true) if request.uri().path() == "/" => {
            let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, "/")]).into_response();
            let cookie = shared.access.set_cookie().and_then(|cookie| HeaderValue::from_str(&cookie).ok());
            if let Some(cookie) = cookie {
                response.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            response
        }
        Ok(_) => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn page(mime: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, mime)], text).into_response()
}

async fn list(State(shared): State<Shared>) -> Response {
    refresh(&shared).await;
    let all: Vec<_> = shared
        .guests
        .all()
        .iter()
        .map(|guest| {
            guest.look();
            let facts = guest.facts();
            json!({
                "name": guest.name,
                "path": format!("/guests/{}", guest.slug),
                "state": facts.state,
                "detail": facts.detail,
                "width": facts.width,
                "height": facts.height,
                "frame_id": facts.frame_id,
                "run_epoch": facts.run_epoch,
                "frames": facts.frames,
                "missed": facts.missed,
                "retries": facts.retries,
                "viewers": guest.metrics.viewers.get(),
            })
        })
        .collect();
    let left_out = shared.guests.metrics.guests_left_out.get();
    let text = json!({ "guests": all, "left_out": left_out }).to_string();
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    refresh(&shared).await;
    for guest in shared.guests.all() {
        guest.look();
    }
    const MIME: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, MIME)], shared.guests.metrics.text()).into_response()
}

#[derive(Debug, Deserialize)]
struct Wish {
    width: Option<String>,
    fps: Option<u32>,
}

impl Wish {
    fn width(&self) -> Result<Width, (StatusCode, &'static str)> {
        Width::parse(self.width.as_deref())
            .ok_or((StatusCode::BAD_REQUEST, "width is 160, 320, 640, 1280, or left out.\n"))
    }
}

type Answer = Result<Response, (StatusCode, String)>;

async fn png(shared: State<Shared>, name: Path<String>, wish: Query<Wish>, headers: HeaderMap) -> Answer {
    still(shared, name, wish, headers, Kind::Png).await
}

async fn jpg(shared: State<Shared>, name: Path<String>, wish: Query<Wish>, headers: HeaderMap) -> Answer {
    still(shared, name, wish, headers, Kind::Jpeg).await
}

/// The guest of a name. Where it is not known to run, the host is asked for its guests first: another one may have the
/// name by now.
async fn named(shared: &Shared, name: &str) -> Result<Arc<Shown>, (StatusCode, String)> {
    let guest = shared.guests.named(name);
    if let Some(guest) = guest.filter(|guest| guest.facts().state == Condition::Live.word()) {
        return Ok(guest);
    }
    refresh(shared).await;
    shared.guests.named(name).ok_or_else(|| unknown(name))
}

/// Asks the host for its guests, where that is due.
async fn refresh(shared: &Shared) {
    let guests = Arc::clone(&shared.guests);
    let _ = tokio::task::spawn_blocking(move || guests.refresh()).await;
}

fn unknown(name: &str) -> (StatusCode, String) {
    // Not the name as it came: it is the client's.
    let short: String = name.chars().filter(char::is_ascii_graphic).take(64).collect();
    (StatusCode::NOT_FOUND, format!("No guest is called {short}; see /guests.\n"))
}

async fn still(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Query(wish): Query<Wish>,
    headers: HeaderMap,
    kind: Kind,
) -> Answer {
    let width = wish.width().map_err(|(status, text)| (status, text.to_owned()))?;
    let guest = named(&shared, &name).await?;
    let Some(shot) = guest.latest().await else {
        let facts = guest.facts();
        return Err((StatusCode::SERVICE_UNAVAILABLE, format!("No frame now: {}: {}\n", facts.state, facts.detail)));
    };
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = known.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    let tag = HeaderValue::from_str(&shot.tag).map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    let id = HeaderValue::from(shot.info.desc.frame_id);
    let told = [(header::ETAG, tag), (HeaderName::from_static("x-frame-id"), id)];
    if tags.any(|tag| tag == shot.tag || tag == "*") {
        return Ok((StatusCode::NOT_MODIFIED, told).into_response());
    }
    let picture = shot
        .encoded(kind, width, &shared.encoders)
        .await
        .map_err(|why| (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")))?;
    Ok((told, [(header::CONTENT_TYPE, kind.mime())], Body::from(picture)).into_response())
}

async fn mjpeg(State(shared): State<Shared>, Path(name): Path<String>, Query(wish): Query<Wish>) -> Answer {
    let width = wish.width().map_err(|(status, text)| (status, text.to_owned()))?;
    let fps = wish.fps.unwrap_or(30);
    if !(1..=60).contains(&fps) {
        return Err((StatusCode::BAD_REQUEST, format!("fps is 1 to 60, not {fps}.\n")));
    }
    let guest = named(&shared, &name).await?;
    let body = stream::body(&guest, fps, width, Arc::clone(&shared.encoders));
    Ok(([(header::CONTENT_TYPE, stream::MIME)], body).into_response())
}
