//! Surveys of synthetic guests: who lives, in which order, and that no number of forgeries hides anybody.

use core::ops::ControlFlow;
use core::time::Duration;
use std::collections::HashSet;
use std::thread::sleep;

use vgpu_perception::{Gpa, Gva, PageSize, abi};
use vgpu_perception_host::{Guest, Limits, Sample, Survey, SurveyError};
use vgpu_perception_testkit::{LinuxOptions, Ram, StandardLinux, flags, standard_linux};

const END: Gpa = Gpa::new(5 << 30);

fn guest() -> (StandardLinux, Guest<Ram>) {
    let linux = standard_linux(LinuxOptions::default());
    let guest = Guest::over(linux.guest.ram.clone(), END);
    (linux, guest)
}

fn bases(survey: &Survey<Ram>) -> Vec<Gva> {
    survey.candidates().iter().map(|sighting| sighting.candidate.base).collect()
}

#[test]
fn only_who_beats_is_given_and_a_late_beat_counts() {
    let (linux, guest) = guest();
    let ram = &linux.guest.ram;
    let mut survey = guest.survey().unwrap();
    assert_eq!(survey.candidates().len(), 2, "the producer and the forged region");
    let early = survey.confirm().unwrap_err();
    assert!(early.wait > Duration::ZERO && early.to_string().contains("250 ms"), "{early}");
    sleep(survey.wait());
    assert!(survey.confirm().unwrap().is_empty(), "nobody beat");
    assert_eq!(survey.stale().count(), 2);
    linux.region.tick(ram);
    let mut lives = survey.confirm().unwrap();
    assert_eq!(lives.len(), 1);
    assert_eq!(lives[0].candidate().process.space.root.table(), linux.processes[linux.producer].space.root);
    assert_eq!(survey.stale().count(), 1);
    assert!(survey.candidates()[0].is_alive(), "the living ones come first");
    let mut picture = vec![0; 64 * 48 * 4];
    let Sample::Fresh(frame) = lives[0].frame(&mut picture).unwrap() else { panic!("a frame") };
    assert_eq!(&picture[..frame.bytes], linux.region.image.pixels(frame.desc.frame_id));
    assert!(survey.confirm().unwrap().is_empty(), "given again only after another beat");
    assert!(survey.candidates()[0].is_alive(), "and not called stale for it");
    linux.region.tick(ram);
    assert_eq!(survey.confirm().unwrap().len(), 1);
}

#[test]
fn a_beat_is_a_proof_however_soon() {
    let (linux, guest) = guest();
    let mut survey = guest.survey().unwrap();
    assert!(survey.poll().is_empty());
    assert_eq!(survey.candidates()[0].liveness, None, "too early to say that anybody does not live");
    linux.region.tick(&linux.guest.ram);
    assert_eq!(survey.poll().len(), 1);
}

/// 200 regions that one process made up, and room for 16 candidates: every one is handed out once, the producer in the
/// first turn, and no survey ever holds more than it was told to.
#[test]
fn forgeries_take_turns_and_hide_nobody() {
    let mut linux = standard_linux(LinuxOptions::default());
    let forger = linux.processes[2].space;
    for n in 0..200_u64 {
        let base = Gva::new(0x1000_0000_0000 + n * (128 << 20));
        let alias = linux.forged.alias(&mut linux.guest, forger, base, flags::USER_RW);
        assert_eq!(alias.base, base);
    }
    let guest = Guest::over(linux.guest.ram.clone(), END).with_limits(Limits::new(16, 4));
    let mut survey = guest.survey().unwrap();
    assert!(bases(&survey).len() <= 16);
    let producer = linux.processes[linux.producer].space.root;
    let by_producer = survey.candidates().iter().filter(|one| one.candidate.process.space.root.table() == producer);
    assert_eq!(by_producer.count(), 1, "the producer is in the first turn");
    let total = bases(&survey).len() as u64 + survey.left();
    assert_eq!(total, 202);
    let mut seen = HashSet::new();
    let mut turns = 0;
    loop {
        turns += 1;
        assert!(survey.candidates().len() <= 16);
        for one in survey.candidates() {
            let place = (one.candidate.process.space.root.get(), one.candidate.base);
            assert!(seen.insert(place), "{place:?} was handed out twice");
        }
        let left = survey.left();
        if left > 0 {
            let held = bases(&survey);
            let broken = survey.more_with(|_| ControlFlow::Break(()));
            assert!(matches!(broken, Err(SurveyError::Cancelled)), "{broken:?}");
            assert!(bases(&survey) == held && survey.left() == left, "it holds what it held");
        }
        if !survey.more().unwrap() {
            assert_eq!(left, 0);
            break;
        }
        assert!(survey.left() < left, "{} are left of {left}", survey.left());
    }
    assert_eq!(seen.len() as u64, total);
    assert!(turns <= total.div_ceil(4) + 1, "{turns} turns");
}

#[test]
fn memory_that_stands_still_is_not_waited_for() {
    let (linux, guest) = guest();
    let guest = guest.frozen();
    let mut survey = guest.survey().unwrap();
    assert_eq!(survey.wait(), Duration::ZERO);
    assert!(survey.confirm().unwrap().is_empty());
    let real = survey.stale().find(|one| one.candidate.base == linux.region.base).copied().unwrap();
    let mut opened = survey.open(&real);
    assert_eq!(opened.proof(), None);
    assert!(opened.status().unwrap().fresh().is_some());
}

#[test]
fn a_search_can_be_broken_off_and_reports_how_far_it_is() {
    let (_, guest) = guest();
    let mut reports = 0;
    let survey = guest.survey_with(|_| {
        reports += 1;
        ControlFlow::Continue(())
    });
    assert!(survey.is_ok() && reports > 0);
    let error = guest.survey_with(|_| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(error, SurveyError::Cancelled), "{error}");
    assert!(matches!(guest.kernel_with(|_| ControlFlow::Break(())), Err(SurveyError::Cancelled) | Ok(_)));
}

/// Tables of the boot before lead to the producer's first pages at another place: its heart beats there as well, and
/// the place whose frame can be read is given first.
#[test]
fn a_place_without_the_frame_comes_behind_the_one_that_has_it() {
    let mut linux = standard_linux(LinuxOptions::default());
    let pages = [0, abi::CONTROL_OFFSET].map(|offset| (offset, linux.region.gpa(offset).unwrap()));
    let base = Gva::new(0x5e_3000_0000);
    for (_, process) in linux.processes.iter().enumerate().filter(|(n, _)| *n != linux.producer) {
        for (offset, page) in pages {
            linux.guest.map(process.space, base.wrapping_add(offset), page, PageSize::Size4K, flags::USER_RW);
        }
        process.sync(&linux.guest);
    }
    let guest = Guest::over(linux.guest.ram.clone(), END);
    let mut survey = guest.survey().unwrap();
    linux.region.tick(&linux.guest.ram);
    let lives = survey.poll();
    assert_eq!(lives.len(), linux.processes.len(), "one heart beats in all of them");
    let place = |n: usize| (lives[n].candidate().process.space.root.table(), lives[n].candidate().base);
    assert_eq!(place(0), (linux.processes[linux.producer].space.root, linux.region.base));
    assert!((1..lives.len()).all(|n| place(n).1 == base));
}
