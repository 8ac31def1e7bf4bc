"""Frames as arrays: whose memory they are, that they are whole, and that they are followed."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from conftest import Demo, assert_whole, is_desktop, next_frame

import vgpu_perception as vp


def test_a_frame_is_an_array_of_the_guests_pixels(live: vp.Live) -> None:
    first = next_frame(live)
    assert_whole(first)
    assert (first.width, first.height) == (1280, 720) and first.missed == 0
    assert is_desktop(first)
    second = next_frame(live)
    assert_whole(second)
    assert second.id == first.id + 1 + second.missed
    assert second.timestamp_ns > first.timestamp_ns
    assert first.array.flags.writeable and first.array.flags.c_contiguous


def test_none_where_nothing_is_new(live: vp.Live, demo: Demo) -> None:
    next_frame(live)
    pid = demo.producer()
    # It may be stopped in the middle of a frame, and of nothing else: the one before is the latest then.
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(0.05)
        while live.frame() is not None:
            pass
        assert live.frame() is None
        live.forget_frames()
        again = live.frame()
        assert again is not None
        assert_whole(again)
        assert live.frame() is None
    finally:
        os.kill(pid, signal.SIGCONT)
    assert next_frame(live).id > again.id


def test_a_frame_that_is_held_stays_as_it_is(live: vp.Live) -> None:
    held, views = [], []
    for n in range(12):
        frame = next_frame(live)
        # Some are held as they are, some by a view of a part.
        if n % 2:
            held.append(frame)
        else:
            views.append((frame.id, frame.array[100:110]))
        del frame
    for frame in held:
        assert_whole(frame)
    from conftest import stamps

    for frame_id, view in views:
        assert ((view[..., :3] & 3) == stamps(frame_id, 720, 1280)[100:110]).all()
    places = {frame.array.ctypes.data for frame in held}
    assert len(places) == len(held)


def test_memory_that_nobody_holds_is_used_again(live: vp.Live) -> None:
    places = set()
    for _ in range(12):
        frame = next_frame(live)
        places.add(frame.array.ctypes.data)
        del frame
    assert len(places) <= 3, "each frame got memory of its own"


def test_out_is_filled_in_place(live: vp.Live) -> None:
    out = np.zeros((720, 1280, 4), np.uint8)
    for _ in range(3):
        frame = None
        while frame is None:
            frame = live.frame(out=out)
        assert frame.array is out
        assert_whole(frame)
    # A part of a larger array whose rows lie together.
    stack = np.zeros((3, 720, 1280, 4), np.uint8)
    frame = None
    while frame is None:
        frame = live.frame(out=stack[1])
    assert_whole(frame)
    assert not stack[0].any() and not stack[2].any() and stack[1].any()


@pytest.mark.parametrize(
    ("out", "error", "text"),
    [
        (np.zeros((720, 1280, 4), np.float32), TypeError, "float32"),
        ([1, 2, 3], TypeError, "uint8"),
        (np.zeros((720 * 1280 * 4,), np.uint8), ValueError, "height, width, 4"),
        (np.zeros((720, 1280, 3), np.uint8), ValueError, "height, width, 4"),
        (np.zeros((720, 2560, 4), np.uint8)[:, ::2], ValueError, "contiguous"),
        (np.zeros((720, 1280, 4), np.uint8, order="F"), ValueError, "contiguous"),
        (np.zeros((72, 128, 4), np.uint8), ValueError, "3686400 bytes"),
        (np.zeros((1280, 720, 4), np.uint8), ValueError, r"\(720, 1280, 4\)"),
        (np.zeros((1080, 1920, 4), np.uint8), ValueError, r"\(720, 1280, 4\)"),
    ],
)
def test_an_out_that_does_not_fit_is_refused(live: vp.Live, out: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        for _ in range(1000):
            live.frame(out=out)  # type: ignore[arg-type]
            time.sleep(0.002)
    # And no frame is lost for it.
    assert_whole(next_frame(live))


def test_an_out_that_cannot_be_written_is_not(live: vp.Live) -> None:
    out = np.zeros((720, 1280, 4), np.uint8)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="cannot be written"):
        live.frame(out=out)
    assert not out.any()


def test_an_iterator_gives_each_frame_once(live: vp.Live) -> None:
    ids = []
    for frame in live.frames(timeout=30):
        assert_whole(frame)
        ids.append(frame.id)
        if len(ids) == 20:
            break
    assert ids == sorted(set(ids))


def test_an_iterator_keeps_to_its_pace(live: vp.Live) -> None:
    # How long a frame takes is the machine's affair; that none comes before its time is ours.
    begun = time.monotonic()
    for count, _ in enumerate(live.frames(fps=20)):
        assert time.monotonic() - begun >= count / 20
        if count == 9:
            break


def test_an_iterator_survives_restarts(demo: Demo) -> None:
    reader = demo.attach("windows").find(timeout=60)
    frames = reader.frames(timeout=60)
    while next(frames).id < 120:
        pass
    before = [next(frames).id for _ in range(3)]
    os.kill(demo.producer("windows"), signal.SIGKILL)
    time.sleep(0.05)
    # What it published before its end.
    last = before[-1]
    while (frame := reader.frame()) is not None:
        last = max(last, frame.id)
    assert last >= 120
    with demo.start_producer("windows") as second:
        try:
            # Numbers begin anew, also for who reads the same place without following.
            again = next_frame(reader)
            assert_whole(again)
            assert again.id < last
            after = next(frames)
            while after.id >= before[-1] + 60:
                after = next(frames)
            for _ in range(3):
                assert_whole(next(frames))
        finally:
            second.kill()
    short = demo.attach("windows")
    with pytest.raises(vp.NoProducer, match="heartbeat"):
        short.find(timeout=2)


def test_threads_share_a_reader(live: vp.Live) -> None:
    taken: list[vp.Frame] = []

    def work() -> None:
        for _ in range(10):
            taken.append(next_frame(live))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 40 and len({frame.id for frame in taken}) == 40, "each frame is given once"
    for frame in taken:
        assert_whole(frame)


def test_the_small_lines(live: vp.Live) -> None:
    geometry, status, cursor = live.geometry(), live.status(), live.cursor()
    assert geometry is not None and status is not None and cursor is not None
    assert (geometry.virtual_width, geometry.virtual_height, geometry.dpi) == (1280, 720, 96)
    assert geometry.refresh_hz == 60.0 and (geometry.capture_x, geometry.capture_y) == (0, 0)
    assert (status.state, status.run_epoch, status.error_code) == ("CAPTURING", 1, 0)
    assert 24 <= cursor.glyph_width < 65 and isinstance(cursor.shape, str)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        later = live.status()
        if later is not None and later.heartbeat > status.heartbeat:
            break
    else:
        raise AssertionError("the heart does not beat")
    assert live.geometry() == geometry
    assert "CAPTURING" in repr(status) and "Cursor(" in repr(cursor) and "1280x720" in repr(geometry)
