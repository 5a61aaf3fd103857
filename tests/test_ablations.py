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

from phi1_nb.ablations import ABLATIONS, ablation_runs, answer_tests, finish, lay_out, read_plan
from phi1_nb.core import read_manifest
from phi1_nb.corpus import Document, ShardWriter
from phi1_nb.effects import effects, problems_won
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


def test_trained_in_a_copy_elsewhere_and_scored_at_home_without_the_weights(work, tmp_path):
    away = tmp_path / "away"
    away.mkdir()
    subprocess.run(f"tar -C {work} -c . | tar -C {away} -x", shell=True, check=True)
    hidden = work.rename(work.with_name("hidden"))
    names = read_plan(away)["runs"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    try:
        for name in names:
            command = [sys.executable, "-m", "phi1_nb.training", str(away / name)]
            subprocess.run(command, env=environment, cwd=tmp_path, check=True, timeout=200)
            answer_tests(away, name)
    finally:
        hidden.rename(work)
    for path in away.glob("*/*/model.safetensors"):
        path.unlink()
    summaries = {name: (away / name / "summary.json").read_bytes() for name in names}

    (away / "data" / "exercises_with_refused.bin").write_bytes(b"other rows")
    assert bring_home(work, away) == [name for name in sorted(names) if "without" not in name]
    shutil.rmtree(away / "data")
    assert bring_home(work, away) == ["finetuned/without_execution-seed0"]

    finish(work)
    assert summaries == {name: (work / name / "summary.json").read_bytes() for name in names}
    scores = pd.read_csv(work / "scores.csv")
    metrics = {"heldout_pass@1", "recorded_pass@1", "humaneval_bits_per_byte", "textbook_loss"}
    for arm in ARMS:
        found = scores[scores.arm == arm]
        assert set(found[found.model == "finetuned"].metric) == metrics and len(found) == 6
    assert ((scores.low <= scores.value) & (scores.value <= scores.high)).all()
    table = effects(scores)
    both = table[(table.model == "pretrained") & (table.arm == "without execution")]
    assert (both.difference == 0).all(), "the arms share their pretrained model"
    won = problems_won(work)
    assert set(won[won.metric == "recorded_pass@1"].trials) == {tiny.data.n_heldout}


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
