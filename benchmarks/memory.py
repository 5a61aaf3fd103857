"""Peak memory of a training step and of decoding: ours against the same peers.

    python -m benchmarks.memory [--only train decode] [--shapes nano micro] [--runs 5]

Each case runs in a process of its own; what counts is the highest resident memory above that of
the same process with the model made and nothing run. Lower is better, so a ratio is peer / ours.
llama.cpp keeps keys and values in 16 bits: ours is measured so too, and exact.
"""

import argparse
import multiprocessing
import resource
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.common import require, row, write
from benchmarks.decoding import study_tokenizer, transformers_generate
from benchmarks.llama_cpp import Engine, write_gguf
from benchmarks.peers import SHAPES, transformers_model
from benchmarks.train_step import stepper
from phi1_nb.generation import generate
from phi1_nb.model import Phi


def peak() -> float:
    "Highest resident memory of this process so far, in megabytes."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(shape: str, peer: str) -> float:
    "Megabytes that two steps in bf16 need; made first: the model, the optimizer, a small step."
    config, batch = SHAPES[shape]
    step, small = (stepper(peer, config, n, "bf16", False) for n in (batch, 1))
    small(), small()
    before = peak()
    step(), step()
    return peak() - before


def decode(shape: str, peer: str, n_prompts: int = 164, n: int = 64) -> float:
    "Megabytes for `n_prompts` texts of 200 tokens and `n` new ones, all decoded together."
    config = replace(SHAPES[shape][0], context_length=1024)
    prompts = [[i % 4000 + 1] * 200 for i in range(n_prompts)]
    if peer.startswith("ours"):
        model, how = Phi(config).eval(), {"cache_dtype": torch.float16} if "fp16" in peer else {}
        run = lambda some, n: generate(model, some, max_new_tokens=n, **how)  # noqa: E731
    elif peer == "transformers":
        model = transformers_model(config).eval()
        run = lambda some, n: transformers_generate(model, some, n, 0.0, n_prompts)  # noqa: E731
    else:
        path = Path(tempfile.mkdtemp()) / "model.gguf"
        write_gguf(Phi(config), study_tokenizer(), path)
        before = peak()
        Engine(path, n_prompts, 264).generate(prompts, n, 0.0)
        return peak() - before
    run(prompts[:1], 4)
    before = peak()
    run(prompts, n)
    return peak() - before


def measure(kind: str, shape: str, peer: str, runs: int) -> list[float]:
    "One number a process, `runs` times; a process starts with everything imported, nothing run."
    function = {"train": train, "decode": decode}[kind]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        return [pool.apply(function, (shape, peer)) for _ in range(runs)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["train", "decode"], nargs="+", help="what to measure")
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=["nano", "micro"], help="of training steps"
    )
    parser.add_argument("--runs", type=int, default=5, help="processes for each number")
    how = parser.parse_args()
    wanted = how.only or ["train", "decode"]
    needed = {"train": ["litgpt"], "decode": ["gguf", "xllamacpp"]}
    require("transformers", *(name for kind in wanted for name in needed[kind]))
    import transformers.models.phi.modeling_phi  # noqa: F401

    texts = "164 prompts of 200, 64 new"
    cases = [("train", "ours", shape, "bf16 step") for shape in how.shapes]
    cases += [("decode", "ours", "nano", texts)]
    cases += [("decode", "ours fp16", "nano", f"{texts}, ours with an fp16 cache")]
    for kind, who, shape, what in cases:
        if kind not in wanted:
            continue
        peers = ("transformers", "litgpt", "nanogpt") if kind == "train" else ()
        ours = measure(kind, shape, who, how.runs)
        for peer in peers or ("transformers", "llama.cpp"):
            theirs = measure(kind, shape, peer, how.runs)
            line = row(f"{kind} {shape}, {what}, MB", peer, ours, theirs, lower_is_better=True)
            write("memory", [line])
            print(line, flush=True)


if __name__ == "__main__":
    main()
