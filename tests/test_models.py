"Models under test: ours, transformers', and servers that misbehave."

import json
import math
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from phi1_nb import config, models, server
from phi1_nb.benchmarks import humaneval_problems
from phi1_nb.model import Phi
from phi1_nb.prompting import Decoding
from phi1_nb.tokenizer import train_tokenizer

PROBLEMS = humaneval_problems()
TEXTS = [f"def times_{n}(x):\n    return {n} * x\n" for n in range(40)]
PROMPTS = [f"def f{i}(x):\n" + "    # a comment\n" * (i % 5) for i in range(9)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=310)


@pytest.fixture(scope="module")
def model():
    shape = replace(config.nano.model, vocab_size=310, context_length=96, initializer_range=0.3)
    shape = replace(shape, d_model=32, n_layers=2, n_heads=1, d_mlp=64)
    return Phi(shape, generator=torch.Generator().manual_seed(0)).eval()


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return tokenizer.save(folder)


@torch.inference_mode()
def test_bits_are_the_sum_written_out(model, tokenizer):
    "Token by token, each from the tokens before it that fit; also where the context is too short."
    problems = [
        {"task_id": "a", "prompt": "x = 1\n", "canonical_solution": "y = 2\n"},
        {"task_id": "b", "prompt": "# a\n" * 8, "canonical_solution": "    return 3\n"},
        {"task_id": "c", "prompt": "# é\n" * 60, "canonical_solution": "    return 'ü'\n"},
        {"task_id": "d", "prompt": "def f():\n", "canonical_solution": "    x = 1\n" * 40},
    ]
    table = models.solution_bits(model, tokenizer, problems, batch_size=3)
    assert table["shortened"].tolist() == [False, False, True, False]
    assert table["bytes"].tolist() == [len(p["canonical_solution"].encode()) for p in problems]
    context = model.config.context_length
    for problem, bits in zip(problems, table["bits"], strict=True):
        prompt = tokenizer.encode(problem["prompt"])
        ids = prompt + tokenizer.encode(problem["canonical_solution"])
        spans = [(len(prompt), len(ids))]
        if len(ids) - 1 > context:
            starts = range(len(prompt), len(ids), context // 2)
            spans = [(at, min(at + context // 2, len(ids))) for at in starts]
        expected = 0.0
        for begin, end in spans:
            first = max(0, end - 1 - context)
            logs = torch.log_softmax(model(torch.tensor([ids[first : end - 1]]))[0].double(), -1)
            expected -= sum(
                float(logs[i - 1 - first, ids[i]]) for i in range(begin, end)
            ) / math.log(2)
        assert abs(bits - expected) < 1e-3 * expected


def test_encoding_the_prompt_alone_changes_nothing(tokenizer):
    "For the study's tokenizer a prompt is the beginning of prompt + solution."
    for problem in PROBLEMS:
        together = tokenizer.encode(problem["prompt"] + problem["canonical_solution"])
        prompt = tokenizer.encode(problem["prompt"])
        assert together == prompt + tokenizer.encode(problem["canonical_solution"])


def test_the_same_seed_draws_the_same_samples(model, tokenizer):
    how = Decoding(temperature=1.0, n_samples=3, max_new_tokens=6)
    answer = models.from_phi(model, tokenizer)
    first, again, other = (models.sample(answer, PROBLEMS[:4], how, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 12 and len({row["completion"] for row in first[:3]}) > 1


@pytest.fixture(scope="module")
def theirs(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    return models.from_transformers(model, AutoTokenizer.from_pretrained(folder), batch_size=4)


@pytest.mark.parametrize("stop", [(), ("t",), ("\n", " re")])
def test_transformers_gives_the_same_greedy_answers(model, tokenizer, theirs, stop):
    how = Decoding(max_new_tokens=24, stop=stop)
    ours = models.from_phi(model, tokenizer)(PROMPTS, how, 0)
    others = theirs(PROMPTS, how, 0)
    assert [row["text"] for row in others] == [row["text"] for row in ours]
    assert [row["ended"] for row in others] == [row["ended"] for row in ours]
    assert all(row["n_dropped"] == 0 for row in others)


def test_sampling_with_transformers_is_seeded_and_leaves_the_global_state(theirs):
    how = Decoding(temperature=1.0, top_p=0.95, max_new_tokens=8)
    before = torch.get_rng_state()
    first, again, other = (theirs(PROMPTS, how, seed) for seed in (3, 3, 4))
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())


def test_a_prompt_that_is_too_long_loses_its_beginning(theirs):
    (row,) = theirs(["# a long comment\n" * 60], Decoding(max_new_tokens=8), 0)
    assert row["n_dropped"] > 0 and row["n_tokens"] == 8


def test_a_model_without_a_chat_template_says_so(theirs):
    with pytest.raises(ValueError, match="no chat template"):
        theirs(["x"], Decoding(form="chat"), 0)


def test_folders_are_told_apart(folder, tmp_path, model, tokenizer):
    how = Decoding(max_new_tokens=8)
    expected = models.from_phi(model, tokenizer)(PROMPTS, how, 0)
    assert models.open_model(str(folder))(PROMPTS, how, 0) == expected
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = GPT2Config(vocab_size=310, n_positions=64, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(shape).save_pretrained(tmp_path / "gpt2")
    tokenizer.save(tmp_path / "gpt2")
    rows = models.open_model(str(tmp_path / "gpt2"))(PROMPTS, how, 0)
    assert len(rows) == len(PROMPTS) and all(row["n_tokens"] <= 8 for row in rows)
    with pytest.raises(ValueError, match="no model folder"):
        models.open_model(str(tmp_path / "none"))


class Handler(BaseHTTPRequestHandler):
    "Answers as `script` says: a status, or the text of a choice; then with the prompt."

    script, seen = [], []
    lock = threading.Lock()

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            self.seen.append((self.path, self.headers.get("Authorization"), request))
            todo = self.script.pop(0) if self.script else 200
        if todo == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            return
        self.send_response(todo)
        self.send_header("Retry-After", "0")
        self.end_headers()
        if "messages" in request:
            choice = {"message": {"content": request["messages"][0]["content"].upper()}}
        else:
            choice = {"text": request["prompt"].upper() + "\nprint(1)", "finish_reason": "stop"}
        reply = {"choices": [choice], "usage": {"completion_tokens": 3}}
        self.wfile.write(json.dumps(reply if todo == 200 else {"error": "no"}).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(Handler, "script", [])
    monkeypatch.setattr(Handler, "seen", [])
    monkeypatch.setattr(server.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/v1"
    served.shutdown()
    served.server_close()


def test_a_server_is_asked_until_it_answers(address, tmp_path):
    Handler.script[:] = [429, 503, "cut", 200]
    answer = models.from_endpoint(address, "m", tmp_path / "a.jsonl", workers=1)
    how = Decoding(n_samples=2, temperature=0.5)
    rows = models.sample(answer, PROBLEMS[:1], how, seed=5)
    assert rows[0]["completion"] == PROBLEMS[0]["prompt"].upper() and rows[0]["ended"] == "stop"
    assert len(Handler.seen) == 5
    sent = [request for _, _, request in Handler.seen]
    assert sent[-1]["seed"] == 6 and sent[0]["seed"] == 5 and len(sent[0]["stop"]) == 4
    assert models.sample(answer, PROBLEMS[:1], how, seed=5) == rows and len(Handler.seen) == 5


def test_a_refusal_is_final_and_shows_no_key(address, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    Handler.script[:] = [401]
    answer = models.from_endpoint(address, "m")
    with pytest.raises(ValueError, match="refuses with 401") as caught:
        answer(["x"], Decoding(), 0)
    assert Handler.seen[0][1] == "Bearer sk-secret" and "sk-secret" not in str(caught.value)
    assert len(Handler.seen) == 1


def test_a_server_that_never_answers_is_given_up(address):
    Handler.script[:] = [500] * 6
    with pytest.raises(ValueError, match="no answer in 6 tries"):
        models.from_endpoint(address, "m")(["x"], Decoding(), 0)


def test_a_chat_is_asked_in_messages(address):
    how = Decoding(form="chat", stop=())
    answer = models.open_model(f"{address}#m")
    (row,) = models.sample(answer, PROBLEMS[:1], how)
    assert Handler.seen[0][0].endswith("/chat/completions")
    assert "DEF HAS_CLOSE_ELEMENTS" in row["completion"] and "raw" in row


def test_a_torn_answer_is_asked_for_again(tmp_path):
    path, asked = tmp_path / "a.jsonl", []

    def send(request):
        asked.append(request)
        return {"text": "x"}

    for prompt in ("a", "b"):
        server.Remembered(path).ask({"prompt": prompt}, send)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        asked.clear()
        memory = server.Remembered(path)
        assert [memory.ask({"prompt": p}, send)["text"] for p in "ab"] == ["x", "x"]
        assert 0 < len(asked) <= 2
        again = server.Remembered(path)
        asked.clear()
        assert [again.ask({"prompt": p}, send)["text"] for p in "ab"] == ["x", "x"]
        assert not asked
