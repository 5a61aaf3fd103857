"""Run one stage on a disk that is too small for it, then on a larger one.

    unshare -rm python tests/full_disk.py HOME MODULE FOLDER

HOME holds a finished tiny study; FOLDER becomes the disk, seen by this process alone. Prints JSON:
the error, what it left behind, and whether the stage then succeeds with more space."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tiny_study import tiny

STAGES = (
    "01a_quality_filter 01b_synthesis 02_packing 04_pretrain 05_finetune 06_humaneval 09_results"
).split()


def mount(folder: Path, kib: int, *options: str) -> None:
    how = ",".join([f"size={kib}k", *options])
    subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", folder], check=True)


def main(home: Path, module: str, folder: Path) -> dict:
    number = next(i for i, stage in enumerate(STAGES) if stage.endswith(module))
    mount(folder, 1 << 20)
    for stage in STAGES[:number]:
        shutil.copytree(home / "runs/tiny" / stage, folder / "runs/tiny" / stage)
    used = shutil.disk_usage(folder).used >> 10
    needed = sum(p.stat().st_size for p in (home / "runs/tiny" / STAGES[number]).rglob("*")) >> 10
    mount(folder, used + max(8, needed // 3), "remount")
    os.environ["PHI1_HOME"] = str(folder)
    stage = getattr(importlib.import_module(f"phi1_nb.{module}"), module)
    try:
        stage(tiny.name)
        return {"error": None}
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    left = sorted(p.name for p in (folder / "runs/tiny").iterdir() if p.is_dir())
    mount(folder, 1 << 20, "remount")
    manifest = stage(tiny.name) / "manifest.json"
    return {"error": told, "left": left, "then": manifest.is_file()}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))))
