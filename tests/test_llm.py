"""The client for language models against endpoints that misbehave, a kill, and a full disk."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from phi1_nb import llm
from phi1_nb.llm import Answers, BudgetSpent, Client, EndpointError, Limits, Sampling

QUICK = Limits(concurrency=4, tries=2, seconds=2)


def chat(content="yes", reason="stop", **usage):
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": reason}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


class Endpoint(BaseHTTPRequestHandler):
    """Says what `say(number of the request, question)` returns: (status, body) or a function that
    writes by itself."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.seen.append((time.monotonic(), body, self.headers.get("Authorization")))
            number = len(server.seen)
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            with contextlib.suppress(OSError):
                status, data, *headers = server.say(number, body["messages"][-1]["content"])
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                for piece in [data] if isinstance(data, bytes) else data:
                    self.wfile.write(piece)
                    self.wfile.flush()
        finally:
            with server.lock:
                server.now -= 1

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(llm, "pause", lambda attempt, asked=None: asked or 0.01)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.daemon_threads = True
    server.lock, server.seen, server.now, server.most = threading.Lock(), [], 0, 0
    server.say = lambda number, question: (200, chat(question.upper()))
    server.address = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def asked(n):
    return [[{"role": "user", "content": f"question {k}"}] for k in range(n)]


def ask(endpoint, n=3, limits=QUICK, cache=None, **more):
    with Client(endpoint.address, "m", cache, limits, **more) as client:
        return client.ask(asked(n), Sampling(max_tokens=50), progress=False), client


def endless():
    while True:
        yield b" "
        time.sleep(0.01)


BAD = {
    "html": (200, b"<html>Welcome to the hotel's network</html>"),
    "half a document": (200, chat()[:40]),
    "another document": (200, b'{"object": "list", "data": []}'),
    "no content": (200, chat(None)),
    "not text": (200, b"\xff\xfe\x00\x01"),
    "overloaded": (429, b"{}"),
    "broken": (500, b"Internal Server Error"),
    "html with 502": (502, b"<html>Bad gateway</html>"),
    "cut off": (200, chat()[:30], ("Content-Length", "500")),
}


@pytest.mark.parametrize("how", BAD)
def test_a_bad_reply_is_asked_for_again(endpoint, how):
    endpoint.say = lambda number, question: BAD[how] if number == 1 else (200, chat(question))
    texts, client = ask(endpoint, 1)
    assert texts == ["question 0"] and len(endpoint.seen) == 2
    assert sum(n for name, n in client.counts.items() if name.startswith("tried again")) == 1


@pytest.mark.parametrize("how", BAD)
def test_an_endpoint_that_only_fails_is_an_error_at_once(endpoint, how):
    endpoint.say = lambda number, question: BAD[how]
    with pytest.raises(EndpointError, match="no answer to"):
        ask(endpoint, 100)
    assert len(endpoint.seen) <= 2 * QUICK.concurrency


def test_a_reply_that_never_ends_is_given_up(endpoint):
    endpoint.say = lambda n, q: (200, endless()) if n == 1 else (200, chat(q))
    start = time.monotonic()
    texts, client = ask(endpoint, 1)
    assert texts == ["question 0"] and time.monotonic() - start < 10
    assert client.counts["tried again: no complete reply in 2 s"] == 1


def test_a_reply_without_bounds_is_given_up(endpoint, monkeypatch):
    monkeypatch.setattr(llm, "_LARGEST", 1 << 20)
    pieces = (b"x" * 65536 for _ in iter(int, 1))
    endpoint.say = lambda n, q: (200, pieces) if n == 1 else (200, chat(q))
    texts, client = ask(endpoint, 1)
    assert texts == ["question 0"] and any("MiB" in name for name in client.counts)


def test_an_endpoint_that_is_down_is_an_error_at_once():
    with Client("http://127.0.0.1:9/v1", "m", limits=Limits(tries=1)) as client:
        with pytest.raises(EndpointError, match="no connection"):
            client.ask(asked(50), progress=False)
    assert sum(client.counts.values()) <= Limits().concurrency


def test_retry_after_is_honoured(endpoint):
    def say(number, question):
        return (429, b"{}", ("Retry-After", "1")) if number == 1 else (200, chat(question))

    endpoint.say = say
    ask(endpoint, 1)
    (first, *_), (second, *_) = endpoint.seen
    assert second - first >= 1


def test_refusals_of_single_questions_are_counted_and_skipped(endpoint):
    def say(number, question):
        return (400, b'{"error": {"message": "too long"}}') if "1" in question else (200, chat())

    endpoint.say = say
    texts, client = ask(endpoint, 3)
    assert texts == ["yes", None, "yes"] and len(endpoint.seen) == 3
    (reason,) = [name for name in client.counts if name.startswith("failed")]
    assert "too long" in reason


def test_a_wrong_key_ends_all_and_is_shown_nowhere(endpoint, tmp_path):
    said = b'{"error": {"message": "Incorrect API key provided: sk-geheim"}}'
    endpoint.say = lambda n, q: (401, said)
    with pytest.raises(EndpointError, match="401") as error:
        ask(endpoint, 50, cache=tmp_path / "a.jsonl", key="sk-geheim")
    assert "geheim" not in str(error.value) and len(endpoint.seen) <= QUICK.concurrency
    assert endpoint.seen[0][2] == "Bearer sk-geheim"


def test_the_cache_holds_key_request_and_text_alone(endpoint, tmp_path):
    path = tmp_path / "a.jsonl"
    ask(endpoint, 3, cache=path, key="sk-geheim")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(set(row) == {"key", "request", "text"} for row in rows) and len(rows) == 3
    fields = {"model", "messages", "temperature", "top_p", "max_tokens", "sample"}
    assert set(rows[0]["request"]) == fields
    assert "geheim" not in path.read_text() and "127.0.0.1" not in path.read_text()


def test_a_cut_answer_is_a_counted_skip_and_not_asked_for_again(endpoint, tmp_path):
    endpoint.say = lambda n, q: (200, chat("half an ans", "length"))
    texts, client = ask(endpoint, 2, cache=tmp_path / "a.jsonl")
    assert texts == [None, None] and client.counts["cut at max_tokens"] == 2
    texts, client = ask(endpoint, 2, cache=tmp_path / "a.jsonl")
    assert texts == [None, None] and len(endpoint.seen) == 2


def test_requests_run_side_by_side_and_no_more_than_allowed(endpoint):
    def say(number, question):
        time.sleep(0.2)
        return 200, chat(question)

    endpoint.say = say
    texts, _ = ask(endpoint, 12)
    assert texts == [f"question {k}" for k in range(12)] and endpoint.most == QUICK.concurrency


def test_the_same_question_twice_is_one_request(endpoint):
    with Client(endpoint.address, "m") as client:
        assert client.ask(asked(1) * 3, progress=False) == ["QUESTION 0"] * 3
        assert client.ask(asked(1), sample=1, progress=False) == ["QUESTION 0"]
    assert len(endpoint.seen) == 2


@pytest.mark.parametrize(
    "budget", [{"tokens": 800}, {"money": 0.0016, "price_in": 2.0, "price_out": 2.0}]
)
def test_a_budget_is_never_exceeded_and_nothing_is_lost(endpoint, tmp_path, budget):
    endpoint.say = lambda n, q: (200, chat(q, prompt_tokens=10, completion_tokens=40))
    path = tmp_path / "a.jsonl"
    with Client(endpoint.address, "m", path, Limits(concurrency=4, **budget)) as client:
        with pytest.raises(BudgetSpent, match="isn't asked twice"):
            client.ask(asked(50), Sampling(max_tokens=50), progress=False)
        spent = client.ledger.spent_in + client.ledger.spent_out
    answered = len(path.read_text().splitlines())
    assert 600 <= spent <= 800 and answered == spent // 50 == len(endpoint.seen)
    ask(endpoint, 50, cache=path)
    assert len(endpoint.seen) == 50


def test_requests_of_a_minute_are_limited(endpoint, monkeypatch):
    now, waits = [0.0], []

    async def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(llm.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(llm.asyncio, "sleep", sleep)
    ask(endpoint, 7, Limits(concurrency=1, requests_per_minute=3))
    assert [round(wait) for wait in waits if wait > 1] == [60, 60]


KILLED = """
import sys
from pathlib import Path
from phi1_nb.llm import *
url, path = sys.argv[1:]
with Client(url, "m", Path(path), Limits(concurrency=4)) as client:
    questions = [[{"role": "user", "content": f"question {k}"}] for k in range(40)]
    client.ask(questions, Sampling(max_tokens=50), progress=False)
"""


def test_a_killed_recording_goes_on_and_asks_nothing_twice(endpoint, tmp_path):
    def say(number, question):
        time.sleep(0.05)
        return 200, chat(question)

    endpoint.say, path = say, tmp_path / "a.jsonl"
    process = subprocess.Popen([sys.executable, "-c", KILLED, endpoint.address, str(path)])
    while not path.exists() or path.read_bytes().count(b"\n") < 12:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])  # as if it had been killed within a line
    kept, before = path.read_bytes().count(b"\n"), len(endpoint.seen)
    texts, client = ask(endpoint, 40, cache=path)
    assert texts == [f"question {k}" for k in range(40)]
    assert client.counts["cached"] == kept and len(endpoint.seen) - before == 40 - kept
    assert len({json.loads(line)["key"] for line in path.read_text().splitlines()}) == 40


def test_a_torn_last_line_is_repaired_wherever_it_is_torn(tmp_path):
    path, request = tmp_path / "a.jsonl", llm.request_of("m", asked(1)[0])
    with contextlib.closing(Answers(path)) as answers:
        answers.put(request, "ä" * 3)
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        with contextlib.closing(Answers(path)) as answers:
            assert answers.get(request) == "äää"
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        '{"key": "k", "answer": "x"}\n',
        "prompt,answer\n1,2\n",
        "no newline",
        "[]\n",
        '{"key": "k", "request": {}, "text": "x"}\n',
        "\x00\x01\n",
    ],
)
def test_a_cache_of_another_format_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match="line 1 of .* name another file"):
        Answers(path)
    assert path.read_text() == content


def test_two_writers_are_one_too_many(tmp_path):
    with contextlib.closing(Answers(tmp_path / "a.jsonl")):
        with pytest.raises(ValueError, match="another process"):
            Answers(tmp_path / "a.jsonl")
    Answers(tmp_path / "a.jsonl").close()


def test_a_full_disk_is_an_error_that_leaves_whole_lines(endpoint, tmp_path):
    path = tmp_path / "a.jsonl"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
    code = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + limit + KILLED
    done = subprocess.run(
        [sys.executable, "-c", code, endpoint.address, str(path)], capture_output=True, text=True
    )
    assert done.returncode and "all answers before are in it" in done.stderr
    data = path.read_bytes()
    assert data.endswith(b"\n") and 1 <= data.count(b"\n") < 40
    kept = data.count(b"\n")
    texts, client = ask(endpoint, 40, cache=path)
    assert client.counts["cached"] == kept and None not in texts


def test_an_interrupt_ends_the_asking(endpoint, tmp_path):
    def say(number, question):
        time.sleep(0.05)
        return 200, chat(question)

    endpoint.say, path = say, tmp_path / "a.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, endpoint.address, str(path)], stderr=subprocess.PIPE
    )
    while not path.exists() or path.read_bytes().count(b"\n") < 4:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode and b"KeyboardInterrupt" in said
    assert path.read_bytes().count(b"\n") < 40
