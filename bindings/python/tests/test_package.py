"""What is installed: types that are true, and programs of the documentation that run."""

import pathlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT, Demo

import vgpu_perception as vp

HERE = pathlib.Path(__file__).resolve().parent


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, cwd=HERE.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_stubs_are_what_the_module_has(tmp_path: pathlib.Path) -> None:
    # Inside of the package is the library itself; all of it is shown by the package.
    allowed = tmp_path / "allowed"
    allowed.write_text("vgpu_perception.vgpu_perception\n")
    run("-m", "mypy.stubtest", "--allowlist", str(allowed), "vgpu_perception")


def test_programs_are_checked_against_the_stubs() -> None:
    run("-m", "mypy", "--strict", "examples", "tests")
    # A wrong program is refused: the types are really found.
    text = "import vgpu_perception as vp\nvp.attach('x').find().frame().array\n"
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and 'has no attribute "array"' in done.stdout, done.stdout


def test_the_version_is_the_projects() -> None:
    text = (ROOT / "Cargo.toml").read_text()
    version = re.search(r'^version = "(.*)"', text, re.MULTILINE)
    assert version is not None and vp.__version__ == version[1]


@pytest.mark.parametrize("program", ["agent.py"])
def test_the_documentations_programs_run(program: str, demo: Demo, tmp_path: pathlib.Path) -> None:
    path, maps = demo.words["linux"]
    out = run(str(HERE.parent / "examples" / program), f"ram:{path}", "--looks", "3", *(f"--map={one}" for one in maps))
    assert len(re.findall(r"^frame \d+: \d+ % of the screen changed", out, re.MULTILINE)) == 3, out


def test_the_documentation_shows_the_program() -> None:
    program = (HERE.parent / "examples/agent.py").read_text()
    loop = program[program.index("def changed") : program.index("def main")].rstrip()
    assert loop in (ROOT / "docs/python.md").read_text()
