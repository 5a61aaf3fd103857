"""How many exercises a minute the offline teacher writes, and how many distinct ones there are.

    python benchmarks/synthesis.py [--n 20000] [--count 100000]

The command is run as a user runs it: every exercise is executed in the sandbox, and the file is
written. There is no peer that does the same, so the peer column holds the goal. The count draws
that many candidates without the sandbox and says how many of their prompts, and of their programs
without names, are new.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from benchmarks.common import row, write
from phi1_nb.diversity import fingerprint, shared_run_share
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


def marked(seed: int, number: int) -> tuple[int, int, str] | None:
    "Of the candidate: its prompt, its program without names, and its composition."
    found = candidate(seed, number, "whole")
    if isinstance(found, str):
        return None
    program = hashlib.sha256(fingerprint(found.text).encode()).digest()[:8]
    prompt = hashlib.sha256(found.prompt.encode()).digest()[:8]
    return int.from_bytes(prompt), int.from_bytes(program), found.composition


def distinct(n: int) -> dict[str, int]:
    "How many exercises, prompts, programs and compositions the first `n` candidates of seed 0 are."
    load_families()
    exercises, seen = 0, (set(), set(), set())
    for found in tqdm(islice(candidates(marked, 0), n), total=n, unit="candidate"):
        if found:
            exercises += 1
            for kind, mark in zip(seen, found, strict=True):
                kind.add(mark)
    names = "prompts", "programs", "compositions"
    return {"exercises": exercises} | dict(zip(names, map(len, seen), strict=True))


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
        found = distinct(asked.count)
        print(f"{asked.count} candidates:", found)
        for kind in ("prompts", "programs", "compositions"):
            case, whole = f"distinct {kind} of {asked.count} candidates", [found["exercises"]]
            rows.append(row(case, "exercises among them", [found[kind]], whole))
    write("synthesis", rows)


if __name__ == "__main__":
    main()
