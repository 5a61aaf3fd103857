"""Folders that others wrote, folders that others read, and the hub."""

import json
import pickle
import shutil

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_model import SHAPES, close, small, tokens

from phi1_nb.codegen import config_from_codegen, from_codegen
from phi1_nb.generation import complete, generate
from phi1_nb.interchange import find_model, load_model, save_model
from phi1_nb.model import KVCache, Phi
from phi1_nb.tokenizer import load_tokenizer, train_tokenizer


def weight_files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "config.json")


@pytest.mark.parametrize("shape", SHAPES)
def test_shards_both_ways(shape, tmp_path):
    from transformers import AutoModelForCausalLM

    ours, ids = small(**SHAPES[shape]), tokens(1, 30)
    save_model(ours, tmp_path, max_shard_gb=1e-4)
    assert len(weight_files(tmp_path)) > 3
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    close(theirs(ids).logits, ours(ids))
    assert torch.equal(Phi.from_pretrained(tmp_path)(ids), ours(ids))
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    assert len(weight_files(tmp_path / "theirs")) > 3
    assert torch.equal(Phi.from_pretrained(tmp_path / "theirs")(ids), ours(ids))


def test_saving_again_leaves_nothing_of_before(tmp_path):
    first, second, ids = small(0), small(1), tokens(1, 9)
    for model, gigabytes in ((first, 1e-4), (second, 5.0), (first, 2e-4), (second, 1e-4)):
        model.save_pretrained(tmp_path, max_shard_gb=gigabytes)
        assert torch.equal(Phi.from_pretrained(tmp_path)(ids), model(ids))
        index = tmp_path / "model.safetensors.index.json"
        listed = {"model.safetensors"}
        if index.exists():
            listed = {index.name, *json.loads(index.read_text())["weight_map"].values()}
        assert set(weight_files(tmp_path)) == listed


def test_pickled_shards(tmp_path):
    model, ids = small(), tokens(1, 9)
    state = load_file(model.save_pretrained(tmp_path) / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(state)
    files = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(files.values()):
        part = {name: tensor.half() for name, tensor in state.items() if files[name] == file}
        torch.save(part, tmp_path / file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    again = Phi.from_pretrained(tmp_path, dtype=torch.float32)
    assert again.lm_head.weight.dtype == torch.float32
    close(again(ids), model(ids), 0.05)
    (tmp_path / files[names[0]]).unlink()
    with pytest.raises(ValueError, match=f"lacks {files[names[0]]}"):
        Phi.from_pretrained(tmp_path)
    index.write_text("{}")
    with pytest.raises(ValueError, match="index.json is damaged"):
        Phi.from_pretrained(tmp_path)


class Trap:
    def __reduce__(self):
        return exec, ("open('sprung', 'w').close()",)


def test_a_pickle_runs_no_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with open(tmp_path / "pytorch_model.bin", "wb") as file:
        pickle.dump({"lm_head.weight": Trap()}, file)
    with pytest.raises(ValueError, match="can't be read"):
        Phi.from_pretrained(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_names_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ValueError, match=r"microsoft/phi-1 is no folder here.*HF_HUB_OFFLINE is set"
    ):
        Phi.from_pretrained("microsoft/phi-1")
    kept = tmp_path / "models--someone--tiny-phi"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text("0" * 40)
    model = small()
    model.save_pretrained(kept / "snapshots" / ("0" * 40))
    ids = tokens(1, 9)
    assert torch.equal(Phi.from_pretrained("someone/tiny-phi")(ids), model(ids))
    for name in ("tiny", "a/b/c", "../tiny", "/absent", "~/x"):
        with pytest.raises(ValueError, match="no such folder"):
            find_model(name)


def test_text_is_the_same_with_auto_classes(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = "def f(x):\n    return x + 1\n\n\n" * 50
    text += "".join(f"value_{i} = other[{i}] * 'naïve {i}'\n" for i in range(200))
    tokenizer = train_tokenizer([text], 420)
    model = small(vocab_size=448)
    folder = model.save_pretrained(tmp_path, tokenizer=tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    auto = AutoTokenizer.from_pretrained(folder)
    prompt = "def f(value):\n    "
    out = theirs.generate(
        **auto(prompt, return_tensors="pt", return_token_type_ids=False),
        max_new_tokens=200,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    ids = load_tokenizer(folder).encode(prompt)
    assert auto(prompt)["input_ids"] == ids
    new = generate(load_model(folder), [ids], max_new_tokens=200)[0]
    assert out[0].tolist() == ids + new
    mine = complete(model, tokenizer, [prompt], max_new_tokens=200, stop=None)[0]
    if tokenizer.eot not in new:
        assert auto.decode(out[0])[len(prompt) :] == mine


CODEGEN = {
    "as codegen-350M-mono": dict(n_embd=128, n_head=4, n_layer=3, rotary_dim=16),
    "all dimensions turn": dict(n_embd=64, n_head=8, n_layer=2, rotary_dim=8),
    "one layer, wide MLP": dict(n_embd=96, n_head=4, n_layer=1, rotary_dim=10, n_inner=500),
}


@pytest.fixture(params=CODEGEN)
def codegen(request):
    from transformers import CodeGenConfig, CodeGenForCausalLM

    torch.manual_seed(0)
    config = CodeGenConfig(vocab_size=300, n_positions=240, n_ctx=240, **CODEGEN[request.param])
    config.initializer_range, config.bos_token_id, config.eos_token_id = 0.1, None, None
    model = CodeGenForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "ln_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@torch.inference_mode()
def test_codegen_equals_transformers(codegen, tmp_path):
    codegen.save_pretrained(tmp_path)
    ours, ids = Phi.from_pretrained(tmp_path), tokens(3, 200)
    close(ours(ids), codegen(ids).logits)
    close(ours.hidden(ids), codegen.transformer(ids).last_hidden_state)
    mask = torch.ones(3, 200, dtype=torch.long)
    mask[1, :77], mask[2, 150:] = 0, 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = codegen(ids, attention_mask=mask, position_ids=positions).logits[mask.bool()]
    close(ours(ids, attention_mask=mask)[mask.bool()], expected)
    cache = KVCache(ours.config, 3, 200)
    close(torch.cat([ours(piece, cache=cache) for piece in ids.split(67, 1)], 1), ours(ids))
    out = codegen.generate(ids[:1, :9], max_new_tokens=200, do_sample=False, pad_token_id=0)
    assert out[0, 9:].tolist() == generate(ours, [ids[0, :9].tolist()], max_new_tokens=200)[0]


def test_codegen_in_its_older_forms(codegen, tmp_path):
    codegen.save_pretrained(tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    state = load_file(tmp_path / "new/model.safetensors")
    (tmp_path / "old/model.safetensors").unlink()
    state |= {"transformer.h.0.attn.causal_mask": torch.ones(1, 1, 9, 9, dtype=torch.bool)}
    torch.save(state, tmp_path / "old/pytorch_model.bin")
    new, ids = Phi.from_pretrained(tmp_path / "new"), tokens(1, 40)
    assert torch.equal(Phi.from_pretrained(tmp_path / "old")(ids), new(ids))
    as_phi = new.save_pretrained(tmp_path / "phi")
    from transformers import AutoModelForCausalLM

    close(AutoModelForCausalLM.from_pretrained(as_phi).eval()(ids).logits, codegen(ids).logits)


def test_codegen_errors(codegen, tmp_path):
    codegen.save_pretrained(tmp_path)
    content = codegen.config.to_dict()
    with pytest.raises(ValueError, match="multiple of 4 heads"):
        config_from_codegen(content | {"n_head": 6})
    with pytest.raises(ValueError, match=r"missing \['rotary_dim'\]"):
        config_from_codegen(content | {"rotary_dim": None})
    with pytest.raises(ValueError, match="what phi-1 has not"):
        config_from_codegen(content | {"activation_function": "relu"})
    state, config = codegen.state_dict(), config_from_codegen(content)
    with pytest.raises(ValueError, match=r"1 weights are not .* lm_head.bias: its shape is None"):
        from_codegen({n: t for n, t in state.items() if n != "lm_head.bias"}, config)
    save_file({n: t[:1].contiguous() for n, t in state.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not as config.json says"):
        Phi.from_pretrained(tmp_path)
