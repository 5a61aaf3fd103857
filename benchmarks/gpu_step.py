"""Training steps of phi-1-small and phi-1 on one GPU: tokens a second, share of the peak, memory.

    python -m benchmarks.gpu_step [--gpu h100-80gb] [--scales phi-1-small phi-1] [--rows 8]

A step is forward, loss, backward, clipping at 1 and fused AdamW under bf16 autocast, with the
scale's own dropout, on random tokens; medians of 10 steps after 3. The peer of a row is the rate at
which the same arithmetic would run at the GPU's data-sheet peak, or the step without compilation.
"""

import argparse
import statistics

import pandas as pd
import torch

from benchmarks.common import RESULTS, row, seconds, write
from phi1_nb.config import get_scale
from phi1_nb.flops import GPUS, flops, get_gpu
from phi1_nb.model import Phi, compile_blocks


def rates(scale: str, rows: int, attention: str | None, compiled: bool) -> tuple[list, float]:
    "Tokens a second of each step, and the most memory in GB."
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    config = get_scale(scale).model
    model = Phi(config, attention=attention).cuda().train()
    if compiled:
        compile_blocks(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    data = torch.randint(config.vocab_size, (rows, config.context_length + 1), device="cuda")
    ids, labels = data[:, :-1], data[:, 1:]

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(ids, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()

    for _ in range(3):
        step()
    found = [ids.numel() / seconds(step) for _ in range(10)]
    return found, torch.cuda.max_memory_allocated() / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", choices=GPUS, default="h100-80gb")
    parser.add_argument("--scales", nargs="+", default=["phi-1-small", "phi-1"])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--attention", choices=["sdpa", "flash_attn"])
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu_step needs a CUDA device: benchmarks.train_step runs on a CPU")
    made, held = [], []
    for scale in asked.scales:
        peak = get_gpu(asked.gpu).tflops * 1e12 / sum(flops(get_scale(scale).model).values())
        plain = None
        for compiled in (False, True):
            found, memory = rates(scale, asked.rows, asked.attention, compiled)
            case = f"{scale} bf16, {asked.rows} rows, {asked.attention or 'default'} attention"
            case += f"{', compiled' if compiled else ''}, tokens/s"
            print(f"{case}: {statistics.median(found):.0f}, {memory:.2f} GB", flush=True)
            held.append((scale, "bf16", asked.rows, asked.attention or "default", compiled, memory))
            made.append(row(case, f"peak of {asked.gpu}", found, [peak] * len(found)))
            if compiled:
                made.append(row(case, "not compiled", found, plain))
            plain = found
            write("gpu_step", made)
    columns = ["scale", "dtype", "rows", "attention", "compiled", "measured_gb"]
    path = RESULTS / "gpu_memory.csv"
    known = [pd.read_csv(path)] if path.exists() else []
    table = pd.concat([*known, pd.DataFrame(held, columns=columns).round(2)])
    table.drop_duplicates(columns[:-1], keep="last").to_csv(path, index=False)


if __name__ == "__main__":
    main()
