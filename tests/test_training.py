"Training loses nothing: kill -9, broken checkpoints, several ranks, bad input."

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from phi1_nb.checkpoints import checkpoint_steps
from phi1_nb.config import SCALES, get_scale
from phi1_nb.core import file_sha256
from phi1_nb.engine import (
    build_engine,
    full_weights,
    initial_model,
    parameter_groups,
    start_distributed,
)
from phi1_nb.launch import last_lines, launch, rank_environment
from phi1_nb.model import Phi
from phi1_nb.packing import PackedRows
from phi1_nb.runs import Run, read_run, write_run
from phi1_nb.tokenizer import train_tokenizer
from phi1_nb.training import (
    STOPPED,
    Stopped,
    batch_rows,
    check_run,
    inputs_and_labels,
    learning_rate,
    micro_batches,
    noise_seed,
    separator,
    train,
    update,
    validation_loss,
)

NANO = get_scale("nano")
MODEL = replace(
    NANO.model,
    vocab_size=300,
    d_model=32,
    n_layers=2,
    d_mlp=64,
    rotary_dim=8,
    context_length=32,
    attn_dropout=0.1,
    resid_dropout=0.1,
)
SHORT = replace(
    NANO.pretrain,
    planned_steps=60,
    stop_step=40,
    warmup_steps=3,
    batch_size=8,
    micro_batch_size=4,
    checkpoint_every=5,
)


def without_dropout(run: Run, **train_changes) -> Run:
    model = replace(run.model, attn_dropout=0.0, resid_dropout=0.0)
    return replace(run, model=model, train=replace(run.train, **train_changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("data")
    texts = [f"def add_{i}(x):\n    return x + {i}\n" for i in range(300)]
    tokenizer = train_tokenizer(texts, vocab_size=300)
    tokenizer.save(folder)
    ids = np.concatenate([[*tokenizer.encode(text), tokenizer.eot] for text in texts])
    ids[:4000].astype(np.uint16).tofile(folder / "rows.bin")
    ids[4000:].astype(np.uint16).tofile(folder / "rows.val.bin")
    return Run(MODEL, SHORT, folder / "rows.bin", folder / "rows.val.bin", tokenizer=folder, seed=7)


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory) -> Path:
    return train(write_run(tmp_path_factory.mktemp("unbroken") / "run", run))


def assert_same(folder: Path, unbroken: Path):
    logs = [pd.read_csv(f / "metrics.csv").drop(columns="tokens_per_s") for f in (folder, unbroken)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    assert logs[0].step.tolist() == list(range(1, SHORT.stop_step + 1))
    assert (folder / "val.csv").read_text() == (unbroken / "val.csv").read_text()
    assert file_sha256(folder / "model.safetensors") == file_sha256(unbroken / "model.safetensors")


def start(folder: Path) -> subprocess.Popen:
    environment = rank_environment() | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    log = open(folder / "train.log", "ab")
    command = [sys.executable, "-m", "phi1_nb.training", str(folder)]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def steps_logged(folder: Path) -> int:
    path = folder / "metrics.csv"
    return max(0, path.read_text().count("\n") - 1) if path.exists() else 0


def wait_until(condition, process: subprocess.Popen, seconds: float = 120):
    "False if the process ends first."
    limit = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < limit, "it takes too long"
        time.sleep(0.002)
    return True


def kill_once(folder: Path, moment: str, chance: random.Random):
    "Start training, kill it -9 at `moment`; false if it had ended by then."
    process = start(folder)
    if moment == "start":
        time.sleep(chance.uniform(0, 6))
    elif moment == "step":
        target = steps_logged(folder) + chance.randrange(1, 12)
        wait_until(lambda: steps_logged(folder) >= target, process)
        time.sleep(chance.uniform(0, 0.05))
    else:
        wait_until(lambda: any((folder / "checkpoints").glob(".partial-*")), process)
        time.sleep(chance.uniform(0, 0.01))
    process.kill()
    code = process.wait()
    assert code in (0, -signal.SIGKILL), last_lines(folder / "train.log")
    return code != 0


def test_kill_9_changes_nothing(run, unbroken, tmp_path):
    folder, chance = write_run(tmp_path / "run", run), random.Random(os.getpid())
    killed = [kill_once(folder, moment, chance) for moment in ("step", "checkpoint", "step")]
    assert killed[0]
    assert start(folder).wait(120) == 0, last_lines(folder / "train.log")
    assert_same(folder, unbroken)


@pytest.mark.slow
def test_kill_9_twenty_times(run, unbroken, tmp_path):
    chance, n_killed = random.Random(os.getpid()), 0
    for attempt in range(100):
        folder = write_run(tmp_path / f"run{attempt}", run)
        for moment in ("step", "checkpoint", "start", "checkpoint"):
            n_killed += kill_once(folder, moment, chance)
        assert start(folder).wait(120) == 0, last_lines(folder / "train.log")
        assert_same(folder, unbroken)
        if n_killed >= 20:
            break
    assert n_killed >= 20


def test_a_broken_checkpoint_is_skipped(run, unbroken, tmp_path, capsys):
    folder = write_run(tmp_path / "run", run)
    with pytest.raises(Stopped):
        train(folder, should_stop=lambda: steps_logged(folder) >= 11)
    assert checkpoint_steps(folder) == [12, 10]
    largest = max(
        (folder / "checkpoints" / "step-000012").glob("*.pt"), key=lambda p: p.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    (folder / "checkpoints" / "step-000014").mkdir()
    shutil.copytree(folder / "checkpoints" / "step-000010", folder / "checkpoints" / "step-000013")
    truncated = next((folder / "checkpoints" / "step-000013").glob("*.pt"))
    os.truncate(truncated, truncated.stat().st_size // 2)
    train(folder)
    said = capsys.readouterr().err
    assert said.count("skipping") == 3
    assert all(f"step-0000{step}, which is broken" in said for step in (12, 13, 14))
    assert_losses_same(folder, unbroken)


def assert_losses_same(folder: Path, unbroken: Path):
    "As `assert_same`, but validation may have happened at other steps."
    logs = [pd.read_csv(f / "metrics.csv").drop(columns="tokens_per_s") for f in (folder, unbroken)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)
    assert file_sha256(folder / "model.safetensors") == file_sha256(unbroken / "model.safetensors")


def test_sigterm_makes_a_checkpoint(run, unbroken, tmp_path):
    folder = write_run(tmp_path / "run", run)
    process = start(folder)
    assert wait_until(lambda: steps_logged(folder) >= 2, process)
    process.terminate()
    assert process.wait(60) == STOPPED, last_lines(folder / "train.log")
    assert checkpoint_steps(folder)[0] == steps_logged(folder)
    train(folder)
    assert_losses_same(folder, unbroken)


def test_a_full_disk_leaves_the_last_checkpoint(run, tmp_path, monkeypatch):
    import deepspeed

    folder = write_run(tmp_path / "run", run)
    real = deepspeed.DeepSpeedEngine.save_checkpoint

    def full(self, root, tag, **options):
        if checkpoint_steps(folder):
            (Path(root) / tag).mkdir()
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, root, tag=tag, **options)

    monkeypatch.setattr(deepspeed.DeepSpeedEngine, "save_checkpoint", full)
    with pytest.raises(RuntimeError, match="goes on from step 5"):
        train(folder)
    assert checkpoint_steps(folder) == [5]
    assert not any((folder / "checkpoints").glob(".partial*"))
    monkeypatch.undo()
    assert (train(folder) / "model.safetensors").is_file()


def may_mount() -> bool:
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not may_mount(), reason="needs a mount namespace for a small disk of its own")
def test_a_disk_that_fills_up_in_training_costs_no_step(run, unbroken, tmp_path):
    script = Path(__file__).with_name("full_disk_later.py")
    command = ["unshare", "-rm", sys.executable, script, run.data.parent, tmp_path]
    environment = rank_environment() | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["error"].startswith("RuntimeError: checkpoint "), seen["error"]
    assert "goes on from step 5" in seen["error"] and "free some disk space" in seen["error"]
    assert seen["left"] == ["step-000005"] and seen["steps"] == [5] and seen["rows"] == 10
    assert seen["weights"] == file_sha256(unbroken / "model.safetensors")


def plain_losses(run: Run, n_steps: int) -> tuple[list[float], list[float], dict]:
    "The reference: a loop without engine or accumulation. Losses, gradient norms, weights."
    c, model = run.train, initial_model(run).train()
    rows = PackedRows(run.data, run.model.context_length)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, c.weight_decay), betas=(c.beta1, c.beta2), eps=c.eps
    )
    losses, norms = [], []
    for step in range(1, n_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = np.interp(step, [0, c.warmup_steps, c.planned_steps], [0, c.peak_lr, 0])
        numbers = batch_rows(step, c.batch_size, len(rows), run.seed)
        loss = model(*inputs_and_labels(rows, numbers), separator=separator(run))
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), c.grad_clip)))
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, norms, model.state_dict()


def test_validation_has_the_arithmetic_of_training(run):
    "Not fp32 past the engine's autocast, which takes several times as long."
    start_distributed()
    exact = without_dropout(run, dtype="bf16")
    engine, rows = build_engine(exact), PackedRows(run.val, MODEL.context_length)
    batch = inputs_and_labels(rows, np.linspace(0, len(rows) - 1, 64).astype(int))
    with torch.no_grad():
        full = float(engine.module(*batch))
        with torch.autocast("cpu", torch.bfloat16):
            half = float(engine.module(*batch))
    assert full != half
    assert validation_loss(engine, rows, 64) == pytest.approx(half, abs=1e-7)


@pytest.mark.parametrize("stage, micro", [(0, 8), (1, 8), (1, 2), (2, 4), (3, 8)])
def test_the_engine_is_the_plain_loop(run, stage, micro):
    start_distributed()
    run = without_dropout(run, dtype="fp32", zero_stage=stage, micro_batch_size=micro)
    losses, norms, weights = plain_losses(run, 12)
    engine, rows = build_engine(run), PackedRows(run.data, run.model.context_length)
    made = pd.DataFrame([update(engine, rows, run, step) for step in range(1, 13)])
    np.testing.assert_allclose(made.loss, losses, rtol=2e-5)
    np.testing.assert_allclose(made.grad_norm, norms, rtol=1e-3)
    assert max(norms) > run.train.grad_clip, "clipping must matter"
    ours = full_weights(engine)
    assert set(ours) == set(weights)
    for name, weight in weights.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_documents_kept_apart(run, checkpointing, tmp_path):
    start_distributed()
    run = without_dropout(run, dtype="fp32", activation_checkpointing=checkpointing, stop_step=4)
    apart = without_dropout(run, separate_documents=True)
    losses, norms, _ = plain_losses(apart, 4)
    folder = train(write_run(tmp_path / "run", apart))
    made = pd.read_csv(folder / "metrics.csv")
    np.testing.assert_allclose(made.loss, losses, rtol=2e-5)
    np.testing.assert_allclose(made.grad_norm, norms, rtol=1e-3)
    assert abs(made.loss[0] - plain_losses(run, 1)[0][0]) > 1e-4, "rows hold several documents"
    model, rows = Phi.from_pretrained(folder), PackedRows(run.val, MODEL.context_length)
    batch = inputs_and_labels(rows, np.linspace(0, len(rows) - 1, 64).astype(int))
    with torch.no_grad():
        alone = float(model(*batch, separator=separator(apart)))
    assert pd.read_csv(folder / "val.csv").val_loss.iloc[-1] == pytest.approx(alone, abs=1e-5)
    with pytest.raises(ValueError, match="another run"):
        write_run(folder, run)


@pytest.mark.slow
def test_compiled_training(run, tmp_path):
    run = without_dropout(run, stop_step=6, checkpoint_every=3)
    plain = train(write_run(tmp_path / "plain", run))
    compiled = without_dropout(run, compile=True)
    whole = train(write_run(tmp_path / "whole", compiled))
    folder = write_run(tmp_path / "broken", compiled)
    with pytest.raises(Stopped):
        train(folder, should_stop=lambda: True)
    train(folder)
    assert file_sha256(folder / "model.safetensors") == file_sha256(whole / "model.safetensors")
    losses = [pd.read_csv(f / "metrics.csv").loss for f in (plain, whole)]
    np.testing.assert_allclose(*losses, rtol=5e-3)


@pytest.mark.parametrize(
    "setting", [{"separate_documents": True}, {"activation_checkpointing": True}, {"zero_stage": 3}]
)
def test_compile_says_what_it_cannot_do(run, setting):
    with pytest.raises(ValueError, match=f"compile can't be had with {next(iter(setting))}"):
        check_run(without_dropout(run, compile=True, **setting))


def test_bf16_is_close_and_takes_no_extra_step(run):
    start_distributed()
    run = without_dropout(run, dtype="bf16", zero_stage=1)
    losses, _, _ = plain_losses(run, 12)
    engine, rows = build_engine(run), PackedRows(run.data, run.model.context_length)
    ours = [update(engine, rows, run, step)["loss"] for step in range(1, 13)]
    np.testing.assert_allclose(ours, losses, rtol=5e-3)
    states = engine.optimizer.optimizer.state.values()
    assert {int(state["step"]) for state in states} == {12}


def test_the_schedule_is_linear_and_logged(unbroken):
    log = pd.read_csv(unbroken / "metrics.csv")
    expected = np.interp(log.step, [0, 3, 60], [0, SHORT.peak_lr, 0])
    np.testing.assert_allclose(log.lr, expected, rtol=1e-8)
    assert list(log) == ["step", "tokens", "loss", "lr", "grad_norm", "tokens_per_s"]
    assert (log.tokens == log.step * 8 * 32).all()
    paper = SCALES["phi-1"].pretrain
    steps = [1, 375, 750, 24_000, 36_000]
    at = np.interp(steps, [0, 750, 36_000], [0, 1e-3, 0])
    np.testing.assert_allclose([learning_rate(s, paper) for s in steps], at)


def test_every_row_once_an_epoch_whatever_the_ranks():
    seen = np.concatenate([batch_rows(step, 12, 30, seed=3) for step in range(1, 6)])
    assert sorted(seen[:30]) == sorted(seen[30:]) == list(range(30))
    assert seen[:30].tolist() != seen[30:].tolist()
    batch = batch_rows(4, 12, 30, seed=3)
    for n_ranks in (1, 2, 3):
        cut = [x for rank in range(n_ranks) for x in micro_batches(batch, 2, rank, n_ranks)]
        assert sorted(np.concatenate(cut)) == sorted(batch)
    assert noise_seed(0, 1, 0, 0) != noise_seed(0, 1, 1, 0) != noise_seed(1, 1, 1, 0)


def test_the_best_checkpoint_becomes_the_model(run, tmp_path):
    noise = np.random.default_rng(0).integers(0, 300, 2000).astype(np.uint16)
    noise.tofile(tmp_path / "noise.bin")
    run = replace(run, val=tmp_path / "noise.bin")
    run = without_dropout(run, dtype="fp32", checkpoint_every=10, select="best_val")
    folder = train(write_run(tmp_path / "run", run))
    losses = pd.read_csv(folder / "val.csv")
    assert losses.val_loss.idxmin() == 0, "noise is unlearnable, so the first is the best"
    assert json.loads((folder / "summary.json").read_text())["step"] == 10
    assert checkpoint_steps(folder) == [40, 30, 10]
    model, rows = Phi.from_pretrained(folder), PackedRows(run.val, MODEL.context_length)
    with torch.no_grad():
        loss = float(model(*inputs_and_labels(rows, range(len(rows)))))
    assert loss == pytest.approx(losses.val_loss.min(), abs=1e-5)


def test_two_ranks_are_one(run, tmp_path):
    run = without_dropout(run, dtype="fp32", stop_step=6)
    one = train(write_run(tmp_path / "one", run))
    two = launch(write_run(tmp_path / "two", run), n_ranks=2)
    logs = [pd.read_csv(folder / "metrics.csv") for folder in (one, two)]
    np.testing.assert_allclose(logs[0].loss, logs[1].loss, rtol=1e-5)
    np.testing.assert_allclose(logs[0].grad_norm, logs[1].grad_norm, rtol=1e-4)
    weights = [Phi.from_pretrained(folder).state_dict() for folder in (one, two)]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-4)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int], seconds: float = 20) -> bool:
    limit = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < limit:
        time.sleep(0.1)
    return not any(map(alive, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_training_ends_with_the_notebook(run, tmp_path):
    folder = write_run(tmp_path / "run", without_dropout(run, planned_steps=10**6, stop_step=10**5))
    script = f"from phi1_nb.launch import launch; launch({str(folder)!r}, n_ranks=1)"
    with open(tmp_path / "log", "ab") as log:
        parent = subprocess.Popen([sys.executable, "-c", script], stdout=log, stderr=log)
    assert wait_until(lambda: steps_logged(folder) >= 1, parent), last_lines(tmp_path / "log")
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    assert children
    parent.kill()
    parent.wait()
    assert gone([int(pid) for pid in children])
    assert checkpoint_steps(folder), "it was asked to stop, not killed"


BAD = {
    "make it a multiple of 6": lambda r: without_dropout(r, micro_batch_size=6),
    "make it a multiple of 0": lambda r: without_dropout(r, micro_batch_size=0),
    "choose one of fp16, bf16, fp32": lambda r: without_dropout(r, dtype="float32"),
    "choose zero_stage 1": lambda r: without_dropout(r, zero_stage=0),
    "stop_step 61 must be": lambda r: without_dropout(r, stop_step=61),
    "checkpoint_every 0": lambda r: without_dropout(r, checkpoint_every=0),
    "keep_last 0: choose 1": lambda r: without_dropout(r, keep_last=0),
    "bad_steps 0: choose 1": lambda r: without_dropout(r, bad_steps=0),
    "bad_steps 3 needs zero_stage 1": lambda r: without_dropout(
        r, dtype="fp32", zero_stage=0, bad_steps=3
    ),
    "offload needs zero_stage 1": lambda r: without_dropout(
        r, dtype="fp32", zero_stage=0, offload=True
    ),
    "bad_loss 0: choose a loss above 0": lambda r: without_dropout(r, bad_loss=0),
    "select_problems 0: choose 1": lambda r: without_dropout(r, select_problems=0),
    "choose one of csv, tensorboard": lambda r: without_dropout(r, monitor="mail"),
    "fewer than the 512 of one": lambda r: without_dropout(r, batch_size=512, micro_batch_size=512),
    "choose one of last, best_val": lambda r: without_dropout(r, select="best"),
    "the model's vocab_size is 299": lambda r: replace(r, model=replace(MODEL, vocab_size=299)),
    "fewer than one row": lambda r: replace(r, model=replace(MODEL, context_length=8192)),
    "run 02_packing": lambda r: replace(r, data=Path("nothing.bin")),
    "has no tokenizer.json": lambda r: replace(r, tokenizer=Path("nothing")),
    "has no model.safetensors": lambda r: replace(r, init=Path("nothing")),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_before_any_compute(run, tmp_path, message):
    folder = write_run(tmp_path / "run", BAD[message](run))
    with pytest.raises(ValueError, match=message):
        train(folder)
    assert [path.name for path in folder.iterdir()] == ["run.json"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is fine on CUDA")
def test_fp16_on_a_cpu_is_refused(run):
    with pytest.raises(ValueError, match="choose 'bf16' or 'fp32'"):
        check_run(without_dropout(run, dtype="fp16"))


def test_more_ranks_than_rows_are_refused(run, tmp_path):
    length = run.model.context_length
    np.zeros(6 * length + 1, np.uint16).tofile(tmp_path / "rows.bin")
    few = replace(without_dropout(run, micro_batch_size=1), data=tmp_path / "rows.bin")
    check_run(few, n_ranks=4)
    with pytest.raises(ValueError, match="has 6 rows, fewer than the 8 of .* take fewer ranks"):
        check_run(few, n_ranks=8)


@pytest.mark.parametrize("n_ranks", [3, 16])
def test_a_batch_that_ranks_cannot_share_is_refused(run, n_ranks):
    with pytest.raises(ValueError, match=f"on {n_ranks} ranks: .* multiple of {4 * n_ranks}"):
        check_run(run, n_ranks)


def test_an_unknown_key_is_named_with_those_there_are(run, tmp_path):
    folder = write_run(tmp_path / "run", run)
    content = json.loads((folder / "run.json").read_text())
    content["train"]["learning_rate"] = 0.1
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="setting train.learning_rate: choose of .*peak_lr"):
        train(folder)
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_a_missing_shard_of_initial_weights_is_named(run, unbroken, tmp_path):
    shard = tmp_path / "model"
    shutil.copytree(unbroken, shard, ignore=shutil.ignore_patterns("checkpoints"))
    (shard / "model.safetensors").unlink()
    folder = write_run(tmp_path / "run", replace(run, init=shard))
    with pytest.raises(ValueError, match="has no model.safetensors: train that model first"):
        train(folder)


def test_tokens_outside_the_vocabulary_are_refused(run, tmp_path):
    np.full(100, 65_000, np.uint16).tofile(tmp_path / "rows.bin")
    with pytest.raises(ValueError, match="holds token 65000, the model's vocab_size is 300"):
        check_run(replace(run, data=tmp_path / "rows.bin"))


def test_another_configuration_is_refused(run, unbroken, tmp_path):
    with pytest.raises(ValueError, match="seed: 7 -> 8"):
        write_run(unbroken, replace(run, seed=8))
    folder = write_run(tmp_path / "run", run)
    with pytest.raises(Stopped):
        train(folder, should_stop=lambda: True)
    content = json.loads((folder / "run.json").read_text())
    content["train"]["peak_lr"] = 0.5
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="train.peak_lr: 0.005 -> 0.5"):
        train(folder)


@pytest.mark.parametrize("text", ["{torn", "[]", '{"model": {"depth": 3}}', "{}"])
def test_a_damaged_run_is_refused(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match="is no valid run"):
        read_run(tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(run, tmp_path):
    run = without_dropout(run, dtype="fp32", peak_lr=1e30, grad_clip=1e30, checkpoint_every=1)
    with pytest.raises(FloatingPointError, match="step-00000. is the last good checkpoint"):
        train(write_run(tmp_path / "run", run))
