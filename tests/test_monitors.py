"What W&B and DeepSpeed's own CSV get is what `metrics.csv` has, across a stop and a resume."

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_training import run  # noqa: F401

from phi1_nb.logs import monitor_writer
from phi1_nb.runs import write_run
from phi1_nb.training import Stopped, train


def records(path: Path) -> Iterator[bytes]:
    "The records of a W&B file, which is a log of LevelDB's kind: blocks of 32 KiB, pieces in them."
    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        n, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole, at = whole + data[at + 7 : at + 7 + n], at + 7 + n
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield whole
            whole = b""


def watched(run, monitor: str, folder: Path) -> Path:  # noqa: F811
    "A run of six steps, stopped after two and taken up again."
    schedule = replace(run.train, stop_step=6, checkpoint_every=3, monitor=monitor)
    write_run(folder, replace(run, train=schedule))
    calls = iter([False, True])
    with pytest.raises(Stopped):
        train(folder, should_stop=lambda: next(calls))
    return train(folder)


def test_wandb_offline_keeps_all_numbers_in_the_runs_folder(run, tmp_path, monkeypatch):  # noqa: F811
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    folder, losses, names = watched(run, "wandb", tmp_path / "run"), {}, set()
    for path in sorted((folder / "monitor" / "wandb").glob("offline-run-*/*.wandb")):
        for content in records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            if record.WhichOneof("record_type") == "run":
                names.add((record.run.project, record.run.run_group, record.run.run_id))
            items = record.history.item
            row = {item.key or "/".join(item.nested_key): item.value_json for item in items}
            if "train/loss" in row:
                losses[int(row["_step"])] = float(row["train/loss"])
    assert names == {("phi1_nb", "run", (folder / "monitor" / "wandb_id").read_text())}
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["run"]
    log = pd.read_csv(folder / "metrics.csv")
    assert list(losses) == log.step.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(list(losses.values()), log.loss, rtol=1e-5)


def test_deepspeeds_csv_is_always_there_and_has_the_same_losses(run, tmp_path):  # noqa: F811
    folder = watched(run, "csv", tmp_path / "run")
    theirs = {p.stem: pd.read_csv(p) for p in (folder / "monitor" / "run").glob("*.csv")}
    log, val = pd.read_csv(folder / "metrics.csv"), pd.read_csv(folder / "val.csv")
    loss = theirs["train_loss"]
    assert loss.step.tolist() == log.step.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(loss.loss, log.loss, rtol=1e-6)
    np.testing.assert_allclose(theirs["train_val_loss"].val_loss, val.val_loss, rtol=1e-6)
    wanted = {"lr", "grad_norm", "loss_scale", "tokens_per_s", "share_of_peak", "memory_gb"}
    assert {f"train_{name}" for name in wanted} <= {*theirs}


def test_rows_behind_the_checkpoint_leave_deepspeeds_csv(run, tmp_path):  # noqa: F811
    folder = watched(run, "csv", tmp_path / "run")
    path = folder / "monitor" / "run" / "train_loss.csv"
    whole = path.read_text()
    path.write_text(whole + "7,3.25\n8,3.")
    torn = path.with_name("train_lr.csv")
    torn.write_text("st")
    names = monitor_writer("csv", folder, 6).csv_monitor.filenames
    assert "train_loss" in names and "train_lr" not in names and not torn.exists()
    assert path.read_text() == whole.replace("\r\n", "\n")
