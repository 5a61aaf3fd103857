"""What DeepSpeed's engine and the logs cost, against a plain loop, to a CSV file.

python -m benchmarks.training_engine [--repeats 7]

The shape is `micro`'s, one rank, ZeRO stage 1, sixteen rows an update. The three kinds of step take
turns in one process, so that what else the machine does hits all of them; ratios are of medians.
"""

import tempfile
import time
from argparse import ArgumentParser
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from phi1_nb.config import get_scale
from phi1_nb.engine import build_engine, initial_model, parameter_groups, start_distributed
from phi1_nb.logs import Logs
from phi1_nb.rows import PackedRows
from phi1_nb.runs import Run
from phi1_nb.training import batch_rows, inputs_and_labels, noise_seed, update


def plain_step(model, optimizer, rows, run: Run, step: int) -> None:
    "The reference: forward, backward, clip, AdamW, under autocast as the run says."
    batch = batch_rows(step, run.train.batch_size, len(rows), run.seed)
    torch.manual_seed(noise_seed(run.seed, step, 0, 0))
    with torch.autocast("cpu", torch.bfloat16, enabled=run.train.dtype == "bf16"):
        loss = model(*inputs_and_labels(rows, batch))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), run.train.grad_clip)
    optimizer.step()
    float(loss.detach())


def measure(dtype: str, repeats: int, folder: Path) -> list[dict]:
    micro = get_scale("micro")
    train = replace(micro.pretrain, dtype=dtype, batch_size=16, micro_batch_size=16)
    tokens = np.random.default_rng(0).integers(0, micro.model.vocab_size, 100_000)
    tokens.astype(np.uint16).tofile(folder / "rows.bin")
    run = Run(micro.model, train, *[folder / "rows.bin"] * 3)
    rows = PackedRows(run.data, run.model.context_length)
    model, engine, logged = initial_model(run).train(), build_engine(run), build_engine(run)
    optimizer = torch.optim.AdamW(parameter_groups(model, train.weight_decay), lr=train.peak_lr)
    seconds = {"plain loop": [], "engine": [], "engine and logs": []}
    with closing(Logs(folder, run, 0)) as logs:
        for step in range(1, repeats + 2):
            for kind in np.random.default_rng(step).permutation(list(seconds)):
                start = time.perf_counter()
                if kind == "plain loop":
                    plain_step(model, optimizer, rows, run, step)
                elif kind == "engine":
                    update(engine, rows, run, step)
                else:
                    logs.step(logged, update(logged, rows, run, step), step)
                if step > 1:
                    seconds[str(kind)].append(time.perf_counter() - start)
    reference = np.median(seconds["plain loop"])
    return [
        {
            "dtype": dtype,
            "step": kind,
            "n": len(times),
            "ratio_of_medians": round(np.median(times) / reference, 3),
            "ratio_of_minima": round(min(times) / min(seconds["plain loop"]), 3),
        }
        for kind, times in seconds.items()
    ]


def main():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    start_distributed()
    with tempfile.TemporaryDirectory() as name:
        rows = [row for dtype in ("fp32", "bf16") for row in measure(dtype, repeats, Path(name))]
    frame = pd.DataFrame(rows)
    frame.to_csv(Path(__file__).parent / "results" / "training_engine.csv", index=False)
    print(frame.to_string(index=False))


if __name__ == "__main__":
    main()
