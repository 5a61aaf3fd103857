"""The real flash-attn behind our calls: on a GPU, or on a CPU through its Triton backend.

`make test-flash` runs this file on a CPU: Triton's interpreter takes the kernels one operation at
a time, so shapes are small, and the operators, registered for CUDA alone, are registered here too.
"""

import importlib.util
import os

import pytest
import torch
from test_documents import END, rows
from test_model import small, tokens

import phi1_nb.model
from phi1_nb.model import Phi, attend, attend_documents, find_documents

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
DTYPES = [torch.float16, torch.bfloat16] if ON_GPU else [torch.float32, torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        importlib.util.find_spec("flash_attn") is None
        or not (ON_GPU or os.environ.get("TRITON_INTERPRET") == "1"),
        reason="flash-attn and a GPU, or `make test-flash`",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def operators():
    if ON_GPU:
        return
    import flash_attn.flash_attn_interface as interface

    for name in ("forward", "backward", "varlen_forward", "varlen_backward"):
        function = getattr(interface, f"_flash_attn_{name}")._init_fn
        torch.library.register_kernel(f"flash_attn::_flash_attn_{name}", "cpu", function)


def heads(dtype, n_rows=2, n_heads=2, length=70, width=64):
    generator = torch.Generator().manual_seed(0)
    q, k, v, g = torch.randn(4, n_rows, n_heads, length, width, generator=generator)
    return [x.to(DEVICE, dtype).requires_grad_() for x in (q, k, v)], g.to(DEVICE, dtype)


def outputs(attention, inputs, gradient):
    out = attention(*inputs)
    return [out, *torch.autograd.grad(out, inputs, gradient)]


def compare(ours, expected, dtype):
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == dtype and a.shape == b.shape
        assert float((a.float() - b.float()).detach().abs().max()) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 64, 70])
def test_whole_rows(dtype, length):
    inputs, gradient = heads(dtype, length=length)
    exact = [x.detach().float().requires_grad_() for x in inputs]
    ours = outputs(lambda *x: attend(*x, backend="flash_attn"), inputs, gradient)
    compare(ours, outputs(lambda *x: attend(*x, backend="sdpa"), exact, gradient.float()), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_documents(dtype):
    documents = find_documents(rows(seed=2, n_rows=2, length=100)[:, :100].to(DEVICE), END)
    inputs, gradient = heads(dtype, length=100)
    exact = [x.detach().float().requires_grad_() for x in inputs]
    ours, expected = (
        outputs(lambda *x, b=backend: attend_documents(*x, documents, backend=b), x, g)
        for backend, x, g in (
            ("flash_attn", inputs, gradient),
            ("sdpa", exact, gradient.float()),
        )
    )
    compare(ours, expected, dtype)


@pytest.mark.parametrize("separator", [None, END])
def test_model(separator, monkeypatch):
    if not ON_GPU:
        monkeypatch.setattr(phi1_nb.model, "check_backend", lambda name: name)
    plain = small(d_model=64, n_heads=1, n_layers=2, d_mlp=128)
    model = Phi(plain.config, attention="flash_attn").eval().to(DEVICE)
    model.load_state_dict(plain.state_dict())
    ids = rows(seed=4, n_rows=2, length=75).to(DEVICE)
    plain.to(DEVICE)
    dtype = torch.float16 if ON_GPU else torch.float32
    losses, gradients = [], []
    for each in (plain, model):
        with torch.autocast(DEVICE, torch.float16, enabled=ON_GPU):
            loss = each(ids, ids, separator=separator)
        losses.append(loss.item())
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in each.parameters()]))
    assert abs(losses[0] - losses[1]) < TOLERANCE[dtype]
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert difference < (2e-2 if ON_GPU else 1e-5)


@pytest.mark.skipif(not ON_GPU, reason="a GPU")
def test_greedy_text_on_a_gpu():
    from phi1_nb.generation import generate

    model = small()
    prompts = [tokens(n, seed=n).tolist() for n in (5, 90, 33)]
    on_cpu = generate(model, prompts, max_new_tokens=40)
    assert generate(model.cuda(), prompts, max_new_tokens=40) == on_cpu
