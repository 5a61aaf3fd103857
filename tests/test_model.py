"""The decoder against transformers' PhiForCausalLM, and what users can get wrong."""

import json
import shutil
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from phi1_nb.attention import rotary_table
from phi1_nb.config import ModelConfig
from phi1_nb.generation import complete, generate, pick, steps
from phi1_nb.interchange import config_to_json, to_transformers
from phi1_nb.loss import Head, cross_entropy
from phi1_nb.model import KVCache, Phi, compile_blocks

SHAPES = {
    "phi-1's proportions": dict(d_model=128, n_heads=2, n_layers=2, d_mlp=512, rotary_dim=32),
    "one head": dict(d_model=48, n_heads=1, n_layers=3, d_mlp=96, rotary_dim=24),
    "all dimensions turn": dict(d_model=64, n_heads=4, n_layers=1, d_mlp=100, rotary_dim=16),
    "few dimensions turn": dict(d_model=120, n_heads=3, n_layers=2, d_mlp=40, rotary_dim=10),
}


def small(generator_seed=0, dropout=0.0, **changes):
    shape = SHAPES["phi-1's proportions"] | dict(vocab_size=300, context_length=240) | changes
    rates = dict(attn_dropout=dropout, resid_dropout=dropout)
    config = ModelConfig(**shape, **rates, initializer_range=0.08)
    model = Phi(config, generator=torch.Generator().manual_seed(generator_seed))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    return model.eval()


def tokens(*shape, seed=1, high=300):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=SHAPES)
def pair(request, tmp_path):
    from transformers import AutoModelForCausalLM

    ours = small(**SHAPES[request.param])
    ours.save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(theirs).__name__ == "PhiForCausalLM"
    return ours, theirs.eval()


def close(a, b, tolerance=1e-5):
    difference = float((a - b).detach().abs().max())
    assert difference < tolerance, difference


@torch.inference_mode()
def test_logits_and_padding(pair):
    ours, theirs = pair
    ids = tokens(3, 130)
    close(ours(ids), theirs(ids).logits)
    mask = torch.ones(3, 130, dtype=torch.long)
    mask[0, :50], mask[1, 60:] = 0, 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = theirs(ids, attention_mask=mask, position_ids=positions).logits
    close(ours(ids, attention_mask=mask)[mask.bool()], expected[mask.bool()])


@torch.inference_mode()
def test_cache_step_by_step(pair):
    ours, theirs = pair
    ids = tokens(2, 60)
    cache, theirs_cache = KVCache(ours.config, 2, 60), None
    for piece in ids.split([23, 1, 1, 1, 20, 1, 13], dim=1):
        out = theirs(piece, past_key_values=theirs_cache, use_cache=True)
        theirs_cache = out.past_key_values
        close(ours(piece, cache=cache), out.logits)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [None, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_grow_across_the_pages_of_the_cache(shape, dtype):
    model, each = small(**SHAPES[shape]), torch.arange(5)
    ids, lengths = tokens(5, 200), torch.tensor([1, 62, 63, 64, 128])
    whole, cache = model(ids), KVCache(model.config, 5, 200, torch.empty(0, dtype=dtype))
    model(ids[:, :128], cache=cache, lengths=lengths)
    cache.move([4], [0])
    ids[0], whole[0], lengths[0] = ids[4], whole[4], lengths[4]
    for columns in lengths + torch.arange(70)[:, None]:
        new = model(ids[each, columns][:, None], cache=cache)[:, 0]
        close(new, whole[each, columns], 1e-5 if dtype is None else 2e-2)


def test_a_token_without_probability_is_never_drawn():
    logits = torch.full((4, 300), float("-inf"))
    logits[:, [70, 71, 200]] = torch.tensor([0.0, -50.0, 1.0])
    uniform = torch.tensor([0.0, 0.1, 0.9, 1 - 2**-53], dtype=torch.float64)
    assert pick(logits, 1.0, 1.0, uniform).tolist() == [70, 70, 200, 200]
    assert pick(logits, 1.0, 0.5, uniform).tolist() == [200] * 4


def test_loss_and_gradients(pair):
    ours, theirs = pair
    ids, labels = tokens(2, 131)[:, :-1], tokens(2, 131)[:, 1:].clone()
    labels[0, :17] = -100
    loss = ours(ids, labels)
    expected = cross_entropy(theirs(ids).logits, labels)
    close(loss, expected, 5e-6)
    loss.backward()
    expected.backward()
    ours_gradients = to_transformers({n: p.grad for n, p in ours.named_parameters()})
    for name, parameter in theirs.named_parameters():
        close(ours_gradients[name], parameter.grad, 1e-5)


def test_greedy_text_equals_transformers(pair):
    ours, theirs = pair
    prompts = [tokens(n, seed=n).tolist() for n in (1, 40)]
    new = generate(ours, prompts, max_new_tokens=200)
    for prompt, mine in zip(prompts, new, strict=True):
        out = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=200,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert out[0, len(prompt) :].tolist() == mine


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_sixteen_bits(attention):
    reference = small()
    ids, labels = tokens(4, 150), tokens(4, 150, seed=2)
    reference(ids, labels).backward()
    wanted = torch.cat([p.grad.flatten() for p in reference.parameters()])
    for autocast in (False, True):
        model = Phi(reference.config, attention)
        model.load_state_dict(reference.state_dict())
        model = model if autocast else model.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(ids, labels)
        loss.backward()
        assert loss.dtype == torch.float32
        got = torch.cat([p.grad.float().flatten() for p in model.parameters()])
        assert (got - wanted).norm() < 0.03 * wanted.norm()


def test_dropout_only_in_training_and_seeded():
    model, ids = small(dropout=0.3), tokens(2, 40)
    assert torch.equal(model(ids), model(ids))
    model.train()
    torch.manual_seed(0)
    first = model(ids)
    second = model(ids)
    torch.manual_seed(0)
    assert torch.equal(first, model(ids)) and not torch.equal(first, second)


def test_checkpointing_changes_nothing():
    plain, saving = small(dropout=0.1), small(dropout=0.1)
    saving.checkpointing = True
    ids, gradients = tokens(2, 50), []
    for model in (plain.train(), saving.train()):
        torch.manual_seed(0)
        model(ids, ids).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", ["phi-1's proportions", "few dimensions turn"])
def test_compiled_blocks_are_the_blocks(dtype, shape):
    plain, compiled = small(**SHAPES[shape]).train(), small(**SHAPES[shape]).train()
    compile_blocks(compiled)
    ids, labels = tokens(3, 150), tokens(3, 150, seed=2)
    made = []
    for model in (plain, compiled):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = model(ids, labels)
        loss.backward()
        made.append((loss.detach(), [p.grad for p in model.parameters()]))
    close(made[0][0], made[1][0], 1e-5 if dtype == "fp32" else 2e-3)
    for a, b in zip(made[0][1], made[1][1], strict=True):
        assert (a - b).norm() < (1e-4 if dtype == "fp32" else 0.05) * a.norm() + 1e-6
    cache, mask = KVCache(plain.config, 3, 20), torch.ones(3, 20)
    mask[1, :5] = 0
    for model in (plain, compiled):
        model.eval()
    with torch.inference_mode():
        assert torch.equal(
            plain(ids[:, :20], cache=cache), compiled(ids[:, :20], cache=cache.clear())
        )
        masked = [model(ids[:, :20], attention_mask=mask) for model in (plain, compiled)]
    assert torch.equal(*masked)


@pytest.mark.slow
def test_compiled_dropout_is_seeded_and_independent():
    model, ids = compile_blocks(small(dropout=0.3).train()), tokens(2, 40)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(float(model(ids, ids).detach()))
    assert losses[0] == losses[1] != losses[2]
    block = model.blocks[0]
    for part in (block.attention.dense, block.fc2):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.ones_(part.bias)
    table = rotary_table(40, model.config.rotary_dim, 1e4)
    h = torch.zeros(8, 40, model.config.d_model)
    neither = float((block(h, table) == 0).float().mean())
    assert abs(neither - 0.09) < 0.01, "two masks, not one twice"


def test_training_after_inference_mode():
    model = small()
    with torch.inference_mode():
        model(tokens(1, 71))
    model(tokens(1, 71), tokens(1, 71)).backward()


def test_formats(tmp_path):
    model = small()
    model.save_pretrained(tmp_path / "one")
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    state = load_file(tmp_path / "one/model.safetensors")
    for name in ("bin", "bf16"):
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "one/config.json", tmp_path / name)
    torch.save(state, tmp_path / "bin/pytorch_model.bin")
    save_file({n: t.bfloat16() for n, t in state.items()}, tmp_path / "bf16/model.safetensors")
    ids = tokens(1, 20)
    assert torch.equal(Phi.from_pretrained(tmp_path / "bin")(ids), model(ids))
    assert Phi.from_pretrained(tmp_path / "bf16").lm_head.weight.dtype == torch.bfloat16
    assert Phi.from_pretrained(tmp_path / "bf16", dtype=torch.float32)(ids).dtype == torch.float32
    old = {
        k: v
        for k, v in config_to_json(model.config).items()
        if k not in ("rope_parameters", "dtype")
    }
    (tmp_path / "one/config.json").write_text(json.dumps(old))
    assert Phi.from_pretrained(tmp_path / "one").config == model.config
    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "one").eval()
    close(again(ids).logits, model(ids))


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match="no model folder"):
        Phi.from_pretrained(tmp_path / "absent")
    config = tmp_path / "config.json"
    config.write_text("{torn")
    with pytest.raises(ValueError, match="not JSON"):
        Phi.from_pretrained(tmp_path)
    model = small()
    config.write_text(json.dumps(config_to_json(model.config)))
    with pytest.raises(ValueError, match="no weights"):
        Phi.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    config.write_text(json.dumps(config_to_json(replace(model.config, d_mlp=96))))
    with pytest.raises(ValueError, match=r"another shape.*fc1"):
        Phi.from_pretrained(tmp_path)
    config.write_text(json.dumps(config_to_json(replace(model.config, n_layers=3))))
    with pytest.raises(ValueError, match="missing"):
        Phi.from_pretrained(tmp_path)
    config.write_text(json.dumps(config_to_json(replace(model.config, n_layers=1))))
    with pytest.raises(ValueError, match="unknown"):
        Phi.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="can't be read"):
        Phi.from_pretrained(tmp_path)


def test_bad_input():
    model = small()
    with pytest.raises(ValueError, match="context of 240"):
        model(tokens(1, 241))
    with pytest.raises(ValueError, match="vocabulary has 0 to 299"):
        model(torch.tensor([[3, 300]]))
    with pytest.raises(ValueError, match="vocabulary has 0 to 299"):
        model(torch.tensor([[-1, 3]]))
    with pytest.raises(ValueError, match="no token"):
        model(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="there is no attention backend"):
        Phi(model.config, attention="fast")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="needs a CUDA device"):
            Phi(model.config, attention="flash_attn")
    with pytest.raises(ValueError, match="allocate more"):
        model(tokens(1, 9), cache=KVCache(model.config, 1, 8))
    with torch.no_grad():
        model.lm_head.bias[3] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        generate(model, [[1]], max_new_tokens=2)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_batches_change_nothing(temperature):
    model = small()
    prompts = [tokens(n, seed=n).tolist() for n in (5, 170, 33, 239, 1, 140, 140, 12, 230)]
    how = dict(max_new_tokens=25, temperature=temperature, top_p=0.9, eot=7)
    together = generate(model, prompts, **how)
    assert [len(new) for new in together][3] <= 1
    for batch_size in (1, 2, 4):
        assert generate(model, prompts, batch_size=batch_size, **how) == together
    for n_threads in (2, 3, 20):
        assert generate(model, prompts, n_threads=n_threads, **how) == together
    assert generate(model, prompts[:4], **how) == together[:4]
    assert len({len(new) for new in together}) > 1
    if temperature:
        assert generate(model, prompts, seed=1, **how) != together


def test_threads_end_with_their_generator():
    model, n_cores, n_before = small(), torch.get_num_threads(), threading.active_count()
    prompts = [tokens(9, seed=n).tolist() for n in range(6)]
    told = steps(model, prompts, max_new_tokens=200, eot=7, n_threads=2)
    assert next(told)[0][2]
    told.close()
    assert (threading.active_count(), torch.get_num_threads()) == (n_before, n_cores)
    with torch.no_grad():
        model.lm_head.bias[3] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        generate(model, prompts, n_threads=2)
    assert (threading.active_count(), torch.get_num_threads()) == (n_before, n_cores)
    with pytest.raises(ValueError, match="takes at least 1"):
        generate(model, prompts, n_threads=0)


class Letters:
    "Token i is the character i, 0 ends a text; decoding a halved character gives the usual sign."

    eot = 0

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(i % 256 for i in ids).decode(errors="replace")


def test_stop_strings_in_the_completion_only():
    model, tokenizer = small(vocab_size=256), Letters()
    free = complete(model, tokenizer, ["\ndef f():\n"], max_new_tokens=60, stop=None)[0]
    assert free.ended in ("length", "eot") and len(free) > 10
    for word in (free[5:7], free[9], free[3:8]):
        got = complete(
            model, tokenizer, ["\ndef f():\n"], max_new_tokens=60, stop=["\ndef f", word]
        )[0]
        assert got == free[: free.index(word)] and got.ended == "stop"
        assert got.n_tokens <= len(free[: free.index(word) + len(word)].encode())


def test_generation_keeps_the_mode():
    model = small(dropout=0.5).train()
    new = generate(model, [[1, 2]], max_new_tokens=9)
    assert model.training and new == generate(model.eval(), [[1, 2]], max_new_tokens=9)
    assert generate(model, []) == []


def test_a_loss_is_differentiated_once():
    "Its gradients are handed over, not copied."
    ids = tokens(1, 20)
    loss = small()(ids, ids)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute it anew"):
        loss.backward()


def test_gradients_of_an_output_layer_wider_than_a_part_of_it():
    generator = torch.Generator().manual_seed(0)
    head, x = Head(16, 9000), torch.randn(1, 700, 16, generator=generator).requires_grad_()
    labels = tokens(1, 700, high=9000)
    found = torch.autograd.grad(3 * head(x, labels), [x, head.weight, head.bias])
    expected = torch.autograd.grad(3 * cross_entropy(head(x), labels), [x, head.weight, head.bias])
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
