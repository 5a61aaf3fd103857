"""A disk that fills up while a run trains: its first checkpoint fits, its second one doesn't.

    unshare -rm python tests/full_disk_later.py DATA DISK

DATA holds rows.bin, rows.val.bin and a tokenizer; DISK becomes the disk, seen by this process
alone. Prints JSON: the error, what is left, and how it ends once there is space again."""

import json
import shutil
import sys
from pathlib import Path

from full_disk import mount
from test_training import MODEL, SHORT, steps_logged

from phi1_nb.checkpoints import checkpoint_steps
from phi1_nb.core import file_sha256
from phi1_nb.runs import Run, write_run
from phi1_nb.training import train


def main(data: Path, disk: Path) -> dict:
    mount(disk, 1 << 18)
    rows, val = data / "rows.bin", data / "rows.val.bin"
    run = Run(MODEL, SHORT, rows, val, tokenizer=data, seed=7)
    folder = write_run(disk / "run", run)

    def fill() -> bool:
        if steps_logged(folder) == 7:
            used = shutil.disk_usage(disk).used >> 10
            mount(disk, used + 64, "remount")
        return False

    try:
        train(folder, should_stop=fill)
        return {"error": None}
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    left = sorted(path.name for path in (folder / "checkpoints").glob("*step*"))
    left += sorted(path.name for path in (folder / "checkpoints").glob(".*"))
    seen = {"error": told, "left": left, "steps": checkpoint_steps(folder)}
    seen["rows"] = steps_logged(folder)
    mount(disk, 1 << 18, "remount")
    train(folder)
    return seen | {"weights": file_sha256(folder / "model.safetensors")}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]))))
