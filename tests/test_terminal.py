"""`phi1_generate` in a terminal, in a pipe, and with what users get wrong."""

import io
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_model import Letters, small

from phi1_nb.generation import complete, generate
from phi1_nb.precision import with_weights
from phi1_nb.terminal import Painter, show, stream
from phi1_nb.tokenizer import load_tokenizer, train_tokenizer

COMMAND = Path(sys.executable).parent / "phi1_generate"
PROMPT = 'def is_prime(n: int) -> bool:\n    """Whether n is prime."""\n'
HOW = ("--max_new_tokens", "60", "--n", "2", "--temperature", "0.8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    text = "".join(f"def f_{i}(x):\n    return x + {i}  # naïve\n\n\n" for i in range(200))
    model = small(vocab_size=400)
    return model.save_pretrained(path, tokenizer=train_tokenizer([text], 380))


def run(*arguments):
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, timeout=120)


def in_a_terminal(*arguments):
    "What the command writes to a terminal, and in how many pieces."
    master, slave = pty.openpty()
    process = subprocess.Popen([COMMAND, *map(str, arguments)], stdout=slave, stderr=slave)
    os.close(slave)
    pieces = []
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(master)
    assert process.wait(timeout=60) == 0
    return b"".join(pieces).decode(errors="replace").replace("\r\n", "\n"), len(pieces)


def test_terminal_and_pipe_show_the_same_text(folder):
    piped = run(PROMPT.replace("\n", "\\n"), "--model", folder, *HOW)
    assert piped.returncode == 0, piped.stderr.decode()
    plain = piped.stdout.decode()
    assert "\x1b" not in plain
    samples = complete(
        *(small(vocab_size=400), load_tokenizer(folder), [PROMPT] * 2), 60, temperature=0.8
    )
    assert plain == "\n\n".join(PROMPT + text for text in samples) + "\n"
    shown, n_pieces = in_a_terminal(PROMPT, "--model", folder, *HOW)
    assert n_pieces > 5 and "\x1b[" in shown
    uncoloured = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    keep = str.maketrans("", "", "".join(map(chr, [*range(9), *range(11, 32), 127])))
    assert uncoloured.translate(keep) == plain.replace("\r\n", "\n").translate(keep)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["", "--model", "FOLDER"], "prompt 0 is empty"),
        (["x", "--model", "FOLDER", "--n", "2"], "give --temperature 0.8"),
        (["x", "--model", "FOLDER", "--n", "0"], "at least 1"),
        (["x", "--model", "FOLDER", "--temperature", "-1"], "temperature is -1"),
        (["x", "--model", "FOLDER", "--max_new_tokens", "0"], "max_new_tokens is 0"),
        (["x"], "give --model"),
        (["x", "--model", "/absent"], "no such folder"),
        (["x", "--model", "microsoft/phi-1"], "HF_HUB_OFFLINE is set"),
        (["x", "--model", "TORN"], "can't be read"),
        (["x", "--model", "BARE"], "has no tokenizer.json"),
        (["x", "--model", "NAN"], "the logits are NaN"),
        (["x", "--model", "MISMATCH"], "don't belong together"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_clear_errors(folder, tmp_path, arguments, said, monkeypatch, capsys):
    from phi1_nb.terminal import main

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    if "TORN" in arguments:
        (place / "model.safetensors").write_bytes(b"torn")
    elif "BARE" in arguments:
        (place / "tokenizer.json").unlink()
    elif "NAN" in arguments:
        broken = small(vocab_size=400)
        torch.nn.init.constant_(broken.lm_head.bias, float("nan"))
        broken.save_pretrained(place)
    elif "MISMATCH" in arguments:
        small(vocab_size=300).save_pretrained(place)
    words = ("FOLDER", "TORN", "BARE", "NAN", "MISMATCH")
    prompt, *flags = [str(place) if part in words else part for part in arguments]
    named = dict(zip((f.removeprefix("--") for f in flags[::2]), flags[1::2], strict=True))
    kinds = {"n": int, "temperature": float, "max_new_tokens": int}
    with pytest.raises(SystemExit) as stopped:
        main(prompt, **{name: kinds.get(name, str)(value) for name, value in named.items()})
    assert said in str(stopped.value)


def test_an_error_is_one_line_and_a_status(folder):
    failed = run("x", "--model", "/absent")
    assert failed.returncode == 1 and failed.stdout == b""
    assert failed.stderr.decode().strip().count("\n") == 0
    assert "phi1_generate: /absent is no model folder" in failed.stderr.decode()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_stream_adds_up_to_complete(temperature, batch_size):
    model, tokenizer = small(vocab_size=256), Letters()
    prompts = [f"\ndef f_{i}(x):\n" for i in range(5)]
    how = dict(max_new_tokens=70, temperature=temperature, seed=4)
    free = complete(model, tokenizer, prompts, stop=None, **how)
    for stop in (None, [free[0][5:8], free[1][3:4], free[2][30:32]]):
        texts, ended = [""] * 5, [0] * 5
        for i, piece, last in stream(
            model, tokenizer, prompts, stop=stop, batch_size=batch_size, **how
        ):
            assert not ended[i]
            texts[i] += piece
            ended[i] += last
        assert texts == complete(model, tokenizer, prompts, stop=stop, **how) and all(ended)


def test_colours_never_change_the_text():
    generator = torch.Generator().manual_seed(0)
    source = (
        Path(__file__).read_text(encoding="utf-8")[:3000] + '"open \' """ é \t\n\r\n\r \x0b  # end'
    )
    painter, painted, start = Painter(), "", 0
    while start < len(source):
        size = int(torch.randint(1, 40, (), generator=generator))
        painted += painter.feed(source[start : start + size])
        start += size
    painted += painter.feed("", last=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted) == source


def test_samples_in_order_whatever_comes_first():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        left = {i: 1 + int(torch.randint(4, (), generator=generator)) for i in range(4)}
        pieces, texts = [], [f"prompt {i} " for i in range(4)]
        while left:
            i = list(left)[int(torch.randint(len(left), (), generator=generator))]
            left[i] -= 1
            pieces.append((i, f"<{i}.{left[i]}>", left[i] == 0))
            texts[i] += pieces[-1][1]
            if not left[i]:
                del left[i]
        out = io.StringIO()
        show(iter(pieces), [f"prompt {i} " for i in range(4)], colour=False, out=out)
        assert out.getvalue() == "\n\n".join(texts) + "\n"


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_smaller_weights(kind):
    if kind == "int8":
        pytest.importorskip("torchao")
    model, ids = small(), torch.arange(200)[None]
    smaller = with_weights(model, kind)
    with torch.inference_mode():
        exact, rounded = model(ids), smaller(ids).float()
    assert 0 < (rounded - exact).std() < 0.03 * exact.std()
    text = generate(smaller, [[1, 2, 3], [4]], max_new_tokens=20)
    assert [len(new) for new in text] == [20, 20]
    assert text == generate(smaller, [[1, 2, 3], [4]], max_new_tokens=20)
    assert torch.equal(model(ids), exact)


def test_int8_without_torchao_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'phi1_nb\[int8\]'"):
        with_weights(small(), "int8")
