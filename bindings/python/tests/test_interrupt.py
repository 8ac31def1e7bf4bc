"""ctrl-C in whatever waits or works: KeyboardInterrupt, and the process ends by it."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from conftest import Demo

# What the child runs; it says when it is about to be in the call, and what came out of it.
PROGRAM = """
import json, signal, sys
import vgpu_perception as vp

# Who runs the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

ram, maps, work = json.loads(sys.argv[1])
guest = vp.attach(f"ram:{ram}", map=maps or None)

def find():
    guest.find(timeout=600)

def frames():
    # After the first frame the next one is not due for ten minutes.
    for frame in guest.find(timeout=60).frames(fps=1 / 600):
        print("waiting", flush=True)

def none():
    for frame in guest.find(timeout=60).frames(fps=60, timeout=600):
        print("waiting", flush=True)

def survey():
    while True:
        guest.survey()

try:
    if work in ("find", "survey"):
        print("waiting", flush=True)
    globals()[work]()
    print("ended by itself")
except KeyboardInterrupt:
    print("KeyboardInterrupt", flush=True)
    raise
"""


def start(work: str, ram: str, maps: list[str]) -> "subprocess.Popen[str]":
    """A child that does `work`, once it has said that it is about to."""
    words = [sys.executable, "-c", PROGRAM, json.dumps([ram, maps, work])]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n", child.communicate()
    return child


def interrupt(child: "subprocess.Popen[str]") -> None:
    """Sends SIGINT; it has to end by the exception, as a program without a handler of its own does."""
    # It is in the call, or a few instructions before it: both have to end.
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=0.5)
    child.send_signal(signal.SIGINT)
    try:
        # Only a hang takes so long: what the calls were asked to wait for takes ten times that.
        said, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert said.splitlines()[-1] == "KeyboardInterrupt", (said, errors)
    assert child.returncode == -signal.SIGINT, (child.returncode, errors)
    assert errors.rstrip().endswith("KeyboardInterrupt"), errors


def test_a_find_that_waits_for_a_producer(tmp_path: pathlib.Path) -> None:
    ram = tmp_path / "ram"
    ram.write_bytes(os.urandom(1 << 22))
    interrupt(start("find", str(ram), []))


@pytest.mark.parametrize("work", ["frames", "survey"])
def test_frames_that_are_not_due_and_searches(demo: Demo, work: str) -> None:
    interrupt(start(work, *demo.words["linux"]))


def test_frames_of_a_producer_that_stands_still(demo: Demo) -> None:
    child = start("none", *demo.words["linux"])
    pid = demo.producer()
    os.kill(pid, signal.SIGSTOP)
    try:
        interrupt(child)
    finally:
        os.kill(pid, signal.SIGCONT)
