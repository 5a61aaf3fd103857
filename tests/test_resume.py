"Nothing is lost: full disks, bad steps, milestones, other numbers of ranks, new observers."

import json
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file
from test_training import SHORT, run, start, steps_logged, wait_until, without_dropout  # noqa: F401

from phi1_nb.checkpoints import checkpoint_steps, kept_steps
from phi1_nb.core import file_sha256
from phi1_nb.launch import last_lines, launch, rank_environment
from phi1_nb.runs import Run, read_run, write_run
from phi1_nb.training import Stopped, train


@pytest.fixture
def small(run) -> Run:  # noqa: F811
    return replace(run, train=replace(run.train, stop_step=12, checkpoint_every=4))


def test_the_last_and_the_milestones_stay(small, tmp_path):
    kept = replace(small, train=replace(small.train, checkpoint_every=2, milestone_every=6))
    kept = replace(kept, train=replace(kept.train, keep_last=1))
    folder = train(write_run(tmp_path / "run", kept))
    assert checkpoint_steps(folder) == [12, 6]
    assert kept_steps([2, 4, 6, 8], 2, 4, best=2) == {2, 4, 6, 8}
    assert kept_steps([2, 4, 6, 8], 1, 0, best=4) == {4, 8}


@pytest.mark.skipif(sys.platform != "linux", reason="limits are enforced as on Linux")
def test_a_real_write_error_stops_the_run_and_keeps_the_last_checkpoint(small, tmp_path):
    "The system refuses to let files grow: the same error path as a full disk, without one."
    folder = write_run(tmp_path / "run", small)
    with pytest.raises(Stopped):
        train(folder, should_stop=lambda: steps_logged(folder) >= 5)
    assert checkpoint_steps(folder) == [6, 4]
    largest = max(p.stat().st_size for p in (folder / "checkpoints").rglob("*.pt"))

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))

    command = [sys.executable, "-m", "phi1_nb.training", str(folder)]
    failed = subprocess.run(
        command, preexec_fn=limit, capture_output=True, text=True, env=rank_environment()
    )
    assert failed.returncode == 1
    assert "free some disk space" in failed.stderr and "goes on from step 6" in failed.stderr
    assert checkpoint_steps(folder) == [6, 4]
    assert not any((folder / "checkpoints").glob(".partial*"))
    train(folder)
    whole = train(write_run(tmp_path / "whole", small))
    assert file_sha256(folder / "model.safetensors") == file_sha256(whole / "model.safetensors")


def mad(run: Run, **changes) -> Run:  # noqa: F811
    return without_dropout(run, dtype="fp32", peak_lr=1e30, grad_clip=1e30, **changes)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_bad_steps_change_no_weight_and_stop_the_run_in_the_end(small, tmp_path, stage, capsys):
    patient = mad(small, zero_stage=stage, bad_steps=5, checkpoint_every=1)
    folder = write_run(tmp_path / "run", patient)
    with pytest.raises(FloatingPointError, match="step-00000. is the last good checkpoint"):
        train(folder)
    log = pd.read_csv(folder / "machine_metrics.csv")
    bad = (pd.read_csv(folder / "metrics.csv").loss.isna()).to_numpy()
    assert bad[-1] and log.skipped[bad].all(), "an update with such gradients is never made"
    assert capsys.readouterr().err.count("is bad") >= 4
    assert max(checkpoint_steps(folder)) <= len(log) - 5, "no checkpoint of a bad step"


def test_bad_steps_can_be_logged_and_skipped(small, tmp_path):
    folder = train(write_run(tmp_path / "run", mad(small, bad_steps=None)))
    assert len(pd.read_csv(folder / "metrics.csv")) == 12
    weights = load_file(folder / "model.safetensors")
    assert all(np.isfinite(w.numpy()).all() for w in weights.values())


@pytest.mark.parametrize("dtype, stage", [("fp32", 1), ("bf16", 2), ("fp32", 3)])
def test_a_batch_whose_loss_explodes_is_never_learnt_from(small, tmp_path, dtype, stage):
    "Each loss is finite and above the limit: the weights at the end are the initial ones."
    from phi1_nb.engine import initial_model

    strict = without_dropout(small, dtype=dtype, zero_stage=stage, bad_loss=1.0, bad_steps=None)
    folder = train(write_run(tmp_path / "run", strict))
    log = pd.read_csv(folder / "metrics.csv")
    assert np.isfinite(log.loss).all() and (log.loss > 1).all()
    assert pd.read_csv(folder / "machine_metrics.csv").skipped.all()
    made, first = load_file(folder / "model.safetensors"), initial_model(strict)
    first.save_pretrained(tmp_path / "first")
    for name, weight in load_file(tmp_path / "first" / "model.safetensors").items():
        np.testing.assert_array_equal(made[name].numpy(), weight.numpy(), err_msg=name)


def test_an_exploding_run_stops_and_names_the_last_good_checkpoint(small, tmp_path, capsys):
    "The rate is far too high: the loss falls, then it is above the limit for good."
    wild = without_dropout(small, dtype="fp32", peak_lr=3.0, bad_loss=8.0, bad_steps=2)
    wild = replace(wild, train=replace(wild.train, checkpoint_every=1, warmup_steps=5))
    with pytest.raises(FloatingPointError, match="above 8 .step-00000. is the last good") as stop:
        train(write_run(tmp_path / "run", wild))
    assert "lower peak_lr, or allow more bad_steps" in str(stop.value)
    assert capsys.readouterr().err.count("is bad") == 1, "the second one is the error"
    log = pd.read_csv(tmp_path / "run" / "metrics.csv").loss
    assert np.isfinite(log).all() and (log[-2:] > 8).all() and (log[:-2] <= 8).all()


def test_what_does_not_change_the_result_may_change_between_stop_and_start(small, tmp_path):
    folder = write_run(tmp_path / "run", small)
    with pytest.raises(Stopped):
        train(folder, should_stop=lambda: steps_logged(folder) >= 5)
    other = replace(small, train=replace(small.train, keep_last=3, milestone_every=4))
    train(write_run(folder, other))
    assert read_run(folder).train.keep_last == 3
    assert checkpoint_steps(folder) == [12, 8, 6, 4]


def test_tensorboard_gets_the_numbers_of_the_csv(small, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watched = replace(small, train=replace(small.train, monitor="tensorboard"))
    folder = train(write_run(tmp_path / "run", watched))
    events = EventAccumulator(str(next((folder / "monitor").rglob("events*")).parent)).Reload()
    log = pd.read_csv(folder / "metrics.csv")
    shown = [event.value for event in events.Scalars("train/loss")]
    np.testing.assert_allclose(shown, log.loss, rtol=1e-5)
    wanted = {"lr", "grad_norm", "loss_scale", "tokens_per_s", "share_of_peak", "memory_gb"}
    assert {f"train/{name}" for name in wanted | {"val_loss"}} <= {*events.Tags()["scalars"]}


def test_a_monitor_without_its_package_is_refused(small, tmp_path, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    watched = replace(small, train=replace(small.train, monitor="wandb"))
    with pytest.raises(ValueError, match="pip install wandb"):
        train(write_run(tmp_path / "run", watched))


def curves(*folders: Path) -> list[pd.DataFrame]:
    return [pd.read_csv(f / "metrics.csv")[["step", "loss", "grad_norm"]] for f in folders]


@pytest.mark.parametrize(
    "stage, ranks", [(1, (2, 1)), pytest.param(2, (1, 2), marks=pytest.mark.slow)]
)
def test_another_number_of_ranks_goes_on(small, tmp_path, stage, ranks):
    "With dropout: the noise belongs to a piece of the batch, not to a rank."
    before, after = ranks
    exact = replace(small, train=replace(small.train, dtype="fp32", zero_stage=stage))
    whole = train(write_run(tmp_path / "whole", exact))
    folder = write_run(tmp_path / "run", exact)
    half = replace(exact, train=replace(exact.train, stop_step=4))
    write_half = write_run(tmp_path / "half", half)
    launch(write_half, n_ranks=before)
    (write_half / "checkpoints").rename(folder / "checkpoints")
    (write_half / "metrics.csv").rename(folder / "metrics.csv")
    adopt(folder, exact)
    launch(folder, n_ranks=after)
    for name, rtol in (("loss", 1e-5), ("grad_norm", 1e-3)):
        one, other = (curve[name] for curve in curves(whole, folder))
        np.testing.assert_allclose(one, other, rtol=rtol)
    assert not any((folder / "checkpoints").glob(".universal*"))


def adopt(folder: Path, run: Run) -> None:  # noqa: F811
    "Let the checkpoints of a run with an earlier stop step be those of `run`."
    from phi1_nb.runs import identity

    for path in (folder / "checkpoints").glob("step-*/state.json"):
        state = json.loads(path.read_text())
        path.write_text(json.dumps(state | {"identity": identity(run)}))


@pytest.mark.slow
def test_the_metrics_of_a_preempted_run_have_each_step_once(small, tmp_path):
    long = replace(small, train=replace(SHORT, stop_step=40, checkpoint_every=10))
    folder = write_run(tmp_path / "run", long)
    process = start(folder)
    assert wait_until(lambda: steps_logged(folder) >= 3, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 75, last_lines(folder / "train.log")
    train(folder)
    for name in ("metrics", "machine_metrics"):
        steps = pd.read_csv(folder / f"{name}.csv").step
        assert steps.tolist() == list(range(1, 41))
