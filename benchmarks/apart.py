"""How far apart can docstrings be kept that share eight words in a row?

    python benchmarks/apart.py [--candidates 60000] [--n 20000]

Candidates of seed 0 are drawn once, in one process. Then exercises are taken from them as
`exercises_of` does it, for several distances, until there are `n` or the candidates are used up.
A row says what was taken and how much of it still shares eight words with any other docstring,
with the sections on parameters and without them.
"""

import argparse
import re
import time
from collections import Counter

import numpy as np
import pandas as pd

from benchmarks.common import RESULTS
from phi1_nb.core import write_atomic
from phi1_nb.diversity import Recent, docstring_words, word_runs
from phi1_nb.families import load_families
from phi1_nb.synthesis import candidate
from phi1_nb.teacher import Exercise

DISTANCES = (0, 600, 1000, 2000, 5000, 20_000)
_SECTION = re.compile(
    r"^ *(?:(?:Args|Arguments|Parameters|Returns|Result|Inputs?|Output):\s*$|:param|- \w+:|-{3,}$)",
    re.M,
)


def kind(exercise: Exercise) -> str:
    "Where the exercise is from: a family, a routine, or a pipeline of blocks."
    return next((k for k in ("family", "routine") if f"{k}(" in exercise.composition), "pipeline")


def prose(prompt: str) -> str:
    "The prompt without what follows the first heading of a section on parameters or results."
    found = _SECTION.search(prompt)
    return prompt[: found.start()] + '"""' if found and '"""' in prompt[: found.start()] else prompt


def sharing(runs: list[set[int]]) -> tuple[float, float]:
    "The share of docstrings with a run that another one has, and the share of such runs."
    counts = Counter(run for found in runs for run in found)
    docstrings = sum(any(counts[run] > 1 for run in found) for found in runs) / len(runs)
    return docstrings, sum(n for n in counts.values() if n > 1) / max(1, counts.total())


def taken(made: list[Exercise], apart: int, n: int) -> dict:
    "A row for one distance; 0 takes everything."
    recent, kept, used = Recent(apart), [], 0
    for used, exercise in enumerate(made, 1):  # noqa: B007
        ways = (exercise.prompt, *exercise.variants)
        prompt = recent.freshest(ways) if apart else exercise.prompt
        if prompt is not None:
            kept.append((kind(exercise), prompt))
        if len(kept) == n:
            break
    prompts = [prompt for _, prompt in kept]
    kinds = Counter(k for k, _ in kept)
    runs = [word_runs(prompt) for prompt in prompts]
    docstrings, shared = sharing(runs)
    row = {"apart": apart, "candidates": used, "exercises": len(kept)}
    row |= {f"{k}_share": kinds[k] / len(kept) for k in ("family", "routine", "pipeline")}
    row |= {"docstrings_sharing": docstrings, "runs_sharing": shared}
    row["docstrings_sharing_without_sections"] = sharing([word_runs(prose(p)) for p in prompts])[0]
    row["docstrings_of_first_1000_sharing"] = sharing(runs[:1000])[0]
    row["words_median"] = float(np.median([len(docstring_words(prompt)) for prompt in prompts]))
    return row


def main() -> None:
    "Measure, print, and keep the table."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=60_000, help="drawn of seed 0")
    parser.add_argument("--n", type=int, default=20_000, help="exercises to take")
    asked = parser.parse_args()
    load_families()
    start = time.process_time()
    drawn = (candidate(0, number) for number in range(asked.candidates))
    made = [found for found in drawn if isinstance(found, Exercise)]
    seconds = time.process_time() - start
    print(f"{len(made)} exercises, {1e6 * seconds / asked.candidates:.0f} CPU us a candidate")
    table = pd.DataFrame([taken(made, apart, asked.n) for apart in DISTANCES]).round(4)
    print(table.T.to_string())
    write_atomic(RESULTS / "apart.csv", table.to_csv(index=False))


if __name__ == "__main__":
    main()
