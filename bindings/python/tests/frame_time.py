"""frame_time.py PROGRAM: the time of a frame in Python and in Rust, in turns, on a built-in guest that stands still.

PROGRAM is the example `frame_time` of the host crate. Both take the same frame anew, again and again.
"""

import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Optional

import numpy as np
from conftest import Demo

import vgpu_perception as vp

FRAMES = 200
ROUNDS = 15


def median(live: vp.Live, take: Callable[[], Optional[vp.Frame]]) -> float:
    """Microseconds of a frame, in the middle of many."""
    times = []
    for _ in range(FRAMES):
        live.forget_frames()
        begun = time.perf_counter()
        frame = take()
        taken = time.perf_counter() - begun
        if frame is not None:
            times.append(taken * 1e6)
        del frame
    return statistics.median(times)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        demo = Demo(pathlib.Path(folder))
        try:
            compare(demo)
        finally:
            demo.stop()


def compare(demo: Demo) -> None:
    path, maps = demo.words["linux"]
    rust = subprocess.Popen([sys.argv[1], path, *maps], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert rust.stdin is not None and rust.stdout is not None

    def in_rust() -> float:
        assert rust.stdin is not None and rust.stdout is not None
        print(FRAMES, file=rust.stdin, flush=True)
        return float(rust.stdout.readline())

    live = demo.attach().find(timeout=60)
    out = np.zeros((720, 1280, 4), np.uint8)
    in_rust()
    pid = demo.producer()
    os.kill(pid, signal.SIGSTOP)
    try:
        in_rust(), median(live, live.frame), median(live, lambda: live.frame(out=out))
        rounds = [(in_rust(), median(live, live.frame), median(live, lambda: live.frame(out=out))) for _ in range(ROUNDS)]
    finally:
        os.kill(pid, signal.SIGCONT)
        rust.stdin.close()
        rust.wait()
    ours, fresh, into = (statistics.median(column) for column in zip(*rounds))
    ratios = [statistics.median(one[n] / one[0] for one in rounds) for n in (1, 2)]
    print(
        f"figure: python: a frame of 1280 x 720 takes {ours:.0f} us in Rust, {fresh:.0f} us as an array, {into:.0f} us into "
        f"the caller's; in turns, {ROUNDS} times {FRAMES}: {ratios[0]:.3f} and {ratios[1]:.3f} of Rust"
    )


main()
