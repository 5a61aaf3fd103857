"""Peak memory of small training runs against the formula of `phi1_nb.plan`, to a CSV file.

python -m benchmarks.training_memory [--out benchmarks/results/training_memory.csv] [--only 3]

A case runs in a process of its own. PyTorch's profiler sees each allocation of the CPU allocator;
the peak of what is alive is what `torch.cuda.max_memory_allocated` is on a GPU.
"""

import json
import os
import sys
import tempfile
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from phi1_nb.config import get_scale

SHAPES = {
    "narrow": dict(d_model=256, d_mlp=1024, n_layers=8),
    "wide": dict(d_model=512, d_mlp=2048, n_heads=8, n_layers=4),
}
CASES = [
    ("narrow", "fp32", 0, 4, 1, False),
    ("narrow", "fp32", 1, 4, 2, False),
    ("narrow", "bf16", 1, 4, 2, False),
    ("narrow", "bf16", 2, 8, 1, False),
    ("narrow", "bf16", 1, 8, 1, True),
    ("wide", "fp32", 1, 1, 1, False),
    ("wide", "fp32", 2, 4, 2, False),
    ("wide", "bf16", 1, 8, 1, False),
    ("wide", "bf16", 1, 2, 4, False),
]
NAMES = ("shape", "dtype", "zero_stage", "micro_batch", "accumulation", "checkpointing")


def settings(shape, dtype, zero_stage, micro_batch, accumulation, checkpointing):
    micro = get_scale("micro")
    train = replace(
        micro.pretrain,
        dtype=dtype,
        zero_stage=zero_stage,
        micro_batch_size=micro_batch,
        batch_size=micro_batch * accumulation,
        activation_checkpointing=checkpointing,
    )
    return replace(micro.model, **SHAPES[shape]), train


def measure(case: tuple) -> float:
    "Bytes alive at the peak of two updates, the engine's own included."
    import torch
    from torch.profiler import ProfilerActivity, profile

    from phi1_nb.engine import build_engine, start_distributed
    from phi1_nb.rows import PackedRows
    from phi1_nb.runs import Run
    from phi1_nb.training import update

    start_distributed()
    model, train = settings(*case)
    with tempfile.TemporaryDirectory() as name:
        path, trace = Path(name) / "rows.bin", Path(name) / "trace.json"
        tokens = np.random.default_rng(0).integers(0, model.vocab_size, 20_000)
        tokens.astype(np.uint16).tofile(path)
        run, rows = Run(model, train, path, path, path), PackedRows(path, model.context_length)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            engine = build_engine(run)
            for step in (1, 2):
                update(engine, rows, run, step)
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    assert torch.isfinite(next(engine.module.parameters())).all()
    totals = [e["args"]["Total Allocated"] for e in events if e.get("name") == "[memory]"]
    return max(totals)


def in_a_child(case: tuple) -> float:
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writer, str(measure(case)).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return float(answer)


def main():
    from phi1_nb.plan import memory

    parser = ArgumentParser(description=__doc__)
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results / "training_memory.csv")
    parser.add_argument("--only", type=int, nargs="*", default=range(len(CASES)))
    arguments = parser.parse_args()
    rows = []
    for case in [CASES[i] for i in arguments.only]:
        predicted = sum(memory(*settings(*case), n_gpus=1, on_gpu=False).values()) * 1e3
        rows.append((*case, round(in_a_child(case) / 1e6, 1), round(predicted, 1)))
        print(*rows[-1], f"{rows[-1][-1] / rows[-1][-2]:.3f}", file=sys.stderr, flush=True)
    arguments.out.parent.mkdir(exist_ok=True, parents=True)
    frame = pd.DataFrame(rows, columns=[*NAMES, "measured_mb", "predicted_mb"])
    frame.to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
