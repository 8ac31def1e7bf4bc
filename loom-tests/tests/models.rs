//! The protocol as it ships: no execution within the bound breaks a property, and each outcome is reached.

use vgpu_perception_loom::scenario::{self, Faults};
use vgpu_perception_loom::{check, chooser};

#[test]
fn one_publish_during_a_read() {
    check("one publish", 3, &["frame 1", "frame 2"], |outcomes| scenario::frames(outcomes, Faults::NONE, 1, 1, 0));
}

#[test]
fn two_publishes_during_a_read() {
    check("two publishes", 2, &["frame 1", "frame 2", "frame 3"], |outcomes| {
        scenario::frames(outcomes, Faults::NONE, 1, 2, 0);
    });
}

#[test]
fn the_first_frame() {
    check("first frame", 3, &["NoFrame", "frame 1"], |outcomes| scenario::frames(outcomes, Faults::NONE, 0, 1, 0));
}

#[test]
fn the_ring_wraps_onto_the_slot_that_is_read() {
    check("ring wraps", 3, &["frame 1", "frame 2", "frame 3", "frame 4", "tried again"], |outcomes| {
        scenario::wrap(outcomes, Faults::NONE);
    });
}

#[test]
fn sequence_numbers_wrap() {
    check("numbers wrap", 2, &["frame 1", "frame 4", "tried again"], |outcomes| {
        scenario::frames(outcomes, Faults::NONE, 1, 3, u32::MAX - 3);
    });
    check("cursor numbers wrap", 2, &["cursor 1", "cursor 2", "cursor 3"], |outcomes| {
        scenario::cursor(outcomes, Faults::NONE, 2, 1, u32::MAX - 3);
    });
}

#[test]
fn a_writer_stops_half_way() {
    check("half-way", 2, &["frame 1", "frame 2"], |outcomes| scenario::half(outcomes, Faults::NONE));
}

#[test]
fn a_session_breaks_during_a_read() {
    check("restart", 2, &["new session", "frame 1", "NoFrame"], |outcomes| {
        scenario::restart(outcomes, Faults::NONE);
    });
}

#[test]
fn two_readers() {
    check("two readers", 1, &["frame 1", "frame 2"], |outcomes| scenario::two_readers(outcomes, Faults::NONE));
}

#[test]
fn the_cursor_moves_during_a_read() {
    check("cursor", 2, &["cursor 1", "cursor 2", "cursor 3", "busy"], |outcomes| {
        scenario::cursor(outcomes, Faults::NONE, 2, 1, 0);
    });
    check("cursor, read twice", 2, &["cursor 1", "cursor 2", "busy"], |outcomes| {
        scenario::cursor(outcomes, Faults::NONE, 1, 2, 0);
    });
}

#[test]
fn the_geometry_changes_during_a_read() {
    check("geometry", 2, &["geometry 1", "geometry 2", "geometry 3", "busy"], |outcomes| {
        scenario::geometry(outcomes, Faults::NONE);
    });
}

#[test]
fn liveness_under_a_session_break() {
    check("liveness", 3, &["alive", "still", "restarted"], |outcomes| scenario::liveness(outcomes, Faults::NONE));
}

#[test]
fn the_page_moves_during_a_read() {
    check("page moves", 3, &["before", "gone"], |outcomes| scenario::moved(outcomes, Faults::NONE));
}

#[test]
fn a_ring_page_moves_during_a_read() {
    check("ring page moves", 3, &["before", "gone"], |outcomes| scenario::ring_moved(outcomes, Faults::NONE));
}

#[test]
fn threads_do_not_spend_the_same_credit_for_trials() {
    check("credit", 3, &["first tries", "second tries"], chooser::credit_is_spent_once);
}

#[test]
fn threads_take_in_samples_of_one_record() {
    check("samples", 2, &["first ends it", "second ends it"], chooser::samples_are_kept_or_lost_whole);
}

#[test]
fn threads_complete_the_frames_of_one_contest() {
    check("contest", 3, &["it ends", "it goes on"], chooser::a_contest_ends_once);
}

#[test]
fn threads_read_each_trial_once() {
    check("unread", 3, &["the old one is read", "the new one is read"], chooser::trials_are_read_once);
}
