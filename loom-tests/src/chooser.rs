//! The record of copy methods as the mapped backend ships it, under the checker's atomics: threads that copy frames of
//! one guest share it without a lock.

use loom::sync::Arc;
use loom::thread;

use self::contest::{Contest, Outcome};
use self::record::{Record, Wanted};
use self::unread::{Unread, UnreadTrials};
use crate::Outcomes;

mod atomics {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};
}
#[path = "../../mapped-backend/src/plan/contest.rs"]
#[allow(dead_code, reason = "the backend's file as it is; the model calls a part of it")]
mod contest;
#[path = "../../mapped-backend/src/plan/finals.rs"]
#[allow(dead_code, reason = "the backend's file as it is; the model calls a part of it")]
mod finals;
#[path = "../../mapped-backend/src/plan/primed.rs"]
#[allow(dead_code, reason = "the backend's file as it is; the model calls a part of it")]
mod primed;
#[path = "../../mapped-backend/src/plan/record.rs"]
#[allow(dead_code, reason = "the backend's file as it is; the model calls a part of it")]
mod record;
#[path = "../../mapped-backend/src/plan/unread.rs"]
#[allow(dead_code, reason = "the backend's file as it is; the model calls a part of it")]
mod unread;

/// Two methods, frames of 1 MiB.
const WANTED: Wanted = Wanted { usable: 0b11, streams: 0, left: 1 << 20, frame: 1 << 20, reads: false, at: 1 << 20 };
/// Sixteenths of a picosecond a byte: the second method is a tenth slower.
const RATES: [u16; 2] = [1000, 1100];
/// Bytes that have to be copied before one trial of it may begin: the excess of each of its three copies is a tenth of
/// 64 KiB, and one byte in so many is given to trials.
const ONE_TRIAL: u64 = 3 * (64 << 10) / 10 * record::STEADY;

fn measured() -> Record {
    let record = Record::new(0);
    let mut rates = [None; record::METHODS];
    for (slot, rate) in rates.iter_mut().zip(RATES) {
        *slot = Some(rate);
    }
    record.restore(&rates);
    record
}

/// Two threads begin a copy while there is credit for one trial: exactly one of them tries.
///
/// # Panics
/// Where the credit is spent twice, or by nobody.
pub fn credit_is_spent_once(outcomes: &Outcomes) {
    let record = Arc::new(measured());
    // Nothing is left for a trial yet: the step is no trial, and what it copied is what earns one.
    let step = record.next(WANTED);
    assert!(!step.is_trial && !step.is_primer, "a trial without credit");
    record.learn(WANTED, step, ONE_TRIAL, u64::from(RATES[0]) * ONE_TRIAL / 16_000, 0);
    // That sample was far too good, and is none: put the rates back, and keep the credit.
    let other = record.clone();
    // To a buffer of its own: at the other's place it would go on with the other's trial, which is paid for.
    let elsewhere = Wanted { at: 2 << 20, ..WANTED };
    let second = thread::spawn(move || other.next(elsewhere).is_primer);
    let first = record.next(WANTED).is_primer;
    let second = second.join().expect("the other thread ends");
    assert!(first != second, "first tries: {first}, second tries: {second}");
    outcomes.note(format_args!("{} tries", if first { "first" } else { "second" }));
}

/// Two threads take in a sample each: nothing but what was measured is ever in the record, and a usable method is in
/// use.
///
/// # Panics
/// Where a rate appears that nobody measured, or a method that may not be used.
pub fn samples_are_kept_or_lost_whole(outcomes: &Outcomes) {
    let record = Arc::new(Record::new(1));
    let bytes = 64 << 10;
    // The first part of a trial; which thread comes to the second one is what the checker tries.
    let primer = record.next(WANTED);
    assert!(primer.is_primer && !primer.is_trial, "the first copy measures nothing");
    record.learn(WANTED, primer, bytes, 3000 * bytes / 16_000, 0);
    let copy = move |record: &Record, rate: u64| {
        let step = record.next(WANTED);
        assert!(WANTED.usable >> step.method & 1 == 1, "method {} may not be used", step.method);
        record.learn(WANTED, step, bytes, rate * bytes / 16_000, 0);
        step.is_trial
    };
    let other = record.clone();
    let second = thread::spawn(move || copy(&other, 1000));
    let first = copy(&record, 2000);
    let second = second.join().expect("the other thread ends");
    let rates = record.rates();
    // Nanoseconds are whole numbers, so that a rate comes out a little lower.
    let of = |rate: u16| matches!(rate, 990..=1000 | 1990..=2000 | 2990..=3000);
    assert!(rates.iter().flatten().all(|rate| of(*rate)), "{rates:?}");
    assert!(rates.iter().skip(2).all(Option::is_none), "{rates:?}");
    let known = rates.iter().flatten().count();
    assert!(known >= 1, "a sample was taken in");
    let next = record.next(WANTED);
    assert!(WANTED.usable >> next.method & 1 == 1, "method {} may not be used", next.method);
    assert!(!(first && second), "one trial was ended twice");
    outcomes.note(format_args!("{}", if first { "first ends it" } else { "second ends it" }));
}

/// Two threads complete a frame each, and either could be the last one of a contest: it ends once, or goes on, and the
/// faster method wins.
///
/// # Panics
/// Where it ends twice, or another method wins.
pub fn a_contest_ends_once(outcomes: &Outcomes) {
    let contest = Arc::new(Contest::new());
    contest.begin([2, 11], false);
    let frame = |contest: &Contest, method: u8| -> Option<Outcome> {
        contest.add(1 << 20, if method == 2 { 100_000 } else { 90_000 });
        contest.frame_done(1 << 20, 0, 0)
    };
    // All but the last one.
    for method in [2, 2, 2, 11, 11, 11, 11, 2, 2, 2] {
        assert_eq!(contest.method(), Some(method));
        assert_eq!(frame(&contest, method), None);
    }
    let other = contest.clone();
    let second = thread::spawn(move || frame(&other, 2));
    let first = frame(&contest, 2);
    let second = second.join().expect("the other thread ends");
    assert!(first.is_none() || second.is_none(), "{first:?}, {second:?}");
    let ended = first.or(second);
    assert!(ended.is_none_or(|outcome| outcome.winner == 11), "{ended:?}");
    assert_eq!(contest.is_running(), ended.is_none());
    outcomes.note(format_args!("{}", if ended.is_some() { "it ends" } else { "it goes on" }));
}

/// One thread copies to a place on trial again while another comes to read what was left there: each trial comes out
/// once, with what was set aside for it.
///
/// # Panics
/// Where one comes out twice, not at all, or with another one's words.
pub fn trials_are_read_once(outcomes: &Outcomes) {
    // What is set aside is a thousand times the rate.
    let trial = |rate: u16| Unread { page: 7, class: 1, method: 2, rate, reserved: u64::from(rate) * 1000 };
    let waiting = Arc::new(UnreadTrials::new());
    assert!(waiting.leave(trial(1)).is_none(), "all slots are empty");
    let other = waiting.clone();
    let second = thread::spawn(move || other.take(7..8));
    let gone = waiting.leave(trial(2));
    let first = second.join().expect("the other thread ends");
    let mut out: Vec<Unread> = [first, gone].into_iter().flatten().collect();
    out.extend(core::iter::from_fn(|| waiting.take(0..u64::MAX)));
    assert!(out.iter().all(|one| one.reserved == u64::from(one.rate) * 1000), "{out:?}");
    out.sort_unstable_by_key(|one| one.rate);
    assert!(out.len() == 2 && out[0] == trial(1) && out[1] == trial(2), "{out:?}");
    let what = match (first.map(|one| one.rate), gone) {
        (Some(1), _) => "the old one is read",
        (Some(_), _) => "the new one is read",
        (None, _) => "none is read",
    };
    outcomes.note(format_args!("{what}"));
}
