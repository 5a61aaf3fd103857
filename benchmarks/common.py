"""What every benchmark needs: interleaved rounds, medians, and one CSV each.

Peers that are no requirement of the package are named in `benchmarks/requirements.txt`.
"""

import csv
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
SPINS = "20000"  # turns that a waiting thread makes before it sleeps


def fastest_environment() -> dict[str, str]:
    "This process's environment, with what is fastest on an idle machine where nothing is set."
    from phi1_nb.launch import rank_environment

    return {"GOMP_SPINCOUNT": SPINS} | rank_environment()


def settle() -> None:
    """Begin the process anew in `fastest_environment`, for ours and for the peers.

    Beside a busy process, waiting threads should sleep at once: set GOMP_SPINCOUNT to 0."""
    wanted = fastest_environment()
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def require(*modules: str) -> None:
    "Stop, naming the peers that aren't installed and how to get them."
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"not installed: {', '.join(missing)}. All peers: pip install --target .peers "
            "--no-deps -r benchmarks/requirements.txt, and PYTHONPATH=.peers"
        )


def interleaved(
    tasks: dict[str, Callable[[], float]], rounds: int, say: bool = True
) -> dict[str, list[float]]:
    "Run all tasks in turn, `rounds` times: what each returned in each round."
    values = {name: [] for name in tasks}
    for number in range(rounds):
        for name in list(tasks) if number % 2 == 0 else reversed(list(tasks)):
            values[name].append(tasks[name]())
    if say:
        for name, found in values.items():
            low, high = min(found), max(found)
            print(f"{name:40s} {statistics.median(found):12.1f}  ({low:.1f} to {high:.1f})")
    return values


def seconds(function: Callable[[], object]) -> float:
    "How long one call takes."
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def row(
    case: str,
    peer: str,
    ours: list[float],
    theirs: list[float],
    lower_is_better: bool = False,
) -> dict:
    "A line of a result: medians, and their ratio, above 1 where ours is better."
    mine, peers = statistics.median(ours), statistics.median(theirs)
    return {
        "case": case,
        "ours": round(mine, 2),
        "peer": peer,
        "peer_value": round(peers, 2),
        "ratio": round(peers / mine if lower_is_better else mine / peers, 3),
        "runs": min(len(ours), len(theirs)),
    }


def write(name: str, rows: Iterable[dict], replace_cases: bool = True) -> Path:
    "Put rows into `results/NAME.csv`; rows of the same case and peer give way to them."
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    kept = {}
    if replace_cases and path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            kept = {(line["case"], line["peer"]): line for line in csv.DictReader(file)}
    kept |= {(str(line["case"]), line["peer"]): line for line in rows}
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["case", "ours", "peer", "peer_value", "ratio", "runs"])
        writer.writeheader()
        writer.writerows(kept.values())
    temporary.replace(path)
    return path
