"""Documents a second of each step of the corpus pipeline; its growth; two workers against one.

python -m benchmarks.filter [--documents 1200] [--rounds 5]

Writes `results/filter_steps.csv` (documents a second by step and corpus size) and, in the common
form, `results/filter.csv`: two workers against one.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks.common import RESULTS, interleaved, row, write
from phi1_nb.contamination import Gate, benchmark_problems
from phi1_nb.corpus import (
    Duplicates,
    ShardWriter,
    broken_rule,
    count_tokens,
    files_up_to,
    installed_files,
    read_file,
    signature,
)
from phi1_nb.embedders import features
from phi1_nb.sources import Files
from phi1_nb.steps import clean, mask_secrets


def steps(files: list, folder: Path) -> dict[str, Callable[[], object]]:
    "What is timed, by name; each goes through all documents once."
    documents = [read_file(file) for file in files]
    texts = [d.text for d in documents]
    signatures = [signature(text) for text in texts]
    gate = Gate(benchmark_problems())

    def compare() -> None:
        known = Duplicates()
        for key, minima in signatures:
            known.seen(key, minima)

    def save() -> None:
        with ShardWriter(folder / "written") as writer:
            for document in documents:
                writer.write(document)

    return {
        "read": lambda: [read_file(file) for file in files],
        "rules": lambda: [broken_rule(d) for d in documents],
        "sign": lambda: [signature(text) for text in texts],
        "compare": compare,
        "mask": lambda: [mask_secrets(text) for text in texts],
        "benchmarks": lambda: [gate.check(text) for text in texts],
        "count tokens": lambda: [count_tokens(text) for text in texts],
        "write": save,
        "n-grams": lambda: features(texts),
    }


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def growth(files: list, folder: Path, rounds: int) -> pd.DataFrame:
    "Documents a second of each step for a tenth of the files and for all of them."
    rows = []
    for n in (len(files) // 10, len(files)):
        tasks = steps(files[:n], folder)
        taken = interleaved(
            {name: lambda f=f: seconds(f) for name, f in tasks.items()}, rounds, say=False
        )
        for name, values in taken.items():
            middle = statistics.median(values)
            rows.append((name, n, round(middle, 4), round(n / middle, 1), rounds))
    columns = ["step", "documents", "seconds", "documents_per_s", "runs"]
    return pd.DataFrame(rows, columns=columns)


def workers(files: list, folder: Path, n: int) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    return seconds(lambda: clean(Files(files, task_mb=1.0), folder, workers=n))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    files = [f for f in files_up_to(installed_files()) if f.file.stat().st_size < 1 << 18]
    files = files[: arguments.documents]
    table = growth(files, folder, arguments.rounds)
    table.to_csv(RESULTS / "filter_steps.csv", index=False)
    print(table.to_string())
    rounds = interleaved(
        {
            "1 worker": lambda: workers(files, folder / "clean", 1),
            "2 workers": lambda: workers(files, folder / "clean", 2),
        },
        arguments.rounds,
    )
    lower = {"lower_is_better": True}
    write(
        "filter",
        [
            row("seconds, 2 workers", "1 worker", rounds["2 workers"], rounds["1 worker"], **lower),
        ],
    )
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
