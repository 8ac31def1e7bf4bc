#!/usr/bin/env python3
"""Whether two PPM files show the same desktop: faces.py A B. What moves in the demo is a block and a number."""
import pathlib
import sys


def ppm(path):
    """Width, height and bytes of a binary PPM."""
    data = pathlib.Path(path).read_bytes()
    fields, at = [], 0
    while len(fields) < 4:
        end = at
        while not data[end : end + 1].isspace():
            end += 1
        fields.append(data[at:end])
        at = end + 1
    assert fields[0] == b"P6", f"{path}: {fields[0]}"
    return int(fields[1]), int(fields[2]), data[at:]


def main():
    (w, h, one), (w2, h2, other) = ppm(sys.argv[1]), ppm(sys.argv[2])
    assert (w, h) == (w2, h2), f"{w} x {h} and {w2} x {h2}"
    # Every 7th byte: all three colours, all over the picture.
    pairs = list(zip(one[::7], other[::7]))
    differ = sum(abs(a - b) > 40 for a, b in pairs)
    colours = len({one[at : at + 3] for at in range(0, len(one) - 3, 3 * 997)})
    assert colours > 8, f"{sys.argv[1]}: {colours} colours are no desktop"
    assert differ * 100 < 6 * len(pairs), f"{differ} of {len(pairs)} values differ"


main()
