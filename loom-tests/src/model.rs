//! Running a model, and knowing what it reached.

use core::fmt::Debug;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex};
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

/// Whether exploring `model` breaks a property: how a sabotaged protocol has to end. The message of the first broken
/// one.
pub fn breaks(bound: usize, model: impl Fn(&Outcomes) + Sync + Send + 'static) -> Option<String> {
    let failure = catch_unwind(AssertUnwindSafe(|| explore(bound, &Outcomes::default(), model))).err()?;
    let text = failure.downcast_ref::<String>().cloned();
    text.or_else(|| failure.downcast_ref::<&str>().map(|text| (*text).to_owned())).or_else(|| Some(String::new()))
}
