"""How many exercises a minute the offline teacher writes, and how many distinct ones there are.

    python benchmarks/synthesis.py [--n 20000] [--count 100000]

The command is run as a user runs it: every exercise is executed in the sandbox, and the file is
written. There is no peer that does the same, so the peer column holds the goal. The count draws
that many candidates without the sandbox and says how many of their prompts are new.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path

from benchmarks.common import row, write
from phi1_nb.diversity import shared_run_share
from phi1_nb.families import load_families
from phi1_nb.synthesis import candidate, candidates

GOAL = 20_000


def written(n: int, folder: Path) -> tuple[float, Path, str]:
    "Exercises a minute, the file, and what the command said."
    path = folder / f"{n}.jsonl"
    arguments = ["--kind", "exercises", "--n", str(n), "--seed", "0", "--out", str(path)]
    start = time.perf_counter()
    script = folder / "synthesize.py"
    script.write_text("from phi1_nb.synthesis import main\n\nmain()\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return 60 * n / (time.perf_counter() - start), path, done.stdout.strip()


def distinct(n: int) -> tuple[int, int]:
    "`(exercises, distinct prompts)` among the first `n` candidates of seed 0."
    load_families()
    exercises, prompts = 0, set()
    for found in islice(candidates(partial(candidate, course="whole"), 0), n):
        if not isinstance(found, str):
            exercises += 1
            prompts.add(hash(found.prompt))
    return exercises, len(prompts)


def main() -> None:
    "Measure, print, and keep the medians."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000, help="exercises of a run")
    parser.add_argument("--runs", type=int, default=1, help="of the command")
    parser.add_argument("--count", type=int, default=0, help="candidates to count prompts of")
    asked = parser.parse_args()
    rows = []
    if asked.runs:
        with tempfile.TemporaryDirectory() as name:
            runs = [written(asked.n, Path(name)) for _ in range(asked.runs)]
            prompts = [json.loads(line)["prompt"] for line in open(runs[0][1], encoding="utf-8")]
        rates = [rate for rate, _, _ in runs]
        print(runs[0][2], [round(rate) for rate in rates], sep="\n")
        print(f"share 8 words with another of {asked.n}: {shared_run_share(prompts):.1%}")
        print(f"of the first 2,000: {shared_run_share(prompts[:2000]):.1%}")
        rows.append(row(f"exercises a minute, {asked.n}", "goal", rates, [GOAL] * len(rates)))
    if asked.count:
        exercises, n_distinct = distinct(asked.count)
        print(f"{asked.count} candidates: {exercises} exercises, {n_distinct} distinct prompts")
        case = f"distinct prompts of {asked.count} candidates"
        rows.append(row(case, "exercises among them", [n_distinct], [exercises]))
    write("synthesis", rows)


if __name__ == "__main__":
    main()
