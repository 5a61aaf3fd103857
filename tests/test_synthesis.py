"""What the teacher's notebooks can't show on one page: promises over many exercises."""

import ast
import doctest
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from phi1_nb import synthesis
from phi1_nb.diversity import fingerprint, shared_run_share
from phi1_nb.routines import ROUTINES
from phi1_nb.sandbox import run_programs
from phi1_nb.subjects import CLASSES, SUBJECTS
from phi1_nb.teacher import Draft, Exercise
from phi1_nb.textbooks import TOPICS, Example, mistake, section_program

N = 800


@pytest.fixture(scope="module", params=["first", "whole"])
def course(request):
    return request.param


@pytest.fixture(scope="module")
def made(course):
    drops = Counter()
    train, heldout, drops = synthesis.collect(N, 60, 3, course, progress=False)
    return train, heldout, drops


def test_the_first_course_is_the_same_for_ever():
    digest, n, number = hashlib.sha256(), 0, 0
    while n < 500:
        exercise = synthesis.candidate(0, number, "first")
        number += 1
        if isinstance(exercise, Exercise):
            n += 1
            text = exercise.text + exercise.test + exercise.composition + exercise.split
            digest.update(text.encode())
    assert digest.hexdigest().startswith("6848966fa6c8e1b2058f2e8c785c94da"), "nano would change"


def test_docstrings_come_in_many_forms():
    found = Counter()
    prompts = [
        e.prompt for e in (synthesis.candidate(0, i) for i in range(700)) if isinstance(e, Exercise)
    ]
    for prompt in prompts:
        text = prompt.partition('"""')[2]
        for name, pattern in {
            "google": r"^    Args:$", "numpy": r"^    Parameters\n    ---", "sphinx": ":param ",
            "doctest": ">>> ", "inline": r"\) (returns|gives|is|==|->|=>) ", "question": r"\?$",
            "order": r"^\s*(Return|Compute|Find|Count) ", "description": r"^\s*(This|It|Returns) ",
            "note": "TODO: |Note to self: ", "given": r"^\s*Given ", "types": "list of integers",
        }.items():  # fmt: skip
            found[name] += bool(re.search(pattern, text, re.M))
        found["typing"] += "List[" in prompt
        found["builtin"] += "list[" in prompt.partition('"""')[0]
        found["bare"] += bool(re.search(r"def \w+\(\w+\)", prompt))
    assert len(found) == 14 and min(found.values()) >= 3, found


def test_docstrings_are_tidy():
    made = [e for e in (synthesis.candidate(1, i) for i in range(500)) if isinstance(e, Exercise)]
    for exercise in made:
        for prompt in (exercise.prompt, *exercise.variants):
            text = prompt.partition('"""')[2].rpartition('"""')[0]
            prose = re.sub(r"(>>>.*\n.*|\b\w+\(.*|`[^`]*`|\"[^\"]*\"|'[^']*')", "x", text)
            assert not re.search(r",,|, ,|\{\w+\}|\ba a\b|\bthe the\b|\\1|[a-z]  [a-z]", prose), (
                text
            )
            ast.parse(prompt + exercise.solution)


def test_no_docstring_shares_eight_words_with_a_recent_one():
    train, heldout, drops = synthesis.collect(400, 20, 6, "whole", progress=False)
    assert shared_run_share([e.prompt for e in train]) == 0
    assert drops["docstring shares eight words with a recent one"] > 0


def test_the_number_of_workers_changes_nothing(course):
    runs = [synthesis.collect(250, 10, 4, course, workers, progress=False) for workers in (1, 2)]
    assert runs[0] == runs[1]


def test_another_seed_gives_other_exercises(course):
    one, two = (synthesis.collect(100, 5, seed, course, progress=False)[0] for seed in (0, 1))
    assert len({e.prompt for e in one} & {e.prompt for e in two}) < 10


def test_exercises_are_distinct(made):
    train, heldout, _ = made
    assert len({e.prompt for e in train + heldout}) == len(train) + len(heldout) == N + 60


def test_held_out_compositions_and_programs_are_new_and_their_blocks_known(made):
    train, heldout, _ = made
    assert {e.split for e in train} == {"train"} and {e.split for e in heldout} == {"heldout"}
    assert not {e.composition for e in train} & {e.composition for e in heldout}
    programs = {fingerprint(e.text) for e in train}
    assert not programs & {fingerprint(e.text) for e in heldout}
    known = {block for e in train for block in synthesis.blocks_of(e.composition)}
    assert all(known.issuperset(synthesis.blocks_of(e.composition)) for e in heldout)


def test_every_exercise_passes_its_own_test_in_human_eval_form(made):
    train, heldout, _ = made
    programs = []
    for exercise in train[:300] + heldout:
        row = synthesis.as_row(exercise)
        programs.append(
            row["prompt"] + row["solution"] + "\n" + row["test"] + f"\ncheck({row['entry_point']})"
        )
    assert all(verdict.passed for verdict in run_programs(programs, per_process=20))


def test_tests_have_five_calls_or_more_that_the_docstring_does_not_show(made):
    for exercise in made[0][:300]:
        calls = re.findall(r"candidate(\(.*?\)) (?:==|is|-)", exercise.test)
        assert len(calls) >= 5, exercise.test
        assert not any(exercise.entry_point + call in exercise.prompt for call in calls)


def test_mutants_fail(made):
    killed, of = synthesis.mutants_killed(made[0][:60])
    assert of > 100 and killed > 0.8 * of


def test_doctests_and_examples_in_prose_are_true(made):
    shown = 0
    for exercise in made[0] + made[1]:
        space = {}
        exec(exercise.text, space)
        docstring = space[exercise.entry_point].__doc__
        for example in doctest.DocTestParser().get_examples(docstring):
            assert repr(eval(example.source, space)) + "\n" == example.want
            shown += 1
        prose = re.search(
            r"(?:example, |Example: |^ *)(\w+\(.*\)) (?:returns|==|->) (.*?)\.?$", docstring, re.M
        )
        if prose and prose[1].startswith(exercise.entry_point):
            assert eval(prose[1], space) == eval(prose[2])
            shown += 1
    assert shown > 100


def test_prompts_end_at_the_docstring_and_solutions_are_short(made, course):
    for exercise in made[0]:
        assert exercise.prompt.endswith('"""\n') and exercise.solution.endswith("\n")
        function = ast.parse(exercise.text).body[-1]
        assert function.name == exercise.entry_point
        assert len(exercise.solution.splitlines()) <= (14 if course == "first" else 40)


def test_at_least_sixty_families():
    families = {
        e.family
        for e in (synthesis.candidate(0, i) for i in range(2000))
        if isinstance(e, Exercise)
    }
    assert len(families) >= 60 and len({routine.name for routine in ROUTINES}) == len(ROUTINES)


def test_nothing_that_terminates_badly_hides_in_the_routines(made):
    assert not any("sandbox" in reason or "raises" in reason for reason in made[2]), made[2]


def test_textbook_programs_print_what_their_comments_say():
    drops = Counter()
    titles = {thing.title for thing in [*TOPICS, *SUBJECTS, *CLASSES]}
    sections = synthesis.textbooks(2 * len(titles), 1, drops, workers=1)
    assert len(sections) == 2 * len(titles) and {s["topic"] for s in sections} == titles
    first = synthesis.textbooks(2 * len(TOPICS), 1, drops, workers=1, course="first")
    assert {s["topic"] for s in first} == {topic.title for topic in TOPICS}
    spoiled = [re.sub(r"\)  # (.*)", r")  # spoiled \1", s["text"], count=1) for s in sections[:20]]
    assert not any(v.passed for v in run_programs([section_program(text) for text in spoiled]))


def test_a_spoiled_program_that_calls_itself_neither_hangs_nor_fills_the_memory():
    body = """def grow(text, times):
    if times == 0:
        return text
    longer = text + text
    return grow(longer, times - 1)
return grow(word, 2)"""
    draft = Draft("", "", "grown", [("word", "str", "a word")], "str", [body], "", None, [])
    example = Example(None, draft, [(("ab",), "ab" * 4)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert all("the right answer is 'abababab'" in mistake(example, Random(i)) for i in range(8))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_textbooks_never_show_a_held_out_composition():
    from phi1_nb.pipelines import composition
    from phi1_nb.teacher import Dropped, split_of
    from phi1_nb.textbooks import draw_example

    seen = 0
    for number in range(3000):
        try:
            example = draw_example(TOPICS[number % len(TOPICS)], Random(number))
        except Dropped:
            continue
        seen += 1
        assert split_of(composition(example.plan)) == "train"
    assert seen > 100


def test_command_writes_the_same_bytes_twice_and_refuses_nonsense(tmp_path):
    def call(*arguments):
        script = tmp_path / "synthesize.py"
        script.write_text("from phi1_nb.synthesis import main\n\nmain()\n")
        environment = os.environ | {"PHI1_HOME": str(tmp_path)}
        return subprocess.run(
            [sys.executable, script, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
        )

    first, second = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    for path in (first, second):
        done = call("--kind", "exercises", "--n", 150, "--seed", 2, "--out", path)
        assert done.returncode == 0, done.stderr
    assert first.read_bytes() == second.read_bytes()
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    assert len(rows) == 150 and set(rows[0]) == {
        "prompt", "solution", "entry_point", "family", "composition", "test", "split"
    }  # fmt: skip
    assert "make its folder" in call("--n", 5, "--out", tmp_path / "no" / "x.jsonl").stderr
    assert "at least one" in call("--n", 0, "--out", first).stderr


def test_recorded_exercises_are_new_on_the_other_side_and_lose_what_fails(made, monkeypatch):
    train, heldout, _ = made
    rows = synthesis.recorded_exercises()[:20]
    spoiled = rows[0] | {"solution": "    return object()\n"}
    crossing = [
        {"split": "train", **{k: v for k, v in vars(heldout[0]).items() if k != "split"}},
        {"split": "heldout", **{k: v for k, v in vars(train[0]).items() if k != "split"}},
    ]
    monkeypatch.setattr(synthesis, "recorded_exercises", lambda: [*rows, spoiled, *crossing])
    drops = Counter()
    kept = synthesis.foreign_exercises(train, heldout, drops)
    assert drops.total() == 23 - len(kept) and drops["recorded: sandbox: failed"] == 1
    crossed = [n for reason, n in drops.items() if "other side" in reason]
    assert len(crossed) == 2 and spoiled not in kept
    assert all(row not in kept for row in crossing) and set(map(str, kept)) <= set(map(str, rows))


def test_a_section_that_shows_something_else_is_dropped(monkeypatch):
    rows = synthesis.recorded_textbooks()
    spoiled = rows[0] | {"text": rows[0]["text"].replace("```\n", "```\nsomething else\n", 4)}
    monkeypatch.setattr(synthesis, "recorded_textbooks", lambda: [spoiled, *rows[1:]])
    drops = Counter()
    assert synthesis.foreign_sections(drops) == rows[1:] and drops.total() == 1


def test_the_data_that_a_stage_reads_are_part_of_its_key(monkeypatch, tmp_path):
    first, whole = synthesis._shipped("first"), synthesis._shipped("whole")
    package = tmp_path / "phi1_nb"
    shutil.copytree(Path(synthesis.__file__).parent / "data", package / "data")
    monkeypatch.setattr(synthesis, "files", lambda _: package)
    assert (synthesis._shipped("first"), synthesis._shipped("whole")) == (first, whole)
    (package / "data" / "families" / "bits.yaml").write_text("[]")
    assert synthesis._shipped("first") == first and synthesis._shipped("whole") != whole
    (package / "data" / "lm_textbooks.jsonl.gz").write_bytes(b"")
    assert synthesis._shipped("first") != first


def test_docstrings_can_be_kept_apart_over_a_whole_set():
    def share(apart: int) -> float:
        stream = synthesis.exercises_of(0, Counter(), 500, "whole", apart=apart)
        made = [exercise.prompt for exercise in islice(stream, 500)]
        stream.close()
        return shared_run_share(made)

    assert share(500) == 0 and share(0) > 0.03
    with pytest.raises(ValueError, match="apart is -1"):
        synthesis.main(apart=-1)
