//! The metrics, as a collector reads them.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// A guest by its name in paths, which needs no escapes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    guest: String,
}

type Histograms = Family<Label, Histogram, fn() -> Histogram>;

/// From 50 microseconds, which a small frame takes, doubling to 0.8 seconds.
fn copy_seconds() -> Histogram {
    Histogram::new((0..15).map(|power| 50e-6 * f64::from(1_u32 << power)))
}

/// All metrics of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    frames: Family<Label, Counter>,
    missed: Family<Label, Counter>,
    retries: Family<Label, Counter>,
    live: Family<Label, Gauge>,
    epoch: Family<Label, Gauge>,
    viewers: Family<Label, Gauge>,
    copies: Histograms,
    pub(crate) clients: Gauge,
    pub(crate) refused: Counter,
    pub(crate) guests_left_out: Gauge,
}

/// Those of one guest.
#[derive(Clone, Debug)]
pub(crate) struct GuestMetrics {
    pub(crate) frames: Counter,
    pub(crate) missed: Counter,
    pub(crate) retries: Counter,
    pub(crate) live: Gauge,
    pub(crate) epoch: Gauge,
    pub(crate) viewers: Gauge,
    pub(crate) copies: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("vgpu");
        let copies = Histograms::new_with_constructor(copy_seconds);
        let metrics = Self {
            frames: Family::default(),
            missed: Family::default(),
            retries: Family::default(),
            live: Family::default(),
            epoch: Family::default(),
            viewers: Family::default(),
            copies: copies.clone(),
            clients: Gauge::default(),
            refused: Counter::default(),
            guests_left_out: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("frames", "Frames that were copied", metrics.frames.clone());
        registry.register(
            "missed_frames",
            "Frames that were published and not copied, while somebody looked",
            metrics.missed.clone(),
        );
        registry.register("retries", "Polls that met the producer at its work", metrics.retries.clone());
        registry.register("live", "1 while the heartbeat advances", metrics.live.clone());
        registry.register("run_epoch", "The session of the producer", metrics.epoch.clone());
        registry.register("viewers", "Streams that are watched", metrics.viewers.clone());
        registry.register_with_unit(
            "copy",
            "Time from when a frame was first seen here until it was copied",
            Unit::Seconds,
            copies,
        );
        registry.register("clients", "Connections", metrics.clients.clone());
        registry.register("refused_requests", "Requests without the right to an answer", metrics.refused.clone());
        registry.register("guests_left_out", "Guests beyond the limit", metrics.guests_left_out.clone());
        Self { registry, ..metrics }
    }

    pub(crate) fn of(&self, guest: &str) -> GuestMetrics {
        let label = Label { guest: guest.to_owned() };
        GuestMetrics {
            frames: self.frames.get_or_create_owned(&label),
            missed: self.missed.get_or_create_owned(&label),
            retries: self.retries.get_or_create_owned(&label),
            live: self.live.get_or_create_owned(&label),
            epoch: self.epoch.get_or_create_owned(&label),
            viewers: self.viewers.get_or_create_owned(&label),
            copies: self.copies.get_or_create_owned(&label),
        }
    }

    pub(crate) fn forget(&self, guest: &str) {
        let label = Label { guest: guest.to_owned() };
        self.frames.remove(&label);
        self.missed.remove(&label);
        self.retries.remove(&label);
        self.live.remove(&label);
        self.epoch.remove(&label);
        self.viewers.remove(&label);
        self.copies.remove(&label);
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Into memory: it cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
