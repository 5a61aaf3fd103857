"""Answers of a language model that misbehave, and the recorded data as the package ships them."""

import ast
import gzip
import json
import random
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from phi1_nb import recorded, replies, synthesis
from phi1_nb.contamination import Gate, benchmark_problems, functions, shape
from phi1_nb.core import digest
from phi1_nb.instructions import exercise_wish
from phi1_nb.sandbox import run_programs

GATE = Gate(benchmark_problems())
ANSWER = '''```python
def {name}(laps: list[int], limit: int) -> int:
    """Count the laps that took longer than `limit` seconds."""
    {body}

assert {name}([61, 75, 80], 70) == 2
```'''
GOOD = "return len([lap for lap in laps if lap > limit])"


def outcome(text):
    found, drops = recorded.exercises_from([text], [exercise_wish(0)], GATE)
    return found[0] if found else next(reason for reason, n in drops.items() if n)


BODIES = {
    "return len([0] * 10**12)": "raises on its own example",
    "while True:\n        pass\n    return 2": "sandbox: timeout",
    "return 2": "result is always the same",
    "return sum(1 for lap in laps if lap > limit) + undefined": "raises on its own example",
    "import os\n    return len(os.listdir())": "imports something else",
    "return open('/etc/passwd').read()": "reads, prints or draws",
    "return '2' * limit": "disagrees with its own example",
    "return laps.__class__.__base__.__subclasses__()": "disagrees with its own example",
}


def test_programs_that_are_no_exercise_are_dropped_by_reason():
    texts = [ANSWER.format(name="laps_above", body=body) for body in BODIES]
    found, drops = recorded.exercises_from(texts, [exercise_wish(0)] * len(texts), GATE)
    assert not found and +drops == Counter(BODIES.values())


def test_what_running_refused_is_kept_apart_and_what_could_not_be_read_is_not():
    texts = [ANSWER.format(name="laps_above", body=body) for body in BODIES]
    texts += [ANSWER.format(name="laps_above", body=GOOD), "no code", None]
    wishes = [exercise_wish(0)] * len(texts)
    refused, outcomes = recorded.refused_from(texts, wishes, GATE)
    unread = Counter({"imports something else": 1, "reads, prints or draws": 1})
    unread |= {"not one code block": 1, "cut or failed": 1}
    assert all(outcomes[reason] == n for reason, n in unread.items())
    assert len(refused) + (+outcomes).total() == len(texts) and outcomes["proven"] == 1
    assert refused and {row["reason"] for row in refused} <= set(BODIES.values()) - set(unread)
    for row in refused:
        assert list(row) == ["prompt", "solution", "reason"]
        form = functions(row["prompt"] + row["solution"])[0]
        assert int(digest(list(shape(form))), 16) % 5, "its program is in the foreign test set"


def test_the_shipped_refusals_are_of_no_held_out_program():
    heldout = {shape(functions(row["prompt"] + row["solution"])[0])
               for row in recorded.recorded_exercises() if row["split"] == "heldout"}  # fmt: skip
    rows = recorded.refused_exercises()
    assert rows and all(functions(row["prompt"] + row["solution"]) for row in rows)
    assert not heldout & {shape(functions(row["prompt"] + row["solution"])[0]) for row in rows}


def test_a_proven_exercise_passes_its_own_test_and_a_wrong_one_fails_it():
    exercise = outcome(ANSWER.format(name="laps_above", body=GOOD))
    wrong = exercise.solution.replace("lap > limit", "lap >= limit")
    programs = [
        f"{exercise.prompt}{body}\n{exercise.test}\ncheck({exercise.entry_point})\n"
        for body in (exercise.solution, "    return 2\n", wrong.replace(">=", "<"))
    ]
    assert [verdict.passed for verdict in run_programs(programs)] == [True, False, False]


def test_a_benchmark_problem_in_an_answer_is_removed_and_counted():
    problem = benchmark_problems()[0]
    source = problem.text.split("\n    >>>")[0] + '\n    """\n' + problem.solution
    text = f"```python\n{source}\nassert has_close_elements([1.0, 2.0, 2.1], 0.3) == True\n```"
    assert str(outcome(text)).startswith("contaminated: ")


def test_the_same_answers_give_the_same_bytes(tmp_path):
    texts = [ANSWER.format(name=f"laps_{k}", body=GOOD) for k in range(3)]
    wishes = [exercise_wish(k) for k in range(3)]
    paths = []
    for run in range(2):
        found, _ = recorded.exercises_from(texts, wishes, GATE)
        paths.append(recorded.write_rows(tmp_path / f"{run}.jsonl.gz", found))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_renamed_programs_are_on_one_side_of_the_split():
    splits = {outcome(ANSWER.format(name=n, body=GOOD)).split for n in ("a", "bb", "laps")}
    assert len(splits) == 1


@pytest.mark.parametrize("seed", range(30))
def test_varied_values_keep_their_type(seed):
    value = ([3, [1.5]], "ab cd", "02:30", {"a": 1}, (1, "x"), True, None, {2}, [])
    new = replies.varied(value, random.Random(seed))
    assert [type(item) for item in new] == [type(item) for item in value]
    assert ast.literal_eval(repr(new)) == new


def test_shipped_exercises_pass_their_tests_and_are_clean():
    rows = synthesis.recorded_exercises()
    fields = {"prompt", "solution", "entry_point", "family", "composition", "test", "split"}
    assert rows and all(set(row) == fields for row in rows)
    chosen = random.Random(0).sample(rows, min(150, len(rows)))
    programs = [
        f"{row['prompt']}{row['solution']}\n{row['test']}\ncheck({row['entry_point']})\n"
        for row in chosen
    ]
    assert all(verdict.passed for verdict in run_programs(programs, per_process=25))
    texts = [row["prompt"] + row["solution"] for row in rows]
    assert not any(GATE.reason(text) for text in texts) and len(set(texts)) == len(texts)


def test_no_shipped_program_is_on_both_sides():
    forms = {"train": set(), "heldout": set()}
    for row in recorded.recorded_exercises():
        (function, *_) = functions(row["prompt"] + row["solution"])
        forms[row["split"]].add(shape(function))
    assert forms["train"] and forms["heldout"] and not forms["train"] & forms["heldout"]


def test_shipped_sections_print_what_they_show():
    rows = synthesis.recorded_textbooks()
    assert rows and all(set(row) == {"text", "topic", "audience"} for row in rows)
    sections = [replies.parse_section(row["text"]) for row in rows]
    for section, outputs in zip(sections, replies.outputs_of(sections), strict=True):
        assert isinstance(outputs, list) and replies.shown_right(section, outputs)
    assert not any(GATE.reason(row["text"]) for row in rows)


class Teacher(BaseHTTPRequestHandler):
    seen = 0

    def do_POST(self):
        Teacher.seen += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        content = ANSWER.format(name=f"laps_{Teacher.seen}", body=GOOD)
        choice = {"message": {"content": content}, "finish_reason": "stop"}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [choice]}).encode())

    def log_message(self, *_):
        pass


def test_the_command_records_proves_and_goes_on(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Teacher)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    command = [str(Path(sys.executable).with_name("phi1_record"))]
    command += ["--base_url", url, "--model", "m", "--out", str(tmp_path / "out")]
    for n in (3, 5):
        subprocess.run([*command, "--n", str(n)], check=True, capture_output=True)
        assert Teacher.seen == n
    server.shutdown()
    data = gzip.decompress((tmp_path / "out" / "lm_exercises.jsonl.gz").read_bytes())
    table = (tmp_path / "out" / "lm_exercises_acceptance.csv").read_text()
    counts = dict(line.split(",")[:2] for line in table.splitlines()[1:])
    assert set(counts) == {"kept", "near-duplicate"} and sum(map(int, counts.values())) == 5
    assert data.count(b"\n") == int(counts["kept"]) < 5
