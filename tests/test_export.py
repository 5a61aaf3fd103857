"""The modules are what the notebooks export, and papermill's traps stay closed."""

import filecmp
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "A copy of the checkout in which nbdev has exported and cleaned."
    copy = tmp_path_factory.mktemp("export")
    for name in ("nbs", "phi1_nb"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True)
    for name in ("settings.ini", "_quarto.yml"):
        shutil.copy(ROOT / name, copy / name)
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([Path(sys.executable).parent / command], cwd=copy, check=True, timeout=120)
    return copy


def test_modules_are_what_the_notebooks_export(exported):
    ours = {p.name for p in (ROOT / "phi1_nb").glob("*.py")}
    assert ours == {p.name for p in (exported / "phi1_nb").glob("*.py")}
    same, different, missing = filecmp.cmpfiles(
        ROOT / "phi1_nb", exported / "phi1_nb", ours, shallow=False
    )
    assert not different and not missing, f"run `make prepare`: {different or missing}"


def test_notebooks_are_clean(exported):
    for path in NOTEBOOKS:
        clean = json.loads((exported / "nbs" / path.name).read_text())
        assert json.loads(path.read_text()) == clean, f"run `make prepare`: {path.name}"


def test_cleaning_keeps_the_parameters_tag(exported):
    for path in (exported / "nbs").glob("0[24569]_*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert sum("parameters" in c["metadata"].get("tags", []) for c in cells) == 1, path.name
