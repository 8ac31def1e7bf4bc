"""agent.py GUEST: waits until the guest's screen changes, looks at what changed, and says so.

The loop of an agent that works with what it sees: `look` is where yours thinks.
"""

import argparse
from collections.abc import Iterator
from typing import Optional

import numpy as np
import numpy.typing as npt

import vgpu_perception as vp

Pixels = npt.NDArray[np.uint8]


def changed(before: Pixels, now: Pixels) -> Optional[tuple[slice, slice]]:
    """The rectangle in which two pictures differ; None where they are the same."""
    if before.shape != now.shape:
        return slice(0, now.shape[0]), slice(0, now.shape[1])
    # Four bytes a pixel, compared as one number; the lowest bits are noise of many encoders.
    differ = (before & 0xFC).view(np.uint32)[..., 0] != (now & 0xFC).view(np.uint32)[..., 0]
    rows, columns = np.flatnonzero(differ.any(axis=1)), np.flatnonzero(differ.any(axis=0))
    if rows.size == 0:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def looks(live: vp.Live) -> Iterator[tuple[vp.Frame, Pixels]]:
    """Each frame that differs from the one before, and the part that does, as red, green, blue."""
    before = None
    for frame in live.frames(fps=5):
        place = None if before is None else changed(before, frame.array)
        # A frame that is held stays as it is: the next one gets other memory.
        before = frame.array
        if place is not None:
            yield frame, frame.array[place][..., 2::-1]


def look(frame: vp.Frame, part: Pixels) -> None:
    """What an agent thinks about; Image.fromarray(part) of Pillow takes it as it is."""
    share = part.shape[0] * part.shape[1] * 100 // (frame.width * frame.height)
    print(f"frame {frame.id}: {share} % of the screen changed, {frame.missed} frames were missed", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("guest", help="as `vgpu list` names it")
    parser.add_argument("--map", action="append", help="where RAM lies in a file: GPA:LENGTH:OFFSET")
    parser.add_argument("--looks", type=int, default=0, help="end after so many changes")
    words = parser.parse_args()
    live = vp.attach(words.guest, map=words.map).find(timeout=60)
    for count, (frame, part) in enumerate(looks(live), start=1):
        look(frame, part)
        if count == words.looks:
            return


if __name__ == "__main__":
    main()
