"""The whole chain at a tiny size ends in the promised files, and survives the plug being pulled."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import nbformat
import numpy as np
import pandas as pd
import pytest
from papermill.exceptions import PapermillExecutionError
from process_tree import descendants
from tiny_study import tiny

from phi1_nb.config import ARMS
from phi1_nb.core import MissingArtifact, content_digest, file_sha256, read_manifest
from phi1_nb.packing import PackedRows, packing
from phi1_nb.pretrain import pretrain
from phi1_nb.study import study
from phi1_nb.tokenizer import load_tokenizer

SCRIPT = Path(__file__).parent / "tiny_study.py"
STAGES = (
    "01a_quality_filter 01b_synthesis 02_packing 04_pretrain 05_finetune 06_humaneval 09_results"
).split()


def start(home: Path) -> subprocess.Popen:
    environment = {**os.environ, "PHI1_HOME": str(home)}
    log = open(home / "log.txt", "a")
    return subprocess.Popen(
        [sys.executable, SCRIPT], env=environment, stdout=log, stderr=log, start_new_session=True
    )


def finish(home: Path) -> None:
    assert start(home).wait(timeout=400) == 0, (home / "log.txt").read_text()[-3000:]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A finished tiny study, killed on the way: while data is made, and while models are finetuned."
    folder = tmp_path_factory.mktemp("study")
    runs = folder / "runs" / "tiny"
    for pattern in (".01b_synthesis-*", ".05_finetune-*/*/checkpoints/*"):
        process = start(folder)
        deadline = time.time() + 200
        while not list(runs.glob(pattern)) and process.poll() is None:
            assert time.time() < deadline, (folder / "log.txt").read_text()[-3000:]
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finish(folder)
    return folder


def test_every_stage_has_a_manifest(home):
    for stage in STAGES:
        manifest = read_manifest(home / "runs" / "tiny" / stage)
        assert manifest["stage"] == stage
        for field in (
            "config",
            "inputs",
            "git",
            "packages",
            "device",
            "seconds",
            "counts",
            "files",
        ):
            assert field in manifest, (stage, field)
        for name, file in manifest["files"].items():
            assert file_sha256(home / "runs" / "tiny" / stage / name) == file["sha256"]


def test_nothing_half_written_is_left(home):
    assert not list((home / "runs" / "tiny").glob(".*.partial"))
    assert not list((home / "runs" / "tiny").rglob("*.tmp"))


def test_ablation_has_every_arm_seed_and_metric(home):
    table = pd.read_csv(home / "results" / "tiny" / "ablation.csv")
    assert list(table) == "scale,arm,seed,metric,n,value,low,high".split(",")
    metrics = ["heldout_pass@1", "recorded_pass@1", "humaneval_pass@1", "humaneval_bits_per_byte"]
    found = set(zip(table.arm, table.seed, table.metric, strict=True))
    assert found == {(a, s, m) for a in ARMS for s in tiny.seeds for m in metrics}
    assert (table.low <= table.value).all() and (table.value <= table.high).all()
    assert set(table.n[table.metric == "humaneval_pass@1"]) == {164}


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_recorded_data_are_trained_on_once_and_their_held_out_part_is_not(home):
    runs = home / "runs" / "tiny"
    recorded = rows_of(runs / "01b_synthesis" / "recorded_exercises.jsonl")
    own = rows_of(runs / "01b_synthesis" / "exercises.jsonl")
    texts = []
    for name in ("codeexercises.bin", "codeexercises.val.bin"):
        ids = np.fromfile(runs / "02_packing" / name, np.uint16)
        packed = load_tokenizer(runs / "02_packing").decode(ids.tolist())
        texts.append(packed.split("<|endoftext|>")[:-1])
    for row in recorded:
        times = sum(part.count(row["prompt"] + row["solution"]) for part in texts)
        assert times == (row["split"] == "train"), row["entry_point"]
    trained = {row["prompt"] + row["solution"] for row in recorded}
    halves = np.array_split([text in trained for text in texts[0]], 2)
    assert min(half.sum() for half in halves) > 0.25 * sum(half.sum() for half in halves)
    gate = pd.read_csv(runs / "02_packing" / "decontamination.csv")
    checked = gate[gate.reason == "checked"].set_index(["set", "source"]).documents
    n_train = sum(row["split"] == "train" for row in recorded)
    assert checked["codeexercises", "language model"] == n_train
    assert checked["codeexercises", "offline teacher"] == len(own)
    sections = rows_of(runs / "01b_synthesis" / "recorded_textbooks.jsonl")
    assert checked["codetextbook", "language model"] == len(sections)
    told = pd.read_csv(runs / "06_humaneval" / "scores.csv")
    assert set(told.n[told.metric == "recorded_pass@1"]) == {
        min(len(recorded) - n_train, tiny.data.n_heldout)
    }


def test_a_second_run_builds_nothing(home):
    before = {s: (home / "runs/tiny" / s / "manifest.json").stat().st_mtime_ns for s in STAGES}
    finish(home)
    assert before == {
        s: (home / "runs/tiny" / s / "manifest.json").stat().st_mtime_ns for s in STAGES
    }


def test_phi1_pretrain_killed_twice_ends_with_the_weights_of_an_unbroken_run(home, tmp_path):
    "`kill -9` of the command and all of its processes, then the same command again."
    runs, chance = tmp_path / "runs" / "tiny", Random(os.getpid())
    runs.mkdir(parents=True)
    for stage in ("01a_quality_filter", "01b_synthesis", "02_packing"):
        (runs / stage).symlink_to(home / "runs" / "tiny" / stage)

    def begin() -> subprocess.Popen:
        environment = {**os.environ, "PHI1_HOME": str(tmp_path), "PYTHONPATH": str(SCRIPT.parent)}
        code = "import tiny_study; from phi1_nb.pretrain import main; main('tiny')"
        command = [sys.executable, "-c", code]
        log = open(tmp_path / "log.txt", "a")
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def kill(process: subprocess.Popen) -> None:
        for pid in (process.pid, *descendants(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    process, deadline = begin(), time.time() + 100
    try:
        while not list(runs.glob(".04_pretrain-*/*/checkpoints/step-000003")):
            log = (tmp_path / "log.txt").read_text()
            assert process.poll() is None and time.time() < deadline, log
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.5))
    finally:
        kill(process)
    assert not (runs / "04_pretrain").exists(), "it was killed before its end"
    process = begin()
    time.sleep(chance.uniform(4, 8))
    kill(process)
    assert begin().wait(200) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    models = sorted((home / "runs/tiny/04_pretrain").rglob("model.safetensors"))
    assert len(models) == 2 * len(tiny.seeds)
    for path in models:
        again = runs / "04_pretrain" / path.relative_to(home / "runs/tiny/04_pretrain")
        assert file_sha256(again) == file_sha256(path), path.parent.name
    for log in (runs / "04_pretrain").rglob("metrics.csv"):
        assert pd.read_csv(log).step.tolist() == list(range(1, tiny.pretrain.stop_step + 1))


def test_results_point_to_their_artifacts(home):
    manifest = json.loads((home / "results" / "tiny" / "manifest.json").read_text())
    packed = read_manifest(home / "runs" / "tiny" / "02_packing")
    assert manifest["artifacts"]["02_packing"]["content"] == content_digest(packed)


def test_a_missing_upstream_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PHI1_HOME", str(tmp_path))
    with pytest.raises(MissingArtifact, match="papermill nbs/01a_quality_filter.ipynb"):
        pretrain("tiny")
    assert not list(tmp_path.rglob("*.partial"))


def test_a_corrupt_packed_file_is_named(home, tmp_path, monkeypatch):
    runs = tmp_path / "runs" / "tiny"
    subprocess.run(["cp", "-r", home / "runs", tmp_path / "runs"], check=True)
    path = runs / "02_packing" / "raw_code.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    monkeypatch.setenv("PHI1_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="raw_code.bin does not match its manifest: delete"):
        packing("tiny")


def test_a_further_benchmark_is_kept_out_and_is_part_of_the_key(home, tmp_path, monkeypatch):
    subprocess.run(["cp", "-r", home / "runs", tmp_path / "runs"], check=True)
    monkeypatch.setenv("PHI1_HOME", str(tmp_path))
    own = rows_of(tmp_path / "runs/tiny/01b_synthesis/exercises.jsonl")
    row = max(own, key=lambda row: len(row["prompt"]))
    task = {"task_id": 601, "text": row["prompt"], "code": row["prompt"] + row["solution"]}
    (tmp_path / "runs/benchmarks").mkdir()
    (tmp_path / "runs/benchmarks/mbpp.jsonl").write_text(json.dumps(task) + "\n")
    folder = packing("tiny")
    gate = pd.read_csv(folder / "decontamination.csv")
    found = gate[gate.task_id == "mbpp/601"]
    assert set(zip(found["set"], found["source"], strict=True)) >= {
        ("codeexercises", "offline teacher")
    }
    assert list(read_manifest(folder)["config"]["benchmarks"]) == ["mbpp.jsonl"]
    packed = load_tokenizer(folder).decode(
        np.fromfile(folder / "codeexercises.bin", np.uint16).tolist()
    )
    assert row["prompt"] + row["solution"] not in packed


def test_packed_rows_refuse_a_torn_file(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"abc")
    with pytest.raises(ValueError, match="half a token"):
        PackedRows(tmp_path / "x.bin", 8)


def may_mount() -> bool:
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not may_mount(), reason="needs a mount namespace for a small disk of its own")
@pytest.mark.parametrize("module", "quality_filter synthesis packing pretrain humaneval".split())
def test_a_full_disk_is_named_and_costs_nothing(home, tmp_path, module):
    script = SCRIPT.with_name("full_disk.py")
    command = ["unshare", "-rm", sys.executable, script, home, module, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["error"], "the disk was large enough"
    remedy = "free some disk space" if module == "pretrain" else "free some, or set PHI1_HOME"
    assert remedy in seen["error"], seen["error"]
    assert not [name for name in seen["left"] if name.endswith(module)], seen["left"]
    assert seen["then"]


def write_notebook(path: Path, *sources: str) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


def test_every_notebook_is_run_once_and_a_failing_one_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PHI1_HOME", str(tmp_path))
    for name in ("00a_one", "00b_two", "00c_three"):
        write_notebook(tmp_path / "nbs" / f"{name}.ipynb", f"print({name!r})")
    study("nano")
    assert [line[7:] for line in capsys.readouterr().out.splitlines()] == [
        "00a_one: running",
        "00b_two: running",
        "00c_three: running",
    ]
    for name in ("00a_one", "00b_two", "00c_three"):
        (cell,) = nbformat.read(tmp_path / "runs/nano" / f"{name}.ipynb", 4).cells
        assert cell.outputs[0].text == f"{name}\n"
    write_notebook(tmp_path / "nbs" / "00b_two.ipynb", "1 / 0")
    with pytest.raises(PapermillExecutionError, match="division by zero"):
        study("nano")
    assert capsys.readouterr().out.count("up to date") == 2
    assert "ZeroDivisionError" in (tmp_path / "runs/nano/00b_two.ipynb").read_text()
