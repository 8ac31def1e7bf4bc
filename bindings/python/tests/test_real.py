"""A real guest: QEMU's process, whose number VGPU_TEST_PID has. `.ci/faces` starts one; it ends with these tests."""

import os
import signal

import pytest
from conftest import assert_whole, is_desktop, next_frame

import vgpu_perception as vp

PID = os.environ.get("VGPU_TEST_PID")
pytestmark = pytest.mark.skipif(PID is None, reason="VGPU_TEST_PID names no guest: .ci/faces starts one")


def test_a_real_guest_is_found_read_and_followed_to_its_end() -> None:
    guest = vp.attach(f"pid:{PID}")
    live = guest.find(timeout=180)
    geometry, status = live.geometry(), live.status()
    assert geometry is not None and (geometry.virtual_width, geometry.virtual_height) == (1280, 720)
    assert status is not None and status.state == "CAPTURING"
    assert live.process.cr3 in {one.cr3 for one in guest.processes()}
    assert_whole(next_frame(live))
    frames = live.frames(timeout=60)
    for _ in range(20):
        frame = next(frames)
        assert_whole(frame)
        assert is_desktop(frame)
    if os.environ.get("VGPU_TEST_END") is None:
        return
    os.kill(int(PID or 0), signal.SIGKILL)
    with pytest.raises(vp.Gone):
        while True:
            next(frames)
    with pytest.raises(vp.Gone):
        guest.survey()
