#!/usr/bin/env python3
"""Run as root by the systemd that .ci/service boots: starts the unit and the guests, and looks at them as a client."""
import json
import os
import pathlib
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request

URL = "http://127.0.0.1:8383/"
OUT = pathlib.Path("/out")
TOKEN = pathlib.Path("/etc/vgpu/token").read_text().strip()
UNIT = "vgpu-serve"
# Where nothing is emulated by software in software, all of it takes two minutes.
PATIENCE = 180


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def ask(path, token=TOKEN):
    """Status and body of an answer; 0 where nobody listens."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(URL + path, headers=headers), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def until(what, done):
    end = time.monotonic() + PATIENCE
    while True:
        found = done()
        if found:
            return found
        if time.monotonic() > end:
            print(run("journalctl", "--no-pager", "-u", UNIT))
            print(subprocess.run(["vgpu", "doctor", "ours"], capture_output=True, text=True, check=False))
            raise AssertionError(f"{what}: {ask('guests')}")
        time.sleep(0.2)


def guests():
    status, body = ask("guests")
    return {one["name"]: one for one in json.loads(body)["guests"]} if status == 200 else {}


def picture(name):
    """Saves a still of the guest that the unit's user runs."""

    def take():
        status, body = ask("guests/ours/frame.png")
        return body if status == 200 else None

    (OUT / name).write_bytes(until("no picture of the guest", take))


def main_pid():
    return int(run("systemctl", "show", "--value", "-p", "MainPID", UNIT))


def hardening(pid):
    """What the kernel says of the server's process."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    fields = dict(re.findall(r"^(\w+):\s*(.*)$", status, re.M))
    user = int(run("id", "-u", "libvirt-qemu"))
    assert fields["Uid"].split() == [str(user)] * 4, fields["Uid"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(fields[name], 16) == 0, (name, fields[name])
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2", fields
    mounts = pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    options = {line.split()[4]: line.split()[5].split(",") for line in mounts}
    assert "ro" in options["/"], options["/"]
    devices = os.listdir(f"/proc/{pid}/root/dev")
    assert "kvm" not in devices and "null" in devices, devices
    return f"hardening: no capability, system calls filtered ({fields.get('Seccomp_filters', '?')}), / read-only"


def main():
    # A port that is taken: it is tried again for as long as that takes, and not given up.
    with socket.create_server(("127.0.0.1", 8383)):
        run("systemctl", "start", "vgpu-test-others", "vgpu-test-ours", UNIT)
        until("it gives up", lambda: int(run("systemctl", "show", "--value", "-p", "NRestarts", UNIT)) >= 6)
    until("the server does not listen", lambda: ask("guests")[0] == 200)
    for token in (None, "x" * 32):
        assert ask("guests", token)[0] == 401, token
    until("the guests are not listed", lambda: {"ours", "others"} <= guests().keys())
    ask("guests/others/frame.png")
    picture("first.png")
    assert guests()["ours"]["state"] == "live", guests()
    run("vgpu", "sample", "ours", "-o", str(OUT / "still.ppm"))
    # What another user runs is named, and not read.
    other = guests()["others"]
    assert other["state"] == "not attached" and "user" in other["detail"], other
    assert ask("guests/others/frame.png")[0] == 503
    print(f"another user's guest: {other['detail']}")
    first = main_pid()
    print(hardening(first))
    # A server that dies is started again, with the same token.
    run("systemctl", "kill", "--signal=KILL", UNIT)
    until("it is not started again", lambda: main_pid() not in (0, first) and ask("guests")[0] == 200)
    picture("again.png")
    # A guest that ends is not shown any more, and the next one of its name is.
    run("systemctl", "stop", "vgpu-test-ours")
    until("a guest that ended is still shown", lambda: guests().get("ours", {"state": "gone"})["state"] != "live")
    assert ask("guests/ours/frame.png")[0] in (404, 503)
    run("systemctl", "start", "vgpu-test-ours")
    picture("later.png")
    # One that is told to stop stops, and says that it did well.
    run("systemctl", "stop", UNIT)
    assert run("systemctl", "show", "--value", "-p", "Result", UNIT).strip() == "success"
    assert ask("guests")[0] == 0
    journal = run("journalctl", "--no-pager", "-o", "cat", "-u", UNIT)
    print(journal)
    assert "cannot listen at 127.0.0.1:8383" in journal
    assert TOKEN not in journal, "the token is in the journal"
    print("all of it holds")


main()
