"""The C++ attention and oneDNN's products in compiled models; what can go wrong with a compiler."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from phi1_nb import attention, kernel, linear
from phi1_nb.config import SCALES
from phi1_nb.model import Phi, compile_blocks

CONFIG = replace(SCALES["nano"].model, n_layers=2, vocab_size=300)


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch._dynamo.reset()  # a function is compiled for so many models and no more


def pair() -> tuple[Phi, Phi]:
    models = [Phi(CONFIG, generator=torch.Generator().manual_seed(1)).train() for _ in range(2)]
    return models[0], compile_blocks(models[1])


def gradients(model: Phi, ids: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    loss = model(ids, labels)
    return [loss, *torch.autograd.grad(loss, list(model.parameters()))]


def test_a_compiled_model_takes_kernel_and_products_and_equals_the_plain_one(monkeypatch):
    calls = []
    call = kernel._call
    monkeypatch.setattr(kernel, "_call", lambda name, *t: (calls.append(name), call(name, *t)))
    monkeypatch.setattr(
        torch.backends.mkldnn, "is_available", lambda: calls.append("product") or True
    )
    plain, compiled = pair()
    ids, labels = torch.randint(CONFIG.vocab_size, (2, 3, 96)).unbind(0)
    labels[0, :50] = -100
    expected, found = gradients(plain, ids, labels), gradients(compiled, ids, labels)
    assert [c for c in calls if c != "product"] == ["forward"] * 2 + ["backward"] * 2
    assert calls.count("product") >= 2 * 4 * 3  # layers, linear layers in each, products of each
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * a.detach().abs().max().item() + 1e-7)


@pytest.mark.parametrize("length, dropout", [(95, 0.0), (96, 0.1)])
def test_other_lengths_and_dropout_go_the_other_way(length, dropout, monkeypatch):
    monkeypatch.setattr(kernel, "_call", lambda *_: pytest.fail("the kernel was called"))
    model = compile_blocks(Phi(replace(CONFIG, attn_dropout=dropout)).train())
    ids = torch.randint(CONFIG.vocab_size, (2, length))
    assert torch.isfinite(model(ids, ids))


def test_bf16_goes_the_other_way(monkeypatch):
    monkeypatch.setattr(kernel, "_call", lambda *_: pytest.fail("the kernel was called"))
    model, ids = compile_blocks(Phi(CONFIG).train()), torch.randint(CONFIG.vocab_size, (2, 64))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model(ids, ids))


def test_a_compiled_model_with_a_nan_has_a_nan_loss():
    model, ids = compile_blocks(Phi(CONFIG).train()), torch.randint(CONFIG.vocab_size, (2, 64))
    with torch.no_grad():
        model.blocks[1].attention.qkv.weight[5, 7] = float("nan")  # of the queries
    assert model(ids, ids).isnan()


def test_one_and_two_threads_give_the_same_bits():
    q, k, v = torch.randn(3, 6, 128, 64)
    found, threads = [], torch.get_num_threads()
    for n in (1, 2):
        torch.set_num_threads(n)
        found.append(kernel.attend_in_cache(q, k, v)[0])
    torch.set_num_threads(threads)
    assert torch.equal(*found)


@pytest.mark.parametrize("n, width, out", [(1, 1, 1), (7, 5, 300), (64, 300, 5)])
def test_outer_is_the_product_for_any_shape(n, width, out):
    x, y = torch.randn(n, width), torch.randn(n, out)
    assert torch.allclose(linear.outer(y, x), y.t() @ x, atol=1e-4)


def run_kernel(folder, **environment) -> subprocess.CompletedProcess:
    code = "import torch; from phi1_nb.kernel import attend_in_cache as a; "
    code += "x = torch.ones(1, 32, 32); print(float(a(x, x, x)[0].sum()))"
    command = [sys.executable, "-c", code]
    variables = os.environ | {"PHI1_NB_KERNELS": str(folder)} | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True)


def test_the_library_is_made_once_and_ranks_that_make_it_together_agree(tmp_path):
    code = "from pathlib import Path; import sys; from phi1_nb import kernel; kernel._library()"
    variables = os.environ | {"PHI1_NB_KERNELS": str(tmp_path)}
    ranks = [subprocess.Popen([sys.executable, "-c", code], env=variables) for _ in range(3)]
    assert [rank.wait() for rank in ranks] == [0, 0, 0]
    (made,) = tmp_path.iterdir()
    changed = made.stat().st_mtime_ns
    assert float(run_kernel(tmp_path).stdout) == 32 * 32
    assert made.stat().st_mtime_ns == changed


def test_a_compiler_that_fails_is_named(tmp_path):
    done = run_kernel(tmp_path, CXX="false")
    assert "false can't compile the attention kernel" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_missing_compiler_is_named(tmp_path):
    done = run_kernel(tmp_path, CXX="no-such-compiler")
    assert "there is no compiler no-such-compiler" in done.stderr


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = run_kernel(tmp_path / "file" / "kernels")
    assert "set PHI1_NB_KERNELS" in done.stderr


def test_processors_without_avx512_have_smaller_tiles(tmp_path, monkeypatch):
    flags = tuple("-march=haswell" if f == "-march=native" else f for f in kernel._FLAGS)
    monkeypatch.setattr(kernel, "_FLAGS", flags)
    monkeypatch.setenv("PHI1_NB_KERNELS", str(tmp_path))
    library = kernel._library.__wrapped__()
    q, k, v, g = torch.randn(4, 3, 160, 64)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    expected = [kernel.attend_in_cache(*inputs)[0]]
    expected += torch.autograd.grad(expected[0], inputs, g)
    monkeypatch.setattr(kernel, "_library", lambda: library)
    found = [kernel.attend_in_cache(*inputs)[0]]
    found += torch.autograd.grad(found[0], inputs, g)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(expected, found, strict=True))


def test_both_ways_of_attention_are_the_same_sums():
    q, k, v = torch.randn(3, 2, 3, 64, 32)
    parts = [x.flatten(0, 1) for x in (q, k, v)]
    ours = kernel.attend_in_cache(*parts)[0].view(q.shape)
    assert torch.allclose(ours, attention.attend(q, k, v, backend="eager"), atol=1e-5)
