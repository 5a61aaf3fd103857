"Which checkpoint becomes the model, and that no benchmark and no reported exercise decides it."

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_training import MODEL, SHORT

from phi1_nb.checkpoints import checkpoint_steps
from phi1_nb.core import file_sha256
from phi1_nb.model import Phi
from phi1_nb.packing import is_validation
from phi1_nb.runs import Run, write_run
from phi1_nb.selection import solved, validation_exercises
from phi1_nb.tokenizer import load_tokenizer, train_tokenizer
from phi1_nb.training import Stopped, train

PROMPT = 'def up(x):\n    """Add one."""\n'
SOLUTION = "    return x + 1\n"
PROBLEM = {"prompt": PROMPT, "solution": SOLUTION, "entry_point": "up"}
PROBLEM |= {"test": "def check(candidate):\n    assert candidate(1) == 2\n"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    "One function, again and again: a model of 30,000 parameters learns to write it."
    folder = tmp_path_factory.mktemp("data")
    tokenizer = train_tokenizer([PROMPT + SOLUTION] * 50, vocab_size=300)
    tokenizer.save(folder)
    ids = [*tokenizer.encode(PROMPT + SOLUTION), tokenizer.eot] * 400
    np.array(ids, np.uint16).tofile(folder / "rows.bin")
    (folder / "problems.jsonl").write_text(json.dumps(PROBLEM) + "\n")
    schedule = replace(SHORT, stop_step=40, checkpoint_every=10, peak_lr=1e-2)
    schedule = replace(schedule, select="best_heldout", dtype="fp32")
    rows = folder / "rows.bin"
    problems = folder / "problems.jsonl"
    return Run(MODEL, schedule, rows, rows, tokenizer=folder, seed=7, problems=problems)


def test_the_model_is_the_first_checkpoint_that_solves_most(run, tmp_path):
    folder = train(write_run(tmp_path / "run", run))
    found = pd.read_csv(folder / "heldout.csv")
    assert found.step.tolist() == [10, 20, 30, 40] and set(found.n) == {1}
    assert found.solved.iloc[0] == 0 and found.solved.max() == 1, "it learns to solve"
    chosen = json.loads((folder / "summary.json").read_text())
    assert chosen["step"] == found.step[found.solved.idxmax()]
    assert chosen["select"] == "best_heldout" and chosen["step"] in checkpoint_steps(folder)
    assert solved(Phi.from_pretrained(folder), load_tokenizer(folder), [PROBLEM]) == 1


def test_counts_decide_and_not_losses_across_a_resume(run, tmp_path, monkeypatch):
    "The second checkpoint solves most; the losses fall to the end. Stopped and taken up again."
    counts = {10: 3, 20: 9, 30: 9, 40: 5}

    def count(model, tokenizer, problems):
        return next(asked)

    monkeypatch.setattr("phi1_nb.training.solved", count)
    folder = write_run(tmp_path / "run", run)
    asked, steps = iter([counts[10], counts[20], 0]), iter(range(1, 100))
    with pytest.raises(Stopped):
        train(folder, should_stop=lambda: next(steps) == 25)
    asked = iter([counts[30], counts[40]])
    train(folder)
    found = pd.read_csv(folder / "heldout.csv").set_index("step").solved
    assert found.to_dict() == counts | {25: 0}
    losses = pd.read_csv(folder / "val.csv")
    assert losses.val_loss.idxmin() == len(losses) - 1
    assert json.loads((folder / "summary.json").read_text())["step"] == 20
    assert checkpoint_steps(folder) == [40, 30, 20]
    whole = replace(run, problems=None, train=replace(run.train, select="last", stop_step=20))
    other = train(write_run(tmp_path / "other", whole))
    assert file_sha256(folder / "model.safetensors") == file_sha256(other / "model.safetensors")


def test_scoring_changes_no_step(run, tmp_path):
    scored, plain = run, replace(run, problems=None, train=replace(run.train, select="last"))
    logs = []
    for name, each in (("scored", scored), ("plain", plain)):
        short = replace(each, train=replace(each.train, stop_step=12, checkpoint_every=5))
        folder = train(write_run(tmp_path / name, short))
        logs.append(pd.read_csv(folder / "metrics.csv").loss.tolist())
    assert logs[0] == logs[1]


def test_the_exercises_that_decide_are_neither_trained_on_nor_reported(tmp_path):
    rows = [PROBLEM | {"prompt": f"def up_{i}(x):\n"} for i in range(500)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "exercises.jsonl").write_text(text)
    (tmp_path / "heldout.jsonl").write_text(text[:10])
    chosen = validation_exercises(tmp_path, 5)
    assert len(chosen) == 5
    assert all(is_validation(row["prompt"] + row["solution"]) for row in chosen)
    with pytest.raises(ValueError, match="select_problems is 500: choose 1 to"):
        validation_exercises(tmp_path, 500)


def test_a_run_without_its_problems_is_refused(run, tmp_path):
    for problems in (None, Path("nothing.jsonl")):
        folder = write_run(tmp_path / f"{problems}", replace(run, problems=problems))
        with pytest.raises(ValueError, match="needs a file of problems"):
            train(folder)


def test_other_problems_make_another_run(run, tmp_path):
    mine = tmp_path / "problems.jsonl"
    mine.write_bytes(run.problems.read_bytes())
    folder = write_run(tmp_path / "run", replace(run, problems=mine))
    with pytest.raises(Stopped):
        train(folder, should_stop=lambda: True)
    mine.write_text(json.dumps(PROBLEM | {"entry_point": "down"}) + "\n")
    with pytest.raises(ValueError, match="problems: .* -> "):
        train(folder)
