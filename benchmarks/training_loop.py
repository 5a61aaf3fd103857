"""What DeepSpeed's engine, all that surrounds a step, and a second rank cost or give.

    python -m benchmarks.training_loop [--scale micro] [--what engine] [--repeats 7]

engine   DeepSpeed's step against a plain loop's, and with logs against without
loop     `train` with data, metrics, validation and checkpoints, against the bare step: the engine
         on a batch that is in memory already. A bare step follows each second step of the loop.
linear   tokens a second at ten times the tokens: in an update, and in a run
ranks    two ranks of one thread against one rank of two threads, each a training run of its own
beside   two runs side by side, a thread each, against one run with both threads

One rank, ZeRO stage 1, the scale's own shape and precision. The kinds of work take turns, so that
what else the machine does hits all of them; ratios are of medians. Data are random tokens.
"""

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.common import interleaved, row, seconds, write
from phi1_nb.config import get_scale
from phi1_nb.engine import build_engine, initial_model, parameter_groups, start_distributed
from phi1_nb.launch import launch
from phi1_nb.logs import Logs
from phi1_nb.rows import PackedRows
from phi1_nb.runs import Run, write_run
from phi1_nb.tokenizer import train_tokenizer
from phi1_nb.training import (
    batch_rows,
    inputs_and_labels,
    micro_batches,
    noise_seed,
    train,
    update,
)


def made_up_run(scale: str, folder: Path, **changes) -> Run:
    "A run of `scale`'s shape on random tokens, of 16 rows an update unless said."
    settings = get_scale(scale)
    schedule = replace(
        settings.pretrain, **({"batch_size": 16, "micro_batch_size": 16, "keep_last": 1} | changes)
    )
    tokens = np.random.default_rng(0).integers(0, settings.model.vocab_size, 400_000)
    tokens.astype(np.uint16).tofile(folder / "rows.bin")
    texts = [f"def add_{i}(x):\n    return x + {i}\n" for i in range(300)]
    train_tokenizer(texts, vocab_size=300).save(folder)
    return Run(settings.model, schedule, folder / "rows.bin", folder / "rows.bin", folder)


def n_tokens(run: Run) -> int:
    return run.train.batch_size * run.model.context_length


def plain_step(model, optimizer, rows, run: Run, step: int) -> None:
    "The reference: forward, backward, clip, AdamW, under autocast as the run says."
    batch = batch_rows(step, run.train.batch_size, len(rows), run.seed)
    torch.manual_seed(noise_seed(run.seed, step, 0, 0))
    with torch.autocast("cpu", torch.bfloat16, enabled=run.train.dtype == "bf16"):
        loss = model(*inputs_and_labels(rows, batch))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), run.train.grad_clip)
    optimizer.step()
    optimizer.zero_grad()
    float(loss.detach())


def engine_costs(scale: str, repeats: int, folder: Path) -> list[dict]:
    "The engine against the plain loop, and the loop with its logs against the bare engine."
    run = made_up_run(scale, folder)
    rows = PackedRows(run.data, run.model.context_length)
    model, engine = initial_model(run).train(), build_engine(run)
    groups = parameter_groups(model, run.train.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=run.train.peak_lr)
    tokens, done = n_tokens(run), iter(range(1, 10**6))
    with closing(Logs(folder, run, 0)) as logs:

        def logged():
            step = next(done)
            logs.step(engine, update(engine, rows, run, step), step)

        kinds = {
            "plain loop": lambda: plain_step(model, optimizer, rows, run, next(done)),
            "engine": lambda: update(engine, rows, run, next(done)),
            "engine and logs": logged,
        }
        for kind in kinds.values():
            kind()
        found = interleaved(
            {name: lambda kind=kind: tokens / seconds(kind) for name, kind in kinds.items()},
            repeats,
        )
    return [
        row(f"{scale}: engine, tokens/s", "plain loop", found["engine"], found["plain loop"]),
        row(f"{scale}: with logs, tokens/s", "engine", found["engine and logs"], found["engine"]),
    ]


def bare_step(engine, pieces: list[tuple]) -> None:
    "Forward, backward, update, on batches that are in memory."
    for ids, labels in pieces:
        loss = engine(ids, labels)
        engine.backward(loss)
        engine.step()
    float(loss.detach())


def loop_times(run: Run, folder: Path, between=lambda: None) -> list[float]:
    """Seconds of each step of `train` but the first, all included that surrounds it.

    `between` is called after each step, and its time isn't counted."""
    times, last = [], []

    def clock() -> bool:
        if last:
            times.append(time.perf_counter() - last[0])
        between()
        last[:] = [time.perf_counter()]
        return False

    train(write_run(folder, run), should_stop=clock)
    return times


def loop(scale: str, repeats: int, folder: Path) -> list[dict]:
    "`train` at the scale's own cadence of checkpoints, against the bare step."
    settings = get_scale(scale).pretrain
    whole = scale == "nano"
    every = settings.checkpoint_every if whole else 4
    shape = {"checkpoint_every": every, "stop_step": repeats * every + 1}
    if whole:
        shape |= {name: getattr(settings, name) for name in ("batch_size", "micro_batch_size")}
    run = made_up_run(scale, folder, **shape)
    rows, engine = PackedRows(run.data, run.model.context_length), build_engine(run)
    cut = micro_batches(np.arange(run.train.batch_size), run.train.micro_batch_size, 0, 1)
    pieces, bare = [inputs_and_labels(rows, numbers) for numbers in cut], []
    calls = iter(range(10**6))

    def between() -> None:
        if next(calls) % 2 == 0:
            bare.append(seconds(lambda: bare_step(engine, pieces)))

    times = loop_times(run, folder / "loop", between)
    n, bare = len(times), bare[1:]
    cuts = [slice(i, i + every) for i in range(0, n, every)]
    halves = [slice(i // 2, (i + every) // 2) for i in range(0, n, every)]
    if whole:
        tokens = every * n_tokens(run)
        ours = [tokens / sum(times[cut]) for cut in cuts]
        peer = [tokens / 2 / sum(bare[half]) for half in halves]
        return [row(f"{scale}: whole loop, tokens/s", "bare step", ours, peer)]
    with_checkpoint = [times[i] for i in range(n) if (i + 1) % every == 0]
    plain = [times[i] for i in range(n) if (i + 1) % every]
    extra = statistics.median(with_checkpoint) - statistics.median(plain)
    steps = settings.checkpoint_every * settings.batch_size // run.train.batch_size
    print(f"validation and checkpoint: {extra:.2f} s in {steps * statistics.median(plain):.0f} s")
    cost = steps * statistics.median(plain) + extra
    share = [n_tokens(run) / t for t in plain]
    projected = [steps * n_tokens(run) / cost]
    peer = [n_tokens(run) / t for t in bare]
    return [
        row(f"{scale}: loop between checkpoints, tokens/s", "bare step", share, peer),
        row(f"{scale}: whole loop (from its parts), tokens/s", "bare step", projected, peer)
        | {"runs": len(with_checkpoint)},
    ]


def linear(scale: str, repeats: int, folder: Path) -> list[dict]:
    "Ten times the rows in an update, and ten times the steps in a run."
    run = made_up_run(scale, folder, batch_size=4, micro_batch_size=4)
    large = replace(run, train=replace(run.train, batch_size=40))
    rows, done = PackedRows(run.data, run.model.context_length), iter(range(1, 10**6))
    engines = {each.train.batch_size: (build_engine(each), each) for each in (run, large)}
    kinds = {
        n: partial(lambda engine, each: update(engine, rows, each, next(done)), *pair)
        for n, pair in engines.items()
    }
    for kind in kinds.values():
        kind()
    found = interleaved(
        {
            f"{n} rows": lambda n=n, kind=kind: n * run.model.context_length / seconds(kind)
            for n, kind in kinds.items()
        },
        repeats,
    )
    short = replace(run.train, batch_size=8, micro_batch_size=8)
    short = replace(short, planned_steps=10**4, stop_step=401, checkpoint_every=40)
    first, whole = [], []
    for number in range(max(3, repeats // 3)):
        times = loop_times(replace(run, train=short), folder / f"linear-{number}")
        first.append(40 * 8 * run.model.context_length / sum(times[:40]))
        whole.append(400 * 8 * run.model.context_length / sum(times[:400]))
    return [
        row(f"{scale}: 40 rows an update, tokens/s", "4 rows", found["40 rows"], found["4 rows"]),
        row(f"{scale}: run of 400 steps, tokens/s", "its first 40", whole, first),
    ]


def trained(run: Run, folder: Path, n_ranks: int, threads: int, n_beside: int = 1) -> float:
    "Median tokens a second of training, start and checkpoints apart; of all runs side by side."
    os.environ["OMP_NUM_THREADS"] = str(threads)
    rows = run.train.batch_size // n_ranks
    run = replace(run, train=replace(run.train, micro_batch_size=rows))
    folders = [write_run(folder / f"{i}", run) for i in range(n_beside)]
    with ThreadPoolExecutor(n_beside) as pool:
        list(pool.map(partial(launch, n_ranks=n_ranks, n_beside=n_beside), folders))
    rates = [pd.read_csv(each / "metrics.csv").tokens_per_s[2:] for each in folders]
    return sum(map(statistics.median, rates))


def ranks(scale: str, repeats: int, folder: Path, beside: bool = False) -> list[dict]:
    "Two ranks of one thread, or two runs of one thread, against one rank of two threads."
    steps = 16 if scale == "nano" else 6
    run = made_up_run(scale, folder, stop_step=steps, checkpoint_every=100)
    number = iter(range(10**6))

    def task(*how: int) -> float:
        return trained(run, folder / f"run-{next(number)}", *how)

    ours = (1, 1, 2) if beside else (2, 1, 1)
    found = interleaved({"ours": lambda: task(*ours), "peer": lambda: task(1, 2, 1)}, repeats)
    name = "2 runs side by side x 1 thread" if beside else "2 ranks x 1 thread"
    return [row(f"{scale}: {name}, tokens/s", "1 rank x 2 threads", found["ours"], found["peer"])]


WHAT = {"engine": engine_costs, "loop": loop, "linear": linear, "ranks": ranks}
WHAT["beside"] = partial(ranks, beside=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=["nano", "micro"], default="micro")
    parser.add_argument("--what", choices=WHAT, default="engine")
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    if asked.what not in ("ranks", "beside"):
        start_distributed()
    with tempfile.TemporaryDirectory() as name:
        made = WHAT[asked.what](asked.scale, asked.repeats, Path(name))
    print(write("training_loop", made).read_text())


if __name__ == "__main__":
    main()
