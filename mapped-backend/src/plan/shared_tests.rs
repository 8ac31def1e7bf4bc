//! Tests of the files that `loom-tests` runs too: apart, since the model's atomics work only inside a model.

mod contest {
    use crate::plan::contest::*;

    /// Copies whole frames of 1 MiB until the contest ends, each in what its method and number take; gives the methods
    /// that did, and the outcome.
    fn held(contest: &Contest, nanoseconds: impl Fn(u8, usize) -> u64) -> (Vec<u8>, Option<Outcome>) {
        let mut methods = Vec::new();
        while let Some(method) = contest.method() {
            methods.push(method);
            let took = nanoseconds(method, methods.len() - 1);
            contest.add(1 << 19, took / 2);
            contest.add(1 << 19, took / 2);
            if let Some(outcome) = contest.frame_done(1 << 20, 5, 1) {
                return (methods, Some(outcome));
            }
        }
        (methods, None)
    }

    /// What a frame takes, as the contest counts it.
    fn rate(nanoseconds: u64) -> u64 {
        nanoseconds * 16_000 / (1 << 20) + 5
    }

    #[test]
    fn the_method_in_use_is_measured_before_and_after_its_rival() {
        // A rival that is faster by a few thousandths takes nothing from the method in use.
        let cases = [([100_000, 90_000], 11), ([80_000, 90_000], 2), ([90_000, 90_000], 2), ([90_000, 89_700], 2)];
        for (times, winner) in cases {
            let contest = Contest::new();
            contest.begin([2, 11], false);
            let (methods, outcome) = held(&contest, |method, _| times[usize::from(method == 11)]);
            assert_eq!(methods, [2, 2, 2, 11, 11, 11, 11, 2, 2, 2, 2]);
            let outcome = outcome.expect("it ends");
            assert_eq!(outcome.winner, winner, "{times:?}");
            let fastest = rate(times[usize::from(winner == 11)]);
            assert_eq!(u64::from(outcome.rate), fastest);
            // Seven frames by one and four by the other, and what was read for it.
            let all = 7 * rate(times[0]) + 4 * rate(times[1]) + 11;
            assert_eq!(outcome.excess, all.saturating_sub(11 * fastest));
            assert!(!contest.is_running());
        }
    }

    #[test]
    fn a_machine_that_becomes_faster_or_slower_decides_nothing() {
        for step in [-500_i64, 500] {
            let contest = Contest::new();
            contest.begin([2, 11], false);
            let (_, outcome) =
                held(&contest, |_, nth| 100_000_u64.checked_add_signed(step * nth as i64).expect("a time"));
            assert_eq!(outcome.expect("it ends").winner, 2, "{step}");
        }
    }

    #[test]
    fn a_rival_goes_on_while_it_becomes_faster_and_not_for_ever() {
        let contest = Contest::new();
        contest.begin([2, 11], true);
        // From half as long again to three quarters.
        let fades = |method: u8, nth: usize| {
            if method == 2 { 100_000 } else { 75_000 + (75_000_f64 * 0.9_f64.powi(nth as i32)) as u64 }
        };
        let (methods, outcome) = held(&contest, fades);
        assert_eq!(outcome.expect("it ends").winner, 11);
        assert!((16..48).contains(&methods.len()), "{}", methods.len());

        let contest = Contest::new();
        contest.begin([2, 11], true);
        let (methods, outcome) = held(&contest, |_, nth| (1 << 40) >> nth.min(30));
        assert!(outcome.is_some());
        assert!(methods.len() as u64 <= LONGEST[1] + 8, "{}", methods.len());
    }

    #[test]
    fn two_that_look_alike_go_on_in_turn_and_the_one_that_is_faster_more_often_wins() {
        let contest = Contest::new();
        contest.begin([2, 11], true);
        // The rival is faster by less than a hundredth, and has a bad day in its first turn.
        let times = |method: u8, nth: usize| match (method, nth) {
            (11, 0..12) => 100_600,
            (11, _) => 99_300,
            _ => 100_000,
        };
        let (methods, outcome) = held(&contest, times);
        let turns = methods.chunk_by(|one, other| one == other).map(|turn| turn[0]);
        assert_eq!(turns.collect::<Vec<_>>(), [2, 11, 2, 11, 2, 11, 2]);
        assert_eq!(outcome.expect("it ends").winner, 11);
        // Not in an opening, and not where the frames of the slower one have cost a quarter of a frame.
        for (is_long, slower) in [(false, 0), (true, 4)] {
            let contest = Contest::new();
            contest.begin([2, 11], is_long);
            let (methods, _) = held(&contest, |method, _| 100_000 + u64::from(method == 11) * slower * 1000);
            assert_eq!(methods.chunk_by(|one, other| one == other).count(), 3, "{is_long} {slower}");
        }
    }

    #[test]
    fn a_rival_without_hope_has_three_frames() {
        for is_long in [false, true] {
            let contest = Contest::new();
            contest.begin([2, 11], is_long);
            let (methods, outcome) = held(&contest, |method, _| if method == 2 { 100_000 } else { 190_000 });
            assert_eq!(methods, [2, 2, 2, 11, 11, 11, 2, 2, 2, 2]);
            assert_eq!(outcome.expect("it ends").winner, 2);
        }
    }

    #[test]
    fn a_last_piece_that_no_method_copied_does_not_matter() {
        let contest = Contest::new();
        contest.begin([2, 11], false);
        let outcome = core::iter::repeat_with(|| {
            contest.add((1 << 20) - 2048, 100_000);
            contest.frame_done(1 << 20, 0, 0)
        });
        assert!(outcome.take(11).flatten().next().is_some(), "it ends with an outcome");
    }

    #[test]
    fn a_short_piece_that_was_not_measured_is_no_frame() {
        let contest = Contest::new();
        contest.begin([2, 11], false);
        let outcome = core::iter::repeat_with(|| {
            assert_eq!(contest.frame_done(3 << 10, 0, 0), None);
            contest.add(1 << 18, 30_000);
            contest.frame_done(1 << 18, 0, 0)
        });
        let outcome = outcome.take(11).flatten().next().expect("eleven whole frames end it");
        assert_eq!(u64::from(outcome.rate), 30_000 * 16_000 / (1 << 18));
    }

    #[test]
    fn frames_that_others_copied_too_do_not_count_and_end_it_in_time() {
        let contest = Contest::new();
        contest.begin([2, 11], false);
        for _ in 0..PATIENCE {
            assert!(contest.is_running());
            contest.add(3 << 20, 1000);
            assert_eq!(contest.frame_done(1 << 20, 0, 0), None);
        }
        assert!(!contest.is_running());
        assert_eq!(contest.frame_done(1 << 20, 0, 0), None);
    }
}

mod unread {
    use crate::plan::unread::*;

    const ONE: Unread = Unread { page: 0x7_f123_4567, class: 47, method: 15, rate: 0xfedc, reserved: 1 << 40 };

    #[test]
    fn a_trial_comes_back_as_it_was_left_once_and_only_from_its_place() {
        let waiting = UnreadTrials::new();
        assert_eq!(waiting.leave(ONE), None);
        assert_eq!(waiting.take(0..ONE.page), None);
        assert_eq!(waiting.take(ONE.page..ONE.page + 1), Some(ONE));
        assert_eq!(waiting.take(0..u64::MAX), None);
    }

    #[test]
    fn a_place_that_is_copied_to_again_and_a_full_list_give_back_what_was_there() {
        let waiting = UnreadTrials::new();
        let nth = |nth: u64| Unread { page: 100 + nth, reserved: nth, ..ONE };
        for at in 0..SLOTS as u64 {
            assert_eq!(waiting.leave(nth(at)), None);
        }
        let again = Unread { rate: 7, ..nth(3) };
        assert_eq!(waiting.leave(again), Some(nth(3)));
        assert_eq!(waiting.leave(nth(50)), Some(nth(0)), "the oldest place goes");
        let mut left: Vec<u64> = core::iter::from_fn(|| waiting.take(0..u64::MAX)).map(|one| one.page - 100).collect();
        left.sort_unstable();
        assert_eq!(left, [1, 2, 3, 4, 5, 6, 7, 50]);
    }
}
