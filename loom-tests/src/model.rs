//! Running a model, and knowing what it reached.

use core::cell::{Cell, RefCell};
use core::fmt::Debug;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::panic::{catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex, Once};
use std::time::Instant;

/// Which outcomes the executions of a model had, and how often: a model that never reaches an outcome proves nothing of
/// it.
#[derive(Clone, Debug, Default)]
pub struct Outcomes(Arc<Mutex<BTreeMap<String, u64>>>);

impl Outcomes {
    /// Notes an outcome of the present execution.
    pub fn note(&self, outcome: impl Debug) {
        let mut map = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *map.entry(format!("{outcome:?}")).or_default() += 1;
    }

    /// Whether some execution had it.
    #[must_use]
    pub fn reached(&self, outcome: &str) -> bool {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).keys().any(|key| key.starts_with(outcome))
    }

    fn show(&self) -> String {
        let map = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        map.iter().map(|(outcome, count)| format!("{outcome} x{count}")).collect::<Vec<_>>().join(", ")
    }
}

/// Preemptions that the environment adds to every bound (`VGPU_LOOM_DEEPER`): the deep set.
fn deeper() -> usize {
    std::env::var("VGPU_LOOM_DEEPER").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Explores `model` up to `bound` preemptions, or deeper, and prints what it reached.
///
/// # Panics
/// Where an execution breaks a property, or an outcome of `expected` was never reached.
pub fn check(name: &str, bound: usize, expected: &[&str], model: impl Fn(&Outcomes) + Sync + Send + 'static) {
    let bound = bound + deeper();
    let begun = Instant::now();
    let outcomes = Outcomes::default();
    let executions = explore(bound, &outcomes, model);
    let took = begun.elapsed().as_secs_f64();
    println!("figure: {name}: bound {bound}, {executions} executions, {took:.1} s: {}", outcomes.show());
    for outcome in expected {
        assert!(outcomes.reached(outcome), "{name}: no execution reached {outcome}; reached: {}", outcomes.show());
    }
}

/// Explores `model` and counts its executions.
pub fn explore(bound: usize, outcomes: &Outcomes, model: impl Fn(&Outcomes) + Sync + Send + 'static) -> u64 {
    let count = Arc::new(AtomicU64::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(bound);
    builder.max_branches = 20_000;
    let (inner, outcomes) = (count.clone(), outcomes.clone());
    builder.check(move || {
        inner.fetch_add(1, Ordering::Relaxed);
        model(&outcomes);
    });
    count.load(Ordering::Relaxed)
}

thread_local! {
    /// Whether this thread explores what has to break.
    static BREAKING: Cell<bool> = const { Cell::new(false) };
    /// The file of the first panic since.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on, panics of threads that explore what has to break are noted, and not shown.
fn note_places() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if BREAKING.get() {
                let file = panic.location().map(|at| at.file().to_owned());
                PLACE.with_borrow_mut(|place| *place = place.take().or(file));
            } else {
                before(panic);
            }
        }));
    });
}

/// Whether exploring `model` breaks a property: how a sabotaged protocol has to end. The message of the first broken
/// one.
///
/// # Panics
/// Where it ends otherwise, in a panic that is no check of this crate's: a limit of the model checker, a crash.
pub fn breaks(bound: usize, model: impl Fn(&Outcomes) + Sync + Send + 'static) -> Option<String> {
    note_places();
    PLACE.take();
    BREAKING.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| explore(bound, &Outcomes::default(), model)));
    BREAKING.set(false);
    let failure = outcome.err()?;
    let text = failure.downcast_ref::<String>().cloned();
    let text = text.or_else(|| failure.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
    let place = PLACE.take().unwrap_or_default();
    let here = file!().trim_end_matches("model.rs");
    assert!(place.starts_with(here), "the model ended in {place}, by no check of its own: {text}");
    Some(text)
}
