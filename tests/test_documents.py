"""Packed documents that are kept apart are documents run one by one."""

import pytest
import torch
from test_model import SHAPES, close, small, tokens

from phi1_nb.model import KVCache, Phi, attend_documents, find_documents

END = 299


def rows(seed, n_rows=3, length=150):
    "Rows with separators at random, at both ends, and side by side."
    ids = tokens(n_rows, length, seed=seed, high=END)
    chance = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed))
    ids[chance < 0.03] = END
    ids[0, 0], ids[0, -1], ids[1, 70:73] = END, END, END
    return ids


def pieces(row):
    "The documents of one row, each with its separator."
    cuts = [i + 1 for i, token in enumerate(row.tolist()) if token == END]
    return [part for part in torch.tensor_split(row, cuts) if len(part)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("attention", [None, "sdpa", "eager"])
def test_equal_to_one_by_one(shape, attention):
    plain = small(**SHAPES[shape])
    model = Phi(plain.config, attention).eval()
    model.load_state_dict(plain.state_dict())
    ids = rows(seed=3)
    apart = model(ids, separator=END)
    alone = [torch.cat([model(part[None])[0] for part in pieces(row)]) for row in ids]
    close(apart, torch.stack(alone))
    weight = torch.randn(apart.shape, generator=torch.Generator().manual_seed(0))
    gradients = [
        torch.autograd.grad((out * weight).sum(), list(model.parameters()))
        for out in (apart, torch.stack(alone))
    ]
    for a, b in zip(*gradients, strict=True):
        close(a, b, 1e-5 * float(b.abs().max()) + 1e-5)


@torch.inference_mode()
def test_nothing_crosses_and_positions_restart():
    model, ids = small(), rows(seed=5)
    before = model(ids, separator=END)
    changed = ids.clone()
    changed[1, 70] = 1  # the three separators in the middle of row 1 become one document less
    same = ids.clone()
    same[1, :70] = (same[1, :70] + 1) % END
    assert torch.equal(model(same, separator=END)[1, 71:], before[1, 71:])
    assert torch.equal(model(changed, separator=END)[1, 72:], before[1, 72:])
    twice = torch.cat([ids[:1, :40], torch.tensor([[END]]), ids[:1, :40]], 1)
    out = model(twice, separator=END)[0]
    close(out[:40], out[41:])


def test_default_is_the_papers():
    model, ids = small(), rows(seed=7)
    assert torch.equal(model(ids), model(ids, separator=None))
    no_separator = tokens(3, 150, high=END)
    close(model(no_separator, separator=END), model(no_separator))


def test_training_with_dropout_and_checkpointing():
    plain, saving, ids = small(dropout=0.1), small(dropout=0.1), rows(seed=9)
    saving.checkpointing = True
    losses, gradients = [], []
    for model in (plain.train(), saving.train()):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids, ids, separator=END)
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad for p in model.parameters()])
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_varlen_call(monkeypatch):
    "What a GPU's kernel is given, seen by a stand-in that computes it row by row."
    import sys
    import types

    given = {}

    def varlen(q, k, v, cu_q, cu_k, longest_q, longest_k, dropout_p, causal):
        given.update(locals())
        out = torch.empty_like(q)
        for start, end in zip(cu_q[:-1].tolist(), cu_q[1:].tolist(), strict=True):
            part = (x[start:end].transpose(0, 1)[None] for x in (q, k, v))
            done = torch.nn.functional.scaled_dot_product_attention(*part, is_causal=True)
            out[start:end] = done[0].transpose(0, 1)
        return out

    stand_in = types.SimpleNamespace(flash_attn_varlen_func=varlen)
    monkeypatch.setitem(sys.modules, "flash_attn", stand_in)
    documents = find_documents(rows(seed=11), END)
    q, k, v = torch.randn(3, 3, 2, 150, 16, generator=torch.Generator().manual_seed(0))
    close(
        attend_documents(q, k, v, documents, backend="flash_attn"),
        attend_documents(q, k, v, documents, backend="sdpa"),
    )
    assert given["q"].shape == (450, 2, 16) and given["causal"] and given["dropout_p"] == 0
    assert given["cu_q"].dtype == torch.int32 and given["cu_q"][-1] == 450
    assert given["longest_q"] == max(documents.lengths)


def test_separator_needs_whole_rows():
    model, ids = small(), tokens(1, 9)
    with pytest.raises(ValueError, match="packed rows"):
        model(ids, separator=END, cache=KVCache(model.config, 1, 9))
    with pytest.raises(ValueError, match="packed rows"):
        model(ids, separator=END, attention_mask=torch.ones(1, 9))
