//! The test pictures tell every mixture of two frames.

use vgpu_perception_producer::pattern::{self, Mismatch};

fn picture(frame_id: u64, width: u32, height: u32) -> Vec<u8> {
    let mut pixels = vec![0; (width * height * 4) as usize];
    for (y, row) in (0..).zip(pixels.chunks_exact_mut(width as usize * 4)) {
        pattern::fill_row(frame_id, width, height, y, row);
    }
    pixels
}

#[test]
fn every_pixel_differs_from_that_of_the_63_frames_around() {
    for (width, height) in [(320, 180), (37, 23), (1, 1), (1, 40), (50, 1)] {
        let one = picture(1000, width, height);
        for other in (1001..1064).map(|frame_id| picture(frame_id, width, height)) {
            let same = one.chunks_exact(4).zip(other.chunks_exact(4)).filter(|(one, other)| one == other);
            assert_eq!(same.count(), 0, "{width} x {height}");
        }
    }
}

#[test]
fn one_foreign_word_is_found_wherever_it_is() {
    let (width, height) = (160, 90);
    let whole = picture(7, width, height);
    let older = picture(4, width, height);
    assert_eq!(pattern::check(7, width, height, &whole), Ok(()));
    for at in (0..whole.len()).step_by(8) {
        let mut mixed = whole.clone();
        mixed[at..at + 8].copy_from_slice(&older[at..at + 8]);
        let pixel = u32::try_from(at / 4).unwrap();
        let found = pattern::check(7, width, height, &mixed);
        assert!(matches!(found, Err(Mismatch::Pixel { x, y, .. }) if y * width + x == pixel), "{at}: {found:?}");
    }
    assert_eq!(pattern::check(7, width, height, &whole[4..]), Err(Mismatch::Size { have: whole.len() - 4 }));
    assert_eq!(pattern::check(7, 5000, 1, &whole), Err(Mismatch::Size { have: whole.len() }));
}

#[test]
fn pages_in_each_others_place_are_found() {
    let (width, height) = (192, 108);
    let whole = picture(3, width, height);
    let pages = whole.len() / 4096;
    let swapped = (0..pages).flat_map(|one| (one + 1..pages).map(move |other| (one, other))).filter(|(one, other)| {
        let mut mixed = whole.clone();
        for (to, from) in [(one, other), (other, one)] {
            mixed[to * 4096..][..4096].copy_from_slice(&whole[from * 4096..][..4096]);
        }
        pattern::check(3, width, height, &mixed).is_ok()
    });
    assert_eq!(swapped.count(), 0);
}

#[test]
fn every_word_of_the_small_lines_changes_with_every_step() {
    for step in 1..5000 {
        let (now, next) = (pattern::cursor(step, 1280, 720), pattern::cursor(step + 1, 1280, 720));
        assert!(now.visible != next.visible && (now.x, now.y) != (next.x, next.y) && now.id != next.id);
        assert!((now.hot_x, now.hot_y) != (next.hot_x, next.hot_y) && now.glyph_w != next.glyph_w);
        let (now, next) = (pattern::geometry(step, 1280, 720), pattern::geometry(step + 1, 1280, 720));
        assert!(now.virt_x != next.virt_x && now.virt_y != next.virt_y && now.virt_w != next.virt_w);
        assert!(now.virt_h != next.virt_h && now.cap_x != next.cap_x && now.cap_y != next.cap_y);
        assert!(now.dpi != next.dpi && now.refresh_mhz != next.refresh_mhz);
    }
}

#[test]
fn the_checksum_is_fnv_1a_over_words() {
    assert_eq!(pattern::checksum(&[]), 0xcbf2_9ce4_8422_2325);
    // One byte: plain FNV-1a, from its published test vectors.
    assert_eq!(pattern::checksum(b"a"), 0xaf63_dc4c_8601_ec8c);
    assert_ne!(pattern::checksum(&[1; 16]), pattern::checksum(&[1; 17]));
    let word = (0xcbf2_9ce4_8422_2325_u64 ^ 0x0807_0605_0403_0201).wrapping_mul(0x0000_0100_0000_01b3);
    assert_eq!(pattern::checksum(&[1, 2, 3, 4, 5, 6, 7, 8]), word);
}
