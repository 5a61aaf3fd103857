"""Parts of a training step in fp32: linear layers by oneDNN and by PyTorch's own choice, attention.

    python -m benchmarks.parts [--rounds 15]

A linear layer's three products (output with bias, gradients of input and weight) are taken one by
one, in milliseconds, the copy for the weight's gradient made each time; 03u_linear says what they
are. Attention is forward and backward, the kernel of 03v against the blocks of 03p and against
PyTorch's fused kernel.
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.common import interleaved, row, seconds, settle, write
from benchmarks.peers import SHAPES
from phi1_nb.attention import attend
from phi1_nb.kernel import attend_in_cache
from phi1_nb.linear import outer, product


def linear(n: int, width: int, out: int) -> dict:
    "Pairs (ours, PyTorch's) of functions, by the product they make."
    x, weight, bias, y = (torch.randn(s) for s in ((n, width), (out, width), (out,), (n, out)))
    return {
        "output": (lambda: product(x, weight, bias), lambda: F.linear(x, weight, bias)),
        "input's gradient": (lambda: product(y, weight.t(), None), lambda: y @ weight),
        "weight's gradient": (lambda: outer(y, x), lambda: y.t() @ x),
    }


def attention(shape: str) -> dict:
    "Functions that attend and go back, by name."
    config, batch = SHAPES[shape]
    size = batch, config.n_heads, config.context_length, config.d_head
    q, k, v, g = (torch.randn(size) for _ in range(4))
    inputs = [x.requires_grad_() for x in (q, k, v)]

    def kernel():
        return attend_in_cache(*(x.flatten(0, 1) for x in inputs))[0].view(size)

    ways = {"kernel": kernel} | {
        name: partial(attend, *inputs, backend=name) for name in ("eager", "sdpa")
    }
    return {
        name: partial(lambda w: torch.autograd.grad(w(), inputs, g), w) for name, w in ways.items()
    }


def timed(functions: dict, rounds: int) -> dict[str, list[float]]:
    "Milliseconds of each, in turn, after two calls that don't count."
    tasks = {name: lambda f=f: 1e3 * seconds(f) for name, f in functions.items()}
    interleaved(tasks, 2, say=False)
    return interleaved(tasks, rounds, say=False)


def main():
    settle()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds, rows = parser.parse_args().rounds, []
    a, b = torch.randn(2, 2048, 2048).unbind(0)
    found = timed({"ours": lambda: product(a, b, None), "peer": lambda: a @ b}, rounds)
    rows.append(row("2048 x 2048, ms", "torch", found["ours"], found["peer"], True))
    for shape, (config, batch) in SHAPES.items():
        n, d = batch * config.context_length, config.d_model
        if config.attn_dropout:
            continue
        for width, out in ((d, 3 * d), (d, d), (d, config.d_mlp), (config.d_mlp, d)):
            for name, (ours, peer) in linear(n, width, out).items():
                found = timed({"ours": ours, "peer": peer}, rounds)
                case = f"{shape} {width} to {out}, {name}, ms"
                rows.append(row(case, "torch", found["ours"], found["peer"], True))
        found = timed(attention(shape), rounds)
        for peer in ("eager", "sdpa"):
            case = f"{shape} attention forward and backward, ms"
            rows.append(row(case, peer, found["kernel"], found[peer], True))
    for line in rows:
        print(line)
    write("parts", rows)


if __name__ == "__main__":
    main()
