"DeepSpeed computes what it should: ranks, stages, accumulation, and four traps that stay closed."

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_training import plain_losses, run, without_dropout  # noqa: F401

from phi1_nb import engine as engine_module
from phi1_nb.engine import build_engine, engine_config, full_weights, start_distributed
from phi1_nb.launch import launch
from phi1_nb.rows import PackedRows
from phi1_nb.runs import write_run
from phi1_nb.training import learning_rate, train, update

STEPS = 50


def exact(run, **changes):  # noqa: F811
    long = dict(dtype="fp32", planned_steps=75, stop_step=STEPS, checkpoint_every=25)
    return without_dropout(run, **(long | changes))


def curve(run, n_steps: int = STEPS):  # noqa: F811
    start_distributed()
    engine, rows = build_engine(run), PackedRows(run.data, run.model.context_length)
    return pd.DataFrame([update(engine, rows, run, step) for step in range(1, n_steps + 1)]), engine


@pytest.fixture(scope="module")
def reference(run):  # noqa: F811
    return plain_losses(exact(run), STEPS)


@pytest.mark.parametrize(
    "changes",
    [
        dict(zero_stage=0, micro_batch_size=8),
        dict(zero_stage=1, micro_batch_size=8),
        dict(zero_stage=1, micro_batch_size=2),
        dict(zero_stage=2, micro_batch_size=8),
        dict(zero_stage=3, micro_batch_size=8),
        dict(zero_stage=1, micro_batch_size=8, offload=True),
        dict(zero_stage=1, micro_batch_size=8, activation_checkpointing=True),
    ],
    ids=str,
)
def test_fifty_steps_are_the_plain_loops(run, reference, changes):  # noqa: F811
    losses, norms, _ = reference
    made, _ = curve(exact(run, **changes))
    np.testing.assert_allclose(made.loss, losses, rtol=1e-4)
    np.testing.assert_allclose(made.grad_norm, norms, rtol=5e-3)
    assert losses[-1] < losses[0] / 2, "something was learnt"


def test_checkpointing_changes_no_bit_with_dropout(run):  # noqa: F811
    with_noise = replace(run, train=exact(run).train)
    again = replace(with_noise, train=replace(with_noise.train, activation_checkpointing=True))
    one, other = (curve(r, 5)[0].loss.tolist() for r in (with_noise, again))
    assert one == other


def test_two_ranks_fifty_steps_and_the_published_weights(run, reference, tmp_path):  # noqa: F811
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    folder = launch(write_run(tmp_path / "two", exact(run)), n_ranks=2)
    log = pd.read_csv(folder / "metrics.csv")
    np.testing.assert_allclose(log.loss, reference[0], rtol=1e-4)
    published = state_of(folder)
    raw = get_fp32_state_dict_from_zero_checkpoint(
        str(folder / "checkpoints"), tag=f"step-{STEPS:06d}"
    )
    for name, weight in published.items():
        assert torch.equal(raw[name], weight), name


def state_of(folder) -> dict:
    from phi1_nb.model import Phi

    assert load_file(folder / "model.safetensors")
    return Phi.from_pretrained(folder).state_dict()


# The four traps. Each test fails if the engine is set up in the way that springs the trap.


def test_trap_stage_0_in_16_bits_takes_an_extra_step(run):  # noqa: F811
    with pytest.raises(ValueError, match="choose zero_stage 1"):
        engine_config(without_dropout(run, dtype="bf16", zero_stage=0).train, 1)
    _, engine = curve(exact(run, dtype="bf16", zero_stage=1), 7)
    assert {int(s["step"]) for s in engine.optimizer.optimizer.state.values()} == {7}


def test_trap_fp16_clips_unscaled_gradients(run, monkeypatch):  # noqa: F811
    from deepspeed.accelerator import get_accelerator

    monkeypatch.setattr(engine_module, "fp16_is_possible", lambda: True)
    monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)
    half = exact(run, dtype="fp16", zero_stage=1, micro_batch_size=8)
    made = engine_config(half.train, 1)
    assert "torch_autocast" not in made and made["fp16"]["enabled"]
    losses, norms, _ = plain_losses(half, 6)
    ours, engine = curve(half, 6)
    assert engine.optimizer.loss_scale > 1 and max(norms) > half.train.grad_clip
    np.testing.assert_allclose(ours.loss, losses, rtol=5e-3)
    np.testing.assert_allclose(ours.grad_norm, norms, rtol=3e-2)


def test_trap_the_schedule_is_linear_from_the_first_step(run):  # noqa: F811
    short = exact(run)
    start_distributed()
    engine, rows = build_engine(short), PackedRows(short.data, short.model.context_length)
    seen, before = [], full_weights(engine)
    for step in range(1, 7):
        update(engine, rows, short, step)
        seen.append(engine.optimizer.param_groups[0]["lr"])
        if step == 1:
            after = full_weights(engine)
            moved = max(float((after[k] - before[k]).abs().max()) for k in after)
            assert moved == pytest.approx(learning_rate(1, short.train), rel=0.1)
    np.testing.assert_allclose(
        seen, np.interp(range(1, 7), [0, 3, 75], [0, short.train.peak_lr, 0])
    )
    assert engine.lr_scheduler is None


def test_trap_dropout_goes_on_after_a_resume(run, tmp_path):  # noqa: F811
    from phi1_nb.training import Stopped

    noisy = replace(run, train=replace(exact(run).train, stop_step=8, checkpoint_every=4))
    assert noisy.model.resid_dropout > 0 and noisy.model.attn_dropout > 0
    whole = train(write_run(tmp_path / "whole", noisy))
    folder, calls = write_run(tmp_path / "run", noisy), iter([False, False, True])
    with pytest.raises(Stopped):
        train(folder, should_stop=lambda: next(calls))
    torch.manual_seed(12345)
    train(folder)
    logs = [pd.read_csv(path / "metrics.csv").loss.tolist() for path in (whole, folder)]
    assert logs[0] == logs[1] and not any(math.isnan(loss) for loss in logs[0])
