"""What threads should do while they wait, on an idle machine and on a busy one; and huge pages.

    python -m benchmarks.waiting [--shape micro] [--rounds 5]

Each value is from a process of its own that makes 12 steps (bf16, compiled blocks); the rounds take
turns. The peer is threads that sleep at once, which is what `launch` asks for. "beside a busy
process" means that one other process keeps one core busy all the time. The last row is the C
library's allocator with huge pages, which `launch` asks for, and without, in fp32.
"""

import argparse
import statistics
import subprocess
import sys
from functools import partial

from benchmarks.common import SPINS, fastest_environment, interleaved, row, write

_CHILD = "import sys; from benchmarks.waiting import steps; print(steps(*sys.argv[1:]))"


def steps(shape: str, dtype: str) -> float:
    "Tokens a second, the median of 12 steps."
    from benchmarks.peers import SHAPES
    from benchmarks.train_step import stepper

    config, batch = SHAPES[shape]
    step = stepper("ours", config, batch, dtype, True)
    return statistics.median([step() for _ in range(15)][3:])


def measured(shape: str, busy: bool = False, dtype: str = "bf16", **changes: str) -> float:
    "What a fresh process measures, with `changes` of its environment."
    environment = fastest_environment() | changes
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        command = [sys.executable, "-c", _CHILD, shape, dtype]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return float(found.stdout.split()[-1])
    finally:
        if other:
            other.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="micro")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    cases = [(spins, busy) for busy in (False, True) for spins in (SPINS, "0")]
    tasks = {
        case: lambda c=case: measured(asked.shape, c[1], GOMP_SPINCOUNT=c[0]) for case in cases
    }
    pages = {size: f"glibc.malloc.hugetlb={on}" for size, on in (("huge", 1), ("4 KB", 0))}
    for size, tunables in pages.items():
        tasks[size] = partial(measured, asked.shape, dtype="fp32", GLIBC_TUNABLES=tunables)
    found = interleaved(tasks, asked.rounds, say=False)
    rows = [
        row(
            f"{asked.shape}, tokens/s, {SPINS} spins{', beside a busy process' * busy}",
            "sleep at once",
            found[SPINS, busy],
            found["0", busy],
        )
        for busy in (False, True)
    ]
    case = f"{asked.shape} fp32, tokens/s, huge pages"
    rows.append(row(case, "4 KB pages", found["huge"], found["4 KB"]))
    write("waiting", rows)
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
