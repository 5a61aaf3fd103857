"""What DeepSpeed's engine, the logs and a second rank cost or give, against a plain loop.

    python -m benchmarks.training_loop [--scale micro] [--repeats 7] [--ranks]

One rank, ZeRO stage 1, bf16, sixteen rows an update. The kinds of step take turns in one process,
so that what else the machine does hits all of them; ratios are of medians. With --ranks, two ranks
of one thread take turns with one rank of two threads, each a training run of its own.
"""

import argparse
import os
import statistics
import tempfile
from contextlib import closing
from dataclasses import replace
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
from phi1_nb.training import batch_rows, inputs_and_labels, noise_seed, update


def made_up_run(scale: str, folder: Path) -> Run:
    "A run of `scale`'s shape on random tokens."
    settings = get_scale(scale)
    train = replace(settings.pretrain, batch_size=16, micro_batch_size=16)
    tokens = np.random.default_rng(0).integers(0, settings.model.vocab_size, 400_000)
    tokens.astype(np.uint16).tofile(folder / "rows.bin")
    texts = [f"def add_{i}(x):\n    return x + {i}\n" for i in range(300)]
    train_tokenizer(texts, vocab_size=300).save(folder)
    return Run(settings.model, train, folder / "rows.bin", folder / "rows.bin", folder)


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


def steps(scale: str, repeats: int, folder: Path) -> list[dict]:
    "The engine against the plain loop, and the loop with its logs against the bare engine."
    run = made_up_run(scale, folder)
    rows = PackedRows(run.data, run.model.context_length)
    model, engine = initial_model(run).train(), build_engine(run)
    groups = parameter_groups(model, run.train.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=run.train.peak_lr)
    tokens, done = run.train.batch_size * run.model.context_length, iter(range(1, 10**6))
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


def trained(run: Run, folder: Path, n_ranks: int, threads: int) -> float:
    "Median tokens a second of a training run, start and checkpoints apart."
    os.environ["OMP_NUM_THREADS"] = str(threads)
    folder = launch(write_run(folder, run), n_ranks)
    return statistics.median(pd.read_csv(folder / "metrics.csv").tokens_per_s[3:])


def ranks(scale: str, repeats: int, folder: Path) -> list[dict]:
    "Two ranks of one thread against one rank of two."
    run = made_up_run(scale, folder)
    train = replace(run.train, stop_step=16, micro_batch_size=8, checkpoint_every=100)
    run, number = replace(run, train=train), iter(range(10**6))
    tasks = {
        f"{n} x {threads}": lambda n=n, threads=threads: trained(
            run, folder / f"run-{next(number)}", n, threads
        )
        for n, threads in ((2, 1), (1, 2))
    }
    found = interleaved(tasks, repeats)
    case = f"{scale}: 2 ranks x 1 thread, tokens/s"
    return [row(case, "1 rank x 2 threads", found["2 x 1"], found["1 x 2"])]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=["nano", "micro"], default="micro")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--ranks", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if asked.ranks:
            made = ranks(asked.scale, asked.repeats, Path(name))
        else:
            start_distributed()
            made = steps(asked.scale, asked.repeats, Path(name))
    print(write("training_loop", made).read_text())


if __name__ == "__main__":
    main()
