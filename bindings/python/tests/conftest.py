"""Guests for the tests: the two that are built into `vgpu demo`, and the real one whose process VGPU_TEST_PID names."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

import vgpu_perception as vp

ROOT = pathlib.Path(__file__).resolve().parents[3]
VGPU = os.environ.get("VGPU", str(ROOT / "target/debug/vgpu"))


def stamps(frame_id: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """The low two bits of blue, green and red of every pixel of a frame: they follow from its number and the place."""
    chunk = np.arange(height * width, dtype=np.uint32) // np.uint32(16)
    six = (((chunk * np.uint32(0x9E3779B1)) >> np.uint32(26)) + np.uint32(frame_id & 63)) & np.uint32(63)
    bits = np.stack([six & 3, six >> 2 & 3, six >> 4], axis=-1)
    return bits.astype(np.uint8).reshape(height, width, 3)


def assert_whole(frame: vp.Frame) -> None:
    """Every pixel is of this frame: two frames of near numbers differ in each."""
    array = frame.array
    assert array.shape == (frame.height, frame.width, 4) and array.dtype == np.uint8
    wrong = (array[..., :3] & 3) != stamps(frame.id, frame.height, frame.width)
    assert not wrong.any(), f"frame {frame.id}: {int(wrong.any(axis=-1).sum())} pixels are not its own"


def is_under_block(x: int, y: int, number: int, width: int, height: int) -> bool:
    """Whether the block that wanders over the test picture covers a place: see the pattern of the producer."""

    def bounce(way: int, most: int) -> int:
        at = way % (2 * most)
        return min(at, 2 * most - at)

    side = height // 9
    left, top = bounce(number * 7, width - side), bounce(number * 4, height - side)
    return left <= x < left + side and top <= y < top + side


def is_desktop(frame: vp.Frame) -> bool:
    """Whether it shows the test picture: the title of its first window, and the body below.

    Where the block is in front of one of them, the other one tells.
    """
    width, height, array = frame.width, frame.height, frame.array
    title = (width * 51 // 100, height * 70 // 1000 + 1, [0xA0, 0x58, 0x2C])
    body = (width * 52 // 1000, height * 65 // 100, [0xF4, 0xF4, 0xF4])
    seen = [spot for spot in (title, body) if not is_under_block(*spot[:2], frame.id, width, height)]
    return len(seen) > 0 and all((array[y, x, :3] & 0xFC).tolist() == colour for x, y, colour in seen)


def next_frame(live: vp.Live, timeout: float = 30) -> vp.Frame:
    """Polls until there is a new one."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        frame = live.frame()
        if frame is not None:
            return frame
        time.sleep(0.002)
    raise AssertionError("no frame")


class Demo:
    """The built-in guests, each with a producer in a process of its own."""

    def __init__(self, folder: pathlib.Path) -> None:
        command = [VGPU, "demo", "--seconds", "1", "-o", str(folder / "frame.png"), "--serve"]
        self.log = folder / "tour"
        with self.log.open("wb") as tour:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=tour)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert b"token" in first, self.log.read_text()
        self.words = {}
        for name, words in re.findall(r"on (\w+),.*vgpu stream (.*) \| ffmpeg", self.log.read_text()):
            path, *maps = shlex.split(words)
            self.words[name] = (path, [one.removeprefix("--map=") for one in maps])

    def attach(self, name: str = "linux") -> vp.Guest:
        path, maps = self.words[name]
        return vp.attach(f"ram:{path}", map=maps)

    def producer(self, name: str = "linux") -> int:
        """The number of the producer's process."""
        path = self.words[name][0].encode()
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"demo-producer" in words and path in words:
                return int(folder.name)
        raise AssertionError(f"no producer of {name}")

    def start_producer(self, name: str) -> "subprocess.Popen[bytes]":
        """Another producer in the same pages: as after a restart."""
        path = self.words[name][0]
        pieces = str(pathlib.Path(path).parent / "pieces")
        return subprocess.Popen([VGPU, "demo-producer", path, pieces, str(os.getpid())])

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    yield demo
    demo.stop()


@pytest.fixture(scope="session")
def guest(demo: Demo) -> vp.Guest:
    return demo.attach()


@pytest.fixture
def live(guest: vp.Guest) -> vp.Live:
    return guest.find(timeout=60)


@pytest.fixture
def paused(demo: Demo) -> Iterator[None]:
    """The producer of the Linux guest stands still during the test."""
    pid = demo.producer()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
