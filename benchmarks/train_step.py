"""Training steps a second: ours against transformers, litgpt and a nanoGPT-shaped model.

    python -m benchmarks.train_step SHAPE [--dtype bf16] [--compile] [--rounds 7]

A step is forward, loss, backward, clipping at 1 and fused AdamW, on the same batch for all. All
run as they are and, with --compile, compiled too (ours by `compile_blocks`, a peer whole), or with
"--compile only" compiled alone, where memory is short; a row is written for each peer, against the
faster of ours. One shape and dtype a call, rows of others stay.
Each runs in a process of its own, as in training, in the environment of `common.settle`; they
wait for each other, asleep. With --keep FILE every round is kept as it ends, and the
rounds of earlier calls count too.
To compare with: "matmul" does the step's arithmetic at the rate of this machine's fastest large
matrix product, PyTorch's or oneDNN's; "products alone" does the step's own products, in their
shapes and as PyTorch does them, and nothing else; "products and update" does clipping and AdamW
too. Steps whose products are PyTorch's can't be faster than those.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.common import interleaved, require, row, seconds, settle, write
from benchmarks.peers import SHAPES, trainable
from phi1_nb.linear import product
from phi1_nb.model import compile_blocks, count_parameters

PEERS = ("transformers", "litgpt", "nanogpt")
BOUNDS = ("products alone", "products and update", "matmul")


def updater(module):
    "A function that clips the gradients and lets AdamW learn from them."
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)

    def update():
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()

    return update


def stepper(name: str, config, batch: int, dtype: str, compiled: bool):
    "A function that makes one step and returns tokens a second."
    module = trainable(name, config)
    if name == "ours":
        run = compile_blocks(module) if compiled else module
    else:
        run = torch.compile(module) if compiled else module
    update = updater(module)
    data = torch.randint(config.vocab_size, (batch, config.context_length + 1))
    ids, labels = data[:, :-1].contiguous(), data[:, 1:].contiguous()

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = run(ids, labels)
        loss.backward()
        update()
        module.zero_grad()

    return lambda: ids.numel() / seconds(step)


def flops_per_token(config) -> float:
    "Multiplications and additions of a step: 6 a weight, and causal attention's two products."
    weights = count_parameters(config)["all"] - config.vocab_size * config.d_model
    return 6 * weights + 6 * config.n_layers * config.context_length * config.d_model


def matmul_rate(dtype: str) -> float:
    "FLOP a second of one product of 2048 x 2048 matrices."
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    a, b = torch.randn(2, 2048, 2048).to(kind).unbind(0)
    ways = (lambda: a @ b), (lambda: product(a, b, None))
    return 2 * 2048**3 / min(seconds(way) for way in ways for _ in range(5))


def idle_update(config):
    "The update of our model, whose gradients are random and stay."
    module = trainable("ours", config)
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    return updater(module)


def products(config, batch: int, dtype: str, update=lambda: None):
    "A function that makes a step's products and an update, and returns tokens a second."
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    d, n, n_heads = config.d_model, batch * config.context_length, config.n_heads * batch
    layer = (d, 3 * d), (d, d), (d, config.d_mlp), (config.d_mlp, d)
    times = dict.fromkeys(layer, config.n_layers) | {(d, config.vocab_size): 1}
    made = {shape: [torch.randn(n, side).to(kind) for side in shape] for shape in times}
    found = {shape: [torch.empty_like(side) for side in pair] for shape, pair in made.items()}
    weights = {shape: torch.randn(*reversed(shape)).to(kind) for shape in times}
    half = config.context_length // 2  # of the keys, which is what the causal mask leaves
    q = torch.randn(n_heads, config.context_length, config.d_head).to(kind)
    k, p = q[:, :half].contiguous(), torch.rand(n_heads, 2 * half, half).to(kind)

    def step():
        for shape, count in times.items():
            (x, y), (dx, out), weight = made[shape], found[shape], weights[shape]
            for _ in range(count):
                torch.mm(x, weight.t(), out=out)
                torch.mm(y, weight, out=dx)
                torch.mm(y.t(), x)
        for _ in range(config.n_layers):
            for _ in range(2):
                torch.bmm(q, k.transpose(1, 2), out=p)
                torch.bmm(p, k)
                torch.bmm(p.transpose(1, 2), q)
        update()

    return lambda: n / seconds(step)


def runner(label: str, shape: str, dtype: str, batch: int | None):
    "A function that measures once what `label` stands for, in tokens a second."
    config, usual = SHAPES[shape]
    batch = batch or usual
    if label == "matmul":
        return lambda: matmul_rate(dtype) / flops_per_token(config)
    if label == "products alone":
        return products(config, batch, dtype)
    if label == "products and update":
        return products(config, batch, dtype, idle_update(config))
    name, _, compiled = label.partition(" ")
    return stepper(name, config, batch, dtype, bool(compiled))


def serve(label: str, how: argparse.Namespace) -> None:
    "Measure once for each line of the input."
    run = runner(label, how.shape, how.dtype, how.batch)
    for _ in sys.stdin:
        print("measured", run(), flush=True)


class Contestant:
    "A process that serves; called, it measures once."

    def __init__(self, label: str):
        command = [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], "--serve", label]
        self.label = label
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self) -> float:
        print(file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("measured "):
                return float(line.split()[1])
        sys.exit(f"{self.label} ended before it had measured anything")


def main():
    settle()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--compile", nargs="?", const="both", choices=["both", "only"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, help="rows; the shape's own if not given")
    parser.add_argument("--keep", type=Path, help="JSON file of earlier rounds")
    parser.add_argument(
        "--against",
        nargs="+",
        metavar="NAME",
        help=f"these alone, or all: {', '.join((*PEERS, *BOUNDS))}",
    )
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    how = parser.parse_args()
    require("transformers", "litgpt")
    if how.serve:
        return serve(how.serve, how)
    names = ["ours", *PEERS]
    if SHAPES[how.shape][0].attn_dropout:
        names.remove("litgpt")
    also = [f"{name} compiled" for name in names] if how.compile else []
    tasks = {}
    labels = *(also if how.compile == "only" else names + also), *BOUNDS
    for label in labels:
        name = label.removesuffix(" compiled")
        if how.against and name not in ("ours", *how.against):
            continue
        tasks[label] = Contestant(label)
        print(label, "first step", flush=True)
        tasks[label](), tasks[label]()
    values = json.loads(how.keep.read_text()) if how.keep and how.keep.exists() else {}
    for _ in range(how.rounds):
        found = interleaved(tasks, 1)
        values |= {name: values.get(name, []) + found[name] for name in tasks}
        if how.keep:
            how.keep.write_text(json.dumps(values))
    case = f"{how.shape} {how.dtype} tokens/s"
    middle = {name: statistics.median(found) for name, found in values.items()}
    ours = max((name for name in values if name.startswith("ours")), key=middle.get)
    peers = [name for name in values if not name.startswith("ours") and name not in BOUNDS]
    case = case.replace(" tokens/s", f"{ours.removeprefix('ours')}, tokens/s")
    others = [name for name in (*peers, *BOUNDS) if name in values]
    rows = [row(case, name, values[ours], values[name]) for name in others]
    write("train_step", rows)
    print(f"{case}: {middle[ours]:.1f}")
    print({line["peer"]: line["ratio"] for line in rows})


if __name__ == "__main__":
    main()
