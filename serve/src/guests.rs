//! All guests of the wall: those that were named, or those that run on this host.

use core::time::Duration;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use vgpu_perception_host::{Guest, Ram};

use crate::guest::Shown;
use crate::metrics::Metrics;
use crate::reader::{Reader, Searches};

/// Attaches to a guest, or says why that cannot be.
pub type Attach = Box<dyn Fn() -> Result<Guest<Ram>, String> + Send + Sync>;

/// Gives the guests that there are now.
pub type Discover = Box<dyn Fn() -> Vec<Source> + Send + Sync>;

/// How often a host is asked for its guests, while somebody looks.
const AGAIN: Duration = Duration::from_secs(5);

/// A guest that can be shown.
pub struct Source {
    /// What people call it.
    pub name: String,
    /// What tells it from others that are called the same, and from itself after it was started anew: a process number.
    pub key: String,
    /// Attaches to it.
    pub attach: Attach,
}

impl core::fmt::Debug for Source {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Source").field("name", &self.name).field("key", &self.key).finish_non_exhaustive()
    }
}

pub(crate) struct Guests {
    pub(crate) metrics: Metrics,
    shown: Mutex<Vec<(String, Arc<Shown>)>>,
    discover: Option<Discover>,
    discovered: Mutex<Option<Instant>>,
    most: usize,
    searches: Arc<Searches>,
    boot: u32,
}

impl Guests {
    pub(crate) fn new(sources: Vec<Source>, discover: Option<Discover>, most: usize) -> std::io::Result<Arc<Self>> {
        let searches = std::thread::available_parallelism().map_or(1, core::num::NonZero::get);
        let mut boot = [0; 4];
        getrandom::fill(&mut boot).map_err(|error| std::io::Error::other(error.to_string()))?;
        let guests = Arc::new(Self {
            metrics: Metrics::new(),
            shown: Mutex::new(Vec::new()),
            discover,
            discovered: Mutex::new(None),
            most,
            searches: Arc::new(Searches::new(searches)),
            boot: u32::from_le_bytes(boot),
        });
        guests.set(sources)?;
        Ok(guests)
    }

    fn shown(&self) -> MutexGuard<'_, Vec<(String, Arc<Shown>)>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every guest.
    pub(crate) fn all(&self) -> Vec<Arc<Shown>> {
        self.shown().iter().map(|(_, guest)| Arc::clone(guest)).collect()
    }

    /// The guest of this name in paths.
    pub(crate) fn named(&self, slug: &str) -> Option<Arc<Shown>> {
        self.shown().iter().find(|(_, guest)| guest.slug == slug).map(|(_, guest)| Arc::clone(guest))
    }

    /// Asks the host for its guests, unless that was done a moment ago. It reads files and may block.
    pub(crate) fn refresh(&self) {
        let Some(discover) = &self.discover else { return };
        // Who comes while another asks takes what there is.
        let Ok(mut last) = self.discovered.try_lock() else { return };
        if last.is_some_and(|last| last.elapsed() < AGAIN) {
            return;
        }
        // A thread that cannot be started now is started the next time.
        let _ = self.set(discover());
        *last = Some(Instant::now());
    }

    /// Shows these and no others; those that are shown already go on.
    fn set(&self, sources: Vec<Source>) -> std::io::Result<()> {
        let mut shown = self.shown();
        let keys: HashSet<&str> = sources.iter().map(|source| source.key.as_str()).collect();
        shown.retain(|(key, guest)| {
            let stays = keys.contains(key.as_str());
            if !stays {
                guest.retire();
                self.metrics.forget(&guest.slug);
            }
            stays
        });
        let mut left_out = 0;
        for source in sources {
            if shown.iter().any(|(key, _)| *key == source.key) {
                continue;
            }
            if shown.len() >= self.most {
                left_out += 1;
                continue;
            }
            let slug = slug(&source.name, |slug| shown.iter().any(|(_, guest)| guest.slug == slug));
            let guest = Shown::new(source.name, slug.clone(), self.metrics.of(&slug));
            let reader = Reader {
                guest: Arc::clone(&guest),
                attach: source.attach,
                searches: Arc::clone(&self.searches),
                boot: self.boot,
            };
            std::thread::Builder::new().name(format!("guest {slug}")).spawn(move || reader.run())?;
            shown.push((source.key, guest));
        }
        self.metrics.guests_left_out.set(left_out);
        Ok(())
    }

    /// Ends all readers.
    pub(crate) fn retire(&self) {
        for (_, guest) in self.shown().drain(..) {
            guest.retire();
        }
    }
}

/// A name for paths and labels that is not taken.
fn slug(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let base: String = name.chars().map(plain).take(64).collect();
    let base = base.trim_start_matches(['.', '-']);
    let base = if base.is_empty() { "guest" } else { base };
    let mut slug = base.to_owned();
    let mut n = 2;
    while taken(&slug) {
        slug = format!("{base}-{n}");
        n += 1;
    }
    slug
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths() {
        assert_eq!(slug("win11", |_| false), "win11");
        assert_eq!(slug("../../etc/passwd", |_| false), "etc-passwd");
        assert_eq!(slug("<b>\"x\"\n", |_| false), "b--x--");
        assert_eq!(slug("ü", |_| false), "guest");
        assert_eq!(slug("a", |one| one == "a" || one == "a-2"), "a-3");
    }

    #[test]
    fn guests_come_go_and_are_bounded() {
        let source = |name: &str, key: &str| Source {
            name: name.into(),
            key: key.into(),
            attach: Box::new(|| Err("not there".into())),
        };
        let guests = Guests::new(vec![source("a", "1"), source("a", "2"), source("b", "3")], None, 2).unwrap();
        let slugs = || guests.all().iter().map(|guest| guest.slug.clone()).collect::<Vec<_>>();
        assert_eq!(slugs(), ["a", "a-2"]);
        assert_eq!(guests.metrics.guests_left_out.get(), 1);
        let first = guests.named("a").unwrap();
        guests.set(vec![source("a", "2"), source("a", "9")]).unwrap();
        assert!(first.is_retired());
        assert_eq!(slugs(), ["a-2", "a"]);
        assert!(!guests.metrics.text().contains("guest=\"b\""));
        guests.retire();
    }
}
