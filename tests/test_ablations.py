"""Ablations move: laid out here, trained there, scored here; and they survive a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from process_tree import descendants
from tiny_study import tiny

from phi1_nb.ablations import (
    ABLATIONS,
    ablation_runs,
    ablations,
    answer_tests,
    lay_out,
    read_plan,
)
from phi1_nb.core import artifact, read_manifest
from phi1_nb.corpus import Document, ShardWriter
from phi1_nb.effects import publish_ablations
from phi1_nb.elsewhere import bring_home
from phi1_nb.mixtures import SETS
from phi1_nb.packing import FILTERED_OUT
from phi1_nb.recorded import recorded_exercises, recorded_textbooks
from phi1_nb.runs import read_run
from phi1_nb.tokenizer import train_tokenizer

ARMS = ("all", "without execution")
HERE = Path(__file__).parent


def jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    "Folders as 01a, 01b and 02 leave them, of a few documents."
    folder = tmp_path_factory.mktemp("inputs")
    files = sorted(Path(json.__file__).parent.parent.glob("*.py"))[:90]
    for part, reason, some in (("kept", None, files[:60]), ("removed", FILTERED_OUT, files[60:])):
        with ShardWriter(folder / part) as writer:
            for path in some:
                text = path.read_text(encoding="utf-8", errors="replace")
                writer.write(Document(text, path.name, "python", tokens=len(text), reason=reason))
    rows = [row | {"family": "list_int.map.list"} for row in recorded_exercises()]
    renamed = [row | {"prompt": row["prompt"].replace("def ", "def my_")} for row in rows]
    jsonl(folder / "recorded_exercises.jsonl", rows)
    jsonl(folder / "recorded_textbooks.jsonl", recorded_textbooks())
    jsonl(folder / "exercises.jsonl", renamed[:120])
    jsonl(folder / "heldout.jsonl", renamed[120:126])
    section = "# Part {0}\n\nA list keeps {0} values in order. A loop visits each of them once.\n"
    jsonl(folder / "textbooks.jsonl", [{"text": section.format(k) * 4} for k in range(2000)])
    texts = [path.read_text(errors="replace") for path in files[:20]]
    train_tokenizer([*texts, *(row["prompt"] for row in rows)], 1024).save(folder)
    return {"01a": folder, "01b": folder, "02": folder}


@pytest.fixture(scope="module")
def work(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    lay_out(folder, tiny, inputs, ARMS, (0,))
    return folder


def test_sets_of_packed_rows_are_their_parts_and_every_arm_shares_the_rest(work):
    sets = json.loads((work / "data" / "sets.json").read_text())
    assert set(sets) == {"textbooks_with_model", "textbook_test"} | {
        ABLATIONS[arm].exercises for arm in ARMS
    }
    smaller, larger = (work / "data" / f"{ABLATIONS[arm].exercises}.bin" for arm in ARMS)
    assert larger.read_bytes().startswith(smaller.read_bytes())
    assert larger.stat().st_size > smaller.stat().st_size
    for name, found in sets.items():
        assert (work / "data" / f"{name}.bin").stat().st_size == 2 * found["tokens"]
        assert found["parts"] == list(SETS[name])
    gate = pd.read_csv(work / "data" / "decontamination.csv")
    assert {"filtered", "exercises", "model_exercises", "refused"} <= set(gate["set"])


def test_every_path_of_a_run_stays_inside_the_folder(work):
    plan = read_plan(work)
    assert plan["runs"] == list(ablation_runs(tiny, work, ARMS, (0,))) and len(plan["runs"]) == 3
    for name in plan["runs"]:
        run = read_run(work / name)
        for path in (run.data, run.val, run.tokenizer, *([run.init] if run.init else [])):
            assert path.is_relative_to(work.resolve())
    assert not [path for path in work.rglob("*") if path.is_symlink()]


@pytest.fixture(scope="module")
def away(work, tmp_path_factory):
    "A copy of the folder in which all runs were trained and have answered; rows and weights left."
    folder = tmp_path_factory.mktemp("away")
    subprocess.run(f"tar -C {work} -c . | tar -C {folder} -x", shell=True, check=True)
    hidden = work.rename(work.with_name("hidden"))
    names = read_plan(folder)["runs"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    try:
        for name in names:
            command = [sys.executable, "-m", "phi1_nb.training", str(folder / name)]
            subprocess.run(command, env=environment, cwd=folder, check=True, timeout=200)
            answer_tests(folder, name)
    finally:
        hidden.rename(work)
    for path in folder.glob("*/*/model.safetensors"):
        path.unlink()
    return folder


def test_only_what_is_the_same_run_comes_home(work, away, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(work, here)
    shutil.copytree(away, there)
    (there / "data" / "exercises_with_refused.bin").write_bytes(b"other rows")
    runs = sorted(read_plan(here)["runs"])
    assert bring_home(here, there) == [name for name in runs if "without" not in name]
    shutil.rmtree(there / "data")
    assert bring_home(here, there) == ["finetuned/without_execution-seed0"]
    assert bring_home(here, there) == []


def test_the_stage_takes_over_judges_and_ends_as_an_artifact(inputs, away, tmp_path, monkeypatch):
    monkeypatch.setenv("PHI1_HOME", str(tmp_path))
    stages = {"01a": "01a_quality_filter", "01b": "01b_synthesis", "02": "02_packing"}
    made = {}
    for key, stage in stages.items():
        some = "tokenizer*.json" if key == "02" else "*.jsonl" if key == "01b" else "*/*.parquet"

        def make(out, some=some):
            for path in inputs["01a"].glob(some):
                target = out / path.relative_to(inputs["01a"])
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
            return {}

        made[stage.split("_", 1)[1]] = artifact(stage, "tiny", {}, {}, make)
    monkeypatch.setattr("phi1_nb.ablations.upstream", lambda stage, scale: made[stage.__name__])
    call = {"arms": ARMS, "seeds": (0,)}
    laid_out = ablations("tiny", until="data", **call)
    assert laid_out.name.endswith(".partial") and len(read_plan(laid_out)["runs"]) == 3
    folder = ablations("tiny", trained=away, **call)
    assert folder == tmp_path / "runs" / "tiny" / "06o_ablations" and not laid_out.exists()
    assert read_manifest(folder)["counts"] == {"arms": 2, "seeds": 1, "models": 0}
    for name in read_plan(folder)["runs"]:
        done = (folder / name / "summary.json").read_bytes()
        assert done == (away / name / "summary.json").read_bytes(), "it was trained again"

    scores = pd.read_csv(folder / "scores.csv")
    metrics = {"heldout_pass@1", "recorded_pass@1", "humaneval_bits_per_byte", "textbook_loss"}
    for arm in ARMS:
        found = scores[scores.arm == arm]
        assert set(found[found.model == "finetuned"].metric) == metrics and len(found) == 6
    assert ((scores.low <= scores.value) & (scores.value <= scores.high)).all()
    table = publish_ablations(folder, "tiny")
    both = table[(table.model == "pretrained") & (table.arm == "without execution")]
    assert (both.difference == 0).all(), "the arms share their pretrained model"
    assert set(table[table.metric == "recorded_pass@1"].trials) == {tiny.data.n_heldout}
    assert (tmp_path / "results" / "tiny" / "figures" / "data_ablation.png").is_file()
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert ablations("tiny", **call) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_killed_and_started_again_all_arms_end_with_scores(tmp_path):
    "The stage with its real upstream, killed while it packs, trains and judges."
    code = (
        "import tiny_study; from phi1_nb.ablations import ablations; ablations('tiny', seeds=(0,))"
    )
    environment = {**os.environ, "PHI1_HOME": str(tmp_path), "PYTHONPATH": str(HERE)}
    before = "import tiny_study; from phi1_nb.packing import packing; from phi1_nb.synthesis "
    before += "import synthesis; from phi1_nb.quality_filter import quality_filter\n"
    before += "for stage in (quality_filter, synthesis, packing): stage('tiny')"
    subprocess.run([sys.executable, "-c", before], env=environment, check=True, timeout=400)
    runs = tmp_path / "runs" / "tiny"

    def start() -> subprocess.Popen:
        log = open(tmp_path / "log.txt", "a")
        command = [sys.executable, "-c", code]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    partial = ".06o_ablations-*"
    for pattern in ("parts/raw.json", "finetuned/*/checkpoints/*", "finetuned/*/*_verdicts.jsonl"):
        process, deadline = start(), time.time() + 400
        while not list(runs.glob(f"{partial}/{pattern}")) and process.poll() is None:
            assert time.time() < deadline, (tmp_path / "log.txt").read_text()[-3000:]
            time.sleep(0.05)
        for pid in (process.pid, *descendants(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
    assert start().wait(timeout=600) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    folder = runs / "06o_ablations"
    assert read_manifest(folder)["counts"] == {
        "arms": len(ABLATIONS),
        "seeds": 1,
        "models": 6 + len(ABLATIONS),
    }
    scores = pd.read_csv(folder / "scores.csv")
    assert set(scores.arm) == set(ABLATIONS) and len(scores) == 6 * len(ABLATIONS)
    assert not list(runs.glob(".*.partial"))
