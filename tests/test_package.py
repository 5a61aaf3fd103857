"""The wheel works outside the checkout, without a GPU and without a compiler."""

import os
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    "The wheel's content in a folder of its own."
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", folder, ROOT], check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def python(site: Path, code: str) -> str:
    "What `code` prints, run away from the checkout, with no compiler on PATH."
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "PATH": "/nonexistent",
        "CC": "/bin/false",
    }
    run = [sys.executable, "-c", code]
    done = subprocess.run(
        run, cwd=site.parent, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_every_module_imports_from_the_wheel(unpacked):
    names = sorted(p.stem for p in (unpacked / "phi1_nb").glob("[a-z]*.py"))
    modules = ", ".join(f"phi1_nb.{name}" for name in names)
    where = python(unpacked, f"import {modules}; print(phi1_nb.__file__)")
    assert Path(where).is_relative_to(unpacked)
    assert len(names) == len(list((ROOT / "phi1_nb").glob("[a-z]*.py")))


def test_every_data_file_is_in_the_wheel(unpacked):
    ours = {p.name for p in (ROOT / "phi1_nb" / "data").glob("*")}
    assert ours == {p.name for p in (unpacked / "phi1_nb" / "data").glob("*")}


def test_every_console_script_explains_itself(unpacked, tmp_path):
    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini")
    scripts = settings["DEFAULT"]["console_scripts"].split()
    assert len(scripts) >= 8
    for script in scripts:
        name, target = script.split("=")
        module, function = target.split(":")
        path = tmp_path / name
        path.write_text(f"from {module} import {function}\n\n{function}()\n")
        ask = f"import runpy, sys; sys.argv = [{name!r}, '--help']; runpy.run_path({str(path)!r}"
        assert "usage:" in python(unpacked, f"{ask}, run_name='__main__')"), name


def test_a_stage_builds_outside_a_checkout(unpacked):
    "The folder for artifacts is then the current one."
    code = "from phi1_nb.core import home; print(home())"
    assert python(unpacked, code) == str(unpacked.parent)
