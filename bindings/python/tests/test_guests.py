"""From a name to producers, and everything that can be in the way."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from conftest import Demo, assert_whole, next_frame

import vgpu_perception as vp


def test_a_survey_is_waited_for_and_confirmed(guest: vp.Guest) -> None:
    survey = guest.survey()
    assert len(survey) == len(survey.candidates) == 2, "the producer and the forged region"
    assert survey.left == 0 and not survey.more()
    with pytest.raises(vp.TooEarly, match="250 ms") as early:
        survey.confirm()
    assert 0 < early.value.wait <= survey.wait() + 0.05
    assert [candidate.alive for candidate in survey.candidates] == [None, None]
    time.sleep(survey.wait())
    lives = survey.confirm()
    assert len(lives) == 1
    assert_whole(next_frame(lives[0]))
    assert [candidate.alive for candidate in survey.candidates] == [True, False]
    alive, dead = survey.candidates
    assert (lives[0].base, lives[0].process) == (alive.base, alive.process)
    # Whoever knows what he does may look at one that does not live.
    assert survey.open(dead).status() is not None
    assert_whole(next_frame(survey.open(alive)))


def test_processes(demo: Demo) -> None:
    linux = demo.attach("linux").processes()
    assert len(linux) >= 9 and len({one.cr3 for one in linux}) == len(linux)
    assert all(one.name is None and one.pid is None for one in linux)
    windows = demo.attach("windows").processes()
    names = {one.name for one in windows}
    assert "System" in names, names
    assert all(one.pid is not None and one.cr3 % 4096 == 0 for one in windows)
    assert "System" in repr([one for one in windows if one.name == "System"])


def test_a_guest_says_what_it_is(guest: vp.Guest) -> None:
    assert guest.name.startswith("ram:/") and guest.is_live and guest.notes == []
    assert repr(guest).startswith('Guest("ram:')


@pytest.mark.parametrize(
    ("name", "options", "error", "text"),
    [
        ("pid:x", {}, vp.UsageError, "pid:1234"),
        ("qmp:", {}, vp.UsageError, "qmp"),
        ("ram:/nowhere/at/all", {}, vp.NotFound, "/nowhere/at/all"),
        ("name:no-such-vm", {}, vp.NotFound, "no-such-vm"),
        ("ram:/dev/null", {"map": ["x"]}, vp.UsageError, "x"),
        ("ram:/dev/null", {"machine": "toaster"}, vp.UsageError, "toaster"),
    ],
)
def test_a_guest_that_cannot_be_attached_to(name: str, options: dict[str, Any], error: type[vp.Error], text: str) -> None:
    with pytest.raises(error, match=text) as raised:
        vp.attach(name, **options)
    assert isinstance(raised.value, vp.Error)


def test_memory_without_a_kernel_is_unreadable(tmp_path: pathlib.Path) -> None:
    ram = tmp_path / "ram"
    ram.write_bytes(os.urandom(1 << 22))
    guest = vp.attach(f"ram:{ram}")
    with pytest.raises(vp.Unreadable, match="no page of this RAM"):
        guest.survey()
    with pytest.raises(vp.Unreadable):
        guest.processes()
    with pytest.raises(vp.NoProducer, match="no page of this RAM"):
        guest.find(timeout=0.5)


def test_memory_of_another_user_is_refused(tmp_path: pathlib.Path) -> None:
    ram = tmp_path / "ram"
    ram.write_bytes(os.urandom(1 << 22))
    ram.chmod(0)
    code = (
        "import os, sys, vgpu_perception as vp\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: vp.attach(sys.argv[1])\n"
        "except vp.PermissionDenied as error: print(error)\n"
    )
    # Nobody else may enter the folder of a test, which is a refusal too, and not the one that is meant.
    for folder in [tmp_path, *tmp_path.parents[:3]]:
        if folder.stat().st_uid == os.getuid() and str(folder) != "/":
            folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", code, f"ram:{ram}"], capture_output=True, text=True, check=False)
    assert str(ram) in done.stdout, done.stderr


def sparse_copy(source: str, target: pathlib.Path) -> None:
    """A RAM file of 4 GiB that is mostly holes."""
    subprocess.run(["cp", "--sparse=always", source, str(target)], check=True)


def test_a_file_that_shrinks_is_an_exception(demo: Demo, tmp_path: pathlib.Path) -> None:
    path, maps = demo.words["linux"]
    ram = tmp_path / "ram"
    sparse_copy(path, ram)
    guest = vp.attach(f"ram:{ram}", map=maps)
    survey = guest.survey()
    readers = [survey.open(candidate) for candidate in survey.candidates]
    assert any(reader.status() is not None for reader in readers)
    os.truncate(ram, 4096)
    for reader in readers:
        with pytest.raises(vp.Gone):
            reader.status()
        with pytest.raises(vp.Gone):
            reader.frame()
    with pytest.raises((vp.Gone, vp.Unreadable)):
        guest.survey()


def test_memory_that_stands_still_is_read_and_not_followed(demo: Demo, tmp_path: pathlib.Path, paused: None) -> None:
    # A dump in LiME's format: a header of 32 bytes before each stretch of memory.
    path, maps = demo.words["linux"]
    core = tmp_path / "core.lime"
    with open(path, "rb") as ram, core.open("wb") as out:
        for one in maps:
            gpa, length, offset = (int(number, 0) for number in one.split(":"))
            head = b"EMiL" + (1).to_bytes(4, "little") + gpa.to_bytes(8, "little")
            out.write(head + (gpa + length - 1).to_bytes(8, "little") + bytes(8))
            start, at = out.tell(), offset
            while at < offset + length:
                try:
                    at = os.lseek(ram.fileno(), at, os.SEEK_DATA)
                    end = os.lseek(ram.fileno(), at, os.SEEK_HOLE)
                except OSError:
                    break
                at, end = max(at, offset), min(end, offset + length)
                if at >= end:
                    break
                out.seek(start + at - offset)
                out.write(os.pread(ram.fileno(), end - at, at))
                at = end
            out.seek(start + length)
            out.truncate()
    guest = vp.attach(f"core:{core}")
    assert not guest.is_live
    survey = guest.survey()
    assert survey.wait() == 0 and survey.confirm() == []
    frames = [frame for frame in (survey.open(one).frame() for one in survey.candidates) if frame is not None]
    for frame in frames:
        if (frame.width, frame.height) == (1280, 720):
            assert_whole(frame)
            break
    else:
        raise AssertionError("the producer's frame is not in the dump")
    with pytest.raises(vp.UsageError, match="stands still"):
        guest.find()


def test_other_threads_run_while_memory_is_read(guest: vp.Guest) -> None:
    # The interpreter takes the lock from nobody: another thread runs only where this module lets go of it.
    interval = sys.getswitchinterval()
    counted, end = [0], threading.Event()

    def count() -> None:
        while not end.is_set():
            counted[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        sys.setswitchinterval(1000)
        before = counted[0]
        guest.survey()
        during = counted[0] - before
    finally:
        sys.setswitchinterval(interval)
        end.set()
        thread.join()
    assert during > 10, "nothing else ran during a survey"


def test_waiting_ends_with_a_signal(tmp_path: pathlib.Path) -> None:
    ram = tmp_path / "ram"
    ram.write_bytes(os.urandom(1 << 22))
    guest = vp.attach(f"ram:{ram}")

    class Rang(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rang

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(Rang):
            guest.find(timeout=None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_seconds_that_are_none(guest: vp.Guest, live: vp.Live, value: float) -> None:
    with pytest.raises(vp.UsageError, match="timeout"):
        guest.find(timeout=value)
    with pytest.raises(vp.UsageError, match="fps"):
        live.frames(fps=value if value != float("inf") else 0.0)
