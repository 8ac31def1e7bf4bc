#!/usr/bin/env python3
"""Runs a command in a terminal of ROWS x COLUMNS, 0 x 0 too, types q after a while: faces-terminal.py ROWS COLUMNS COMMAND...

Its exit code is the command's. Where the command panics, does not end, or leaves the terminal raw, it is 1.
"""
import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time


def main():
    rows, columns, *command = sys.argv[1:]
    keeper, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", int(rows), int(columns), 0, 0))
    before = termios.tcgetattr(terminal)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for one in (0, 1, 2):
            os.dup2(terminal, one)
        os.execvp(command[0], command)
    said, typed, end = b"", False, time.monotonic() + 60
    begun = time.monotonic()
    while True:
        if select.select([keeper], [], [], 0.1)[0]:
            said += os.read(keeper, 65536)
        # Time enough for some pictures: it has to live as long.
        if not typed and time.monotonic() > begun + 3:
            os.write(keeper, b"q")
            typed = True
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(pid, 9)
            sys.exit(f"it does not end on q: {said[-500:]!r}")
    code = os.waitstatus_to_exitcode(status)
    if b"panicked" in said:
        sys.exit(f"{said[-2000:]!r}")
    if not typed:
        sys.exit(f"it ended by itself with {code}: {said[-2000:]!r}")
    if termios.tcgetattr(terminal) != before:
        sys.exit("the terminal is left raw")
    sys.exit(code)


main()
