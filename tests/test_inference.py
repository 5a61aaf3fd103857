"""The prompts through datatrove's pipeline, against an endpoint on this machine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from phi1_nb.contamination import Gate
from phi1_nb.inference import answers_of_run, inference_pipeline
from phi1_nb.llm import Client
from phi1_nb.recorded import record

pytest.importorskip("datatrove")
pytest.importorskip("orjson")


class Endpoint(BaseHTTPRequestHandler):
    asked = []

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": []}')

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        number = len(self.asked)
        choice = {"message": {"content": f"answer {number}"}, "finish_reason": "stop"}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [choice], "usage": {}}).encode())

    def log_message(self, *_):
        pass


def test_two_tasks_ask_each_prompt_once_and_their_answers_are_proven(tmp_path):
    from datatrove.executor import LocalPipelineExecutor

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    out = str(tmp_path / "out")
    for _ in range(2):  # the second run finds its tasks done
        steps = inference_pipeline("exercises", "m", 10, out, url=url)
        logs = str(tmp_path / "logs")
        LocalPipelineExecutor(steps, tasks=2, workers=1, logging_dir=logs).run()
    server.shutdown()
    assert len(Endpoint.asked) == 10
    assert all(body["model"] == "m" and body["max_tokens"] == 220 for body in Endpoint.asked)
    path = tmp_path / "answers.jsonl"
    assert answers_of_run(tmp_path / "out", path) == 10
    with Client("http://127.0.0.1:9/v1", "m", path) as client:
        found, drops, trouble = record("exercises", client, 10, Gate([]), progress=False)
    assert not found and not trouble and drops["not one code block"] == 10
