"""Families: bad data is refused with a remedy, good data gives the same proven exercises."""

import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import pytest
import yaml

import phi1_nb
from phi1_nb.families import (
    as_family,
    as_type,
    checked,
    family_draft,
    load_families,
    n_compositions,
    read_families,
    renamed,
    report,
)
from phi1_nb.pipelines import COURSES
from phi1_nb.synthesis import blocks_of, candidate
from phi1_nb.teacher import Dropped, finished, split_of

GOOD = {
    "name": "candles_left",
    "arguments": {
        "lengths": {
            "names": ["lengths", "candles"],
            "type": "list[int]",
            "about": "the lengths of the candles",
            "draw": "ints(2, 7, 1, 20)",
        },
        "hours": {"type": "int", "about": "how long they burn", "draw": "integer(1, 6)"},
    },
    "options": {"speed": [2, 3, 4], "P": "predicate int"},
    "returns": "list[int]",
    "slugs": ["candles_after", "burnt_down_{speed}"],
    "sayings": [
        "Each hour a candle loses {speed}. Return what is left of those in {lengths} that {P}.",
        "Return the lengths that remain after {hours} hours of the {lengths} that {P}.",
        "Let those of {lengths} that {P} burn for {hours} hours, {speed} an hour.",
    ],
    "notes": ["No candle is shorter than 0."],
    "edges": [[[], 2]],
    "bodies": [
        "return [max(0, n - {{speed}} * hours) for n in lengths if {{P: n}}]",
        "left = []\nfor n in lengths:\n    if {{P: n}}:\n        for _ in range(hours):\n"
        "            n = max(0, n - {{speed}})\n        left.append(n)\nreturn left",
    ],
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"titel": 1}, "unknown keys ['titel']"),
        ({"bodies": GOOD["bodies"][:1]}, "1 different bodies: write 2 or more"),
        ({"bodies": GOOD["bodies"][:1] * 2}, "1 different bodies: write 2 or more"),
        ({"sayings": GOOD["sayings"][:2]}, "2 different sayings: write 3 or more"),
        ({"slugs": ["one"]}, "1 different slugs: write 2 or more"),
        ({"bodies": ["return {{fast}}", "return 1"]}, "{{fast}} in a program: no option"),
        ({"sayings": ["{length}", "b", "c"]}, "['length'] in '{length}'"),
        ({"bodies": ["return {{P}}", "return 1"]}, "write {{P: x}} for a block"),
        ({"edges": [[[]]]}, "give 2 arguments in a list"),
        ({"edges": [["x", 2]]}, "'x' is no list[int]"),
        ({"options": {"speed": [2]}}, "list 2 or more values"),
        ({"options": {"P": "predicate float"}}, "option P: 'predicate float'"),
        ({"imports": "import os"}, "import only typing"),
        ({"bodies": ["print(1)\nreturn 1", "return 1"]}, "prints: leave that out"),
        ({"name": "Candles!"}, "name 'Candles!'"),
        ({"arguments": {"n": {"type": "int", "about": "x"}}}, "argument n without ['draw']"),
    ],
)
def test_bad_data_is_refused_with_a_remedy(change, message):
    with pytest.raises(ValueError) as error:
        as_family("kitchen", GOOD | change)
    assert message in str(error.value)


def test_missing_parts_are_named():
    for key in ("name", "edges", "sayings", "bodies", "returns"):
        with pytest.raises(ValueError, match=f"missing .*{key}"):
            as_family("kitchen", {k: v for k, v in GOOD.items() if k != key})


def test_a_file_names_file_and_family_and_all_its_mistakes(tmp_path):
    path = tmp_path / "kitchen.yaml"
    path.write_text(
        yaml.safe_dump(sort_keys=False, data=[GOOD, GOOD, GOOD | {"name": "other", "slugs": ["a"]}])
    )
    with pytest.raises(ValueError) as error:
        read_families(path)
    first, second = str(error.value).splitlines()
    assert first == f"{path}: family candles_left: its name isn't unique: choose another"
    assert f"{path}: family other: 1 different slugs" in second
    path.write_text("- name: [")
    with pytest.raises(ValueError, match="can't be read"):
        read_families(path)
    path.write_text("name: x")
    with pytest.raises(ValueError, match="is no list"):
        read_families(path)


def test_a_name_may_be_in_one_file_only(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(sort_keys=False, data=[GOOD]))
    with pytest.raises(ValueError, match="one.yaml has it too"):
        load_families(tmp_path)


def test_the_command_checks_a_file(tmp_path):
    path = tmp_path / "kitchen.yaml"
    wrong = GOOD | {"name": "wrong", "bodies": [GOOD["bodies"][0], "return lengths[:1]"]}
    path.write_text(yaml.safe_dump(sort_keys=False, data=[GOOD, wrong]))
    command = [sys.executable, "-m", "phi1_nb.families", path, "--n", "12"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "ok  kitchen.candles_left: " in done.stdout
    assert "BAD kitchen.wrong: 0% accepted" in done.stdout and "solutions disagree" in done.stdout


def test_bodies_that_disagree_are_dropped_and_counted():
    wrong = as_family("kitchen", GOOD | {"bodies": [GOOD["bodies"][0], "return lengths[:1]"]})
    reasons, kept = checked(wrong)
    assert not kept and reasons["solutions disagree"] > 20


def test_a_program_that_never_ends_is_reported():
    endless = GOOD | {"bodies": [GOOD["bodies"][0], "while True:\n    pass\nreturn lengths"]}
    fine, text = report(as_family("kitchen", endless), 1)
    assert not fine and "TimeoutError" in text


def test_names_change_where_they_are_names():
    code = "n = k.k + f(k=1, y=k)\nreturn f'{k:>{n}} k' + 'k'  # k"
    assert renamed(code, {"k": "size", "n": "m"}) == (
        "m = size.k + f(k=1, y=size)\nreturn f'{size:>{m}} k' + 'k'  # k"
    )


def test_types_of_edges():
    assert as_type([["a", 1]], "list[tuple[str, int]]") == [("a", 1)]
    assert as_type(None, "int | None") is None and as_type([1], "tuple[int, ...]") == (1,)
    assert isinstance(as_type(1, "float"), float)


def test_the_same_seed_gives_the_same_exercise():
    for family in load_families()[::10]:
        try:
            one, two = (finished(family_draft(Random(5), family), Random(5)) for _ in range(2))
        except Dropped:
            continue
        assert one == two and one.family == f"{family.topic}.{family.name}"


def test_at_least_half_of_each_familys_draws_are_accepted():
    poor = {}
    for family in load_families():
        reasons, kept = checked(family, 10)
        if len(kept) < 5:
            poor[family.label] = dict(reasons)
    assert not poor


def test_compositions_are_canonical():
    found = set()
    family = as_family("kitchen", GOOD)
    for number in range(300):
        try:
            found.add(family_draft(Random(number), family).composition)
        except Dropped:
            continue
    assert "kitchen:speed(2)>filter(odd)>family(candles_left)" in found
    assert len(found) <= n_compositions(family) == 3 * 17
    assert {split_of(composition) for composition in found} == {"train", "heldout"}
    assert blocks_of(min(found))[0] == "kitchen"


def test_the_whole_course_has_four_hundred_families_most_of_them_data():
    data = {family.label for family in load_families()}
    drawn = Counter()
    for number in range(1500):
        exercise = candidate(0, number)
        if not isinstance(exercise, str):
            drawn["data" if exercise.family in data else exercise.family] += 1
    assert drawn["data"] > drawn.total() / 2
    assert len(data) + len(drawn) - 1 >= 400


def test_data_are_in_the_package():
    folder = Path(phi1_nb.__file__).parent / "data" / "families"
    assert {path.stem for path in folder.glob("*.yaml")} == {f.topic for f in load_families()}
    assert COURSES["whole"].wide and not COURSES["first"].wide


def test_notes_and_words_may_have_several_wordings():
    fast = {"id": "fast", "code": "3", "words": ["3 units", "three units"]}
    notes = [["No candle is shorter than 0.", "A candle that is used up has length 0."], "Fine."]
    given = GOOD | {"options": GOOD["options"] | {"speed": [2, fast]}, "notes": notes}
    family = as_family("kitchen", given)
    docstrings = [exercise.prompt for exercise in checked(family, 200)[1]]
    for ways in (notes[0], fast["words"]):
        counts = [sum(way in docstring for docstring in docstrings) for way in ways]
        assert min(counts) > 10
        assert not any(all(way in docstring for way in ways) for docstring in docstrings)
    for wrong in ({"notes": [[]]}, {"options": {"speed": [2, fast | {"words": []}]}}):
        with pytest.raises(ValueError, match="write 1 or more|write one text"):
            as_family("kitchen", GOOD | wrong)


def test_sayings_are_many_and_each_says_all():
    for family in load_families():
        wanted = {*family.options, *(argument.key for argument in family.arguments)}
        assert len(set(family.sayings)) >= 20
        for saying in family.sayings:
            found = set(re.findall(r"\{(\w+)\}", saying))
            found |= {place.removesuffix("1") for place in found}
            assert wanted <= found, saying


def test_families_share_hardly_any_words():
    owners = defaultdict(set)
    for family in load_families():
        texts = [*family.sayings, *sum(family.notes, ()), *family.result]
        texts += [text for argument in family.arguments for text in argument.about]
        for values in family.options.values():
            if not isinstance(values, str):
                texts += [way for option in values for way in option.words]
        for part in (part for text in texts for part in re.split(r"\{\w+\}", text)):
            words = re.findall(r"[\w']+", part.lower())
            for i in range(len(words) - 7):
                owners[tuple(words[i : i + 8])].add(family.name)
    shared = sum(len(names) > 1 for names in owners.values())
    assert len(owners) > 50_000 and shared / len(owners) < 0.001
