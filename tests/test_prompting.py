"What is asked, and what is taken for the program."

import json
import subprocess
import sys
from pathlib import Path

import pytest

from phi1_nb.benchmarks import from_mbpp, humaneval_problems, program, write_jsonl
from phi1_nb.generation import STOPS, cut_at_stop
from phi1_nb.prompting import FORMS, PRESETS, extract_code, pose, preset_name, to_completion
from phi1_nb.sandbox import run_programs

MBPP = from_mbpp(
    {
        "task_id": 11,
        "text": "Write a function to double a number.",
        "code": "import math\ndef double(x, times=1):\n  return 2 * x",
        "test_list": ["assert double(3) == 6", "assert double(-1) == -2"],
    }
)
PROBLEMS = humaneval_problems()


def test_the_authors_settings_are_theirs():
    archai = PRESETS["archai"]
    assert (archai.temperature, archai.top_p, archai.max_new_tokens) == (0.01, 0.95, 300)
    assert (archai.n_samples, archai.form) == (1, "as-is")
    assert archai.stop == PRESETS["greedy"].stop == STOPS
    assert all(preset.form in FORMS and preset.source for preset in PRESETS.values())
    assert [preset_name(preset) for preset in PRESETS.values()] == list(PRESETS)


def test_no_stop_string_cuts_a_reference_solution():
    for name, preset in PRESETS.items():
        cut = [
            p
            for p in PROBLEMS
            if cut_at_stop(p["canonical_solution"], preset.stop) != p["canonical_solution"]
        ]
        solved = [program(p, cut_at_stop(p["canonical_solution"], preset.stop)) for p in cut]
        assert all(verdict.passed for verdict in run_programs(solved)), name


@pytest.mark.parametrize("form", ["as-is", "stripped", "chat"])
def test_reference_solutions_pass_in_every_form(form):
    chosen = PROBLEMS[::8]
    programs = []
    for problem in chosen:
        posed, solution = pose(problem, form), problem["canonical_solution"]
        if form == "chat":
            answer = f"Sure:\n```python\n{problem['prompt']}{solution}```\nIt works."
        else:
            answer = ("\n" if form == "stripped" else "") + solution
        assert posed["asked"].strip()
        programs.append(program(posed, to_completion(posed, answer, form)))
    assert all(verdict.passed for verdict in run_programs(programs))


def test_mbpp_in_its_forms():
    whole = "def double(x, times=1):\n    return 2 * x\n"
    answers = {
        "as-is": whole,
        "signature": "    return 2 * x\n",
        "three-shot": f"[BEGIN]\n{whole}",
        "chat": f"```py\n{whole}```",
    }
    for form, answer in answers.items():
        posed = pose(MBPP, form, [MBPP])
        source = program(posed, to_completion(posed, answer, form))
        assert run_programs([source])[0].passed, form
    assert pose(MBPP, "signature")["prompt"].startswith("def double(x, times=1):")
    shown = pose(MBPP, "three-shot", [MBPP, MBPP])["asked"]
    assert shown.count("[BEGIN]") == 3 and shown.count("[DONE]") == 2


def test_posing_twice_changes_nothing():
    for form in FORMS:
        posed = pose(MBPP, form, [MBPP])
        assert pose(posed, form, [MBPP]) == posed


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("def f():\n    return 1\n", "def f():\n    return 1\n"),
        ("Text.\n\n```python\ndef f():\n    return 1\n```", "def f():\n    return 1\n"),
        ("```\ndef g(): pass\n```\n```\ndef f(): pass\n```\n", "def f(): pass\n"),
        ("```python\ndef f():\n    return 1", "def f():\n    return 1"),
        (
            "Here:\nimport os\n\ndef f():\n    return 1\n\nDone!",
            "import os\n\ndef f():\n    return 1\n\n",
        ),
        ("I can't do that.", "I can't do that."),
        ("def f(:\n", "def f(:\n"),
        ("", ""),
        ("```\n" + "(" * 5000 + "\n```", "(" * 5000 + "\n"),
    ],
)
def test_code_is_found_in_prose(text, code):
    assert extract_code(text, "f") == code


def test_what_cannot_be_posed_is_refused():
    with pytest.raises(ValueError, match="it isn't of MBPP"):
        pose(PROBLEMS[0], "three-shot", [MBPP])
    with pytest.raises(ValueError, match="see `mbpp_examples`"):
        pose(MBPP, "three-shot")
    with pytest.raises(ValueError, match="there is no form 'x'"):
        pose(MBPP, "x")


def test_human_evals_command_judges_a_posed_set(tmp_path):
    posed = [pose(PROBLEMS[0], "stripped"), pose(MBPP, "three-shot", [MBPP])]
    samples = [
        {"task_id": "HumanEval/0", "completion": "\n" + PROBLEMS[0]["canonical_solution"]},
        {"task_id": "MBPP/11", "completion": "def double(x):\n    return 2 * x\n"},
    ]
    write_jsonl(tmp_path / "problems.jsonl", posed)
    write_jsonl(tmp_path / "samples.jsonl", samples)
    command = Path(sys.executable).with_name("evaluate_functional_correctness")
    arguments = [tmp_path / "samples.jsonl", f"--problem_file={tmp_path / 'problems.jsonl'}"]
    done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=60)
    rows = [json.loads(x) for x in (tmp_path / "samples.jsonl_results.jsonl").open()]
    assert [row["passed"] for row in rows] == [True, True], done.stderr
