"""The corpus pipeline where it can fail: kills, broken input, other executors, memory."""

import gzip
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import pytest

from phi1_nb.contamination import benchmark_problems
from phi1_nb.corpus import (
    EXCLUDED,
    REASONS,
    Document,
    corpus_packages,
    folder_files,
    installed_files,
    read_shards,
)
from phi1_nb.sources import Files, Rows, jsonl_rows, parquet_rows
from phi1_nb.steps import clean, cleaning, executors, mask_secrets

HELPER = "def mean_{0}(values):\n    total = {0}\n    for v in values:\n        total += v\n"


def helper(i: int) -> str:
    return HELPER.format(i) + f"    return total / {i + 1}  # {'w' * (i % 7)} {i * i} {i**3}\n"


@pytest.fixture
def code(tmp_path):
    root = tmp_path / "code"
    for i in range(24):
        path = root / f"p{i % 3}" / f"f{i}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(helper(i) * (1 + i % 4))
    (root / "p0" / "latin.py").write_bytes("name = 'naïve'".encode("latin-1") * 20)
    (root / "p0" / "binary.py").write_bytes(bytes(range(256)) * 40)
    (root / "p0" / "nul.py").write_bytes(b"x = 1\n" * 30 + b"\0" * 50)
    (root / "p1" / "copy.py").write_text(helper(4))
    (root / "p2" / "mail.py").write_text("# by ann.lee@uni.edu\n" + helper(77))
    problem = benchmark_problems()[3]
    (root / "p2" / "leak.py").write_text(f"{problem.prompt}\n{problem.solution}\n")
    return root


def everything(folder: Path) -> list[Document]:
    return [d for kind in ("clean", "removed") for p in sorted(folder.glob(f"out/*/{kind}"))
            for d in read_shards(p)]  # fmt: skip


def test_nothing_is_lost_and_odd_files_are_counted(code, tmp_path):
    source = Files(folder_files(code), task_mb=0.01)
    counts = clean(source, tmp_path / "out", workers=1)
    documents = everything(tmp_path / "out")
    assert len(documents) == sum(n for n, _ in counts.values()) == 30
    assert Counter(d.reason for d in documents) == {k: n for k, (n, _) in counts.items()}
    reason = {Path(d.path).name: d.reason for d in documents}
    assert reason["latin.py"] == reason["binary.py"] == "not UTF-8"
    assert reason["nul.py"] == "does not parse" and reason["leak.py"] == "repeats a benchmark"
    assert {reason["copy.py"], reason["f4.py"]} == {None, "exact duplicate"}
    mail = next(d for d in documents if d.path.endswith("mail.py"))
    assert mail.text.startswith("# by <email>\n") and mail.tokens > 0 and mail.reason is None
    assert all(
        sum(d.tokens for d in documents if d.reason == k) == t for k, (_, t) in counts.items()
    )


def test_the_number_of_parts_and_workers_changes_nothing(code, tmp_path):
    files = folder_files(code)
    seen = []
    for name, mb, workers in (("one", 10, 1), ("many", 0.002, 2)):
        source = Files(files, task_mb=mb)
        clean(source, tmp_path / name, workers=workers)
        found = [sorted((tmp_path / name).glob(f"out/*/{kind}")) for kind in ("clean", "removed")]
        seen.append([[d for p in paths for d in read_shards(p)] for paths in found])
    assert Files(files, task_mb=0.002).n_tasks() > 3 and seen[0] == seen[1]


RUN = """
import sys, time
from pathlib import Path
from phi1_nb.corpus import folder_files
from phi1_nb.sources import Files
from phi1_nb import steps
count = steps.count_tokens
def slow(text):
    time.sleep(0.05)
    return count(text)
steps.count_tokens = slow
code, out = map(Path, sys.argv[1:])
print(steps.clean(Files(folder_files(code), task_mb=0.002), out, workers=1))
"""


def test_a_killed_run_goes_on_where_it_was(code, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", RUN, code, out]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.time() + 120
    while len(list(out.glob("out/*/counts.json"))) < 2 and time.time() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    source = Files(folder_files(code), task_mb=0.002)
    done = {p: p.stat().st_mtime_ns for p in out.glob("out/*/counts.json")}
    marked = len(list(out.glob("logs/2/completions/*")))
    assert 1 <= marked < source.n_tasks(), "it was killed half-way"
    counts = clean(source, out, workers=1)
    kept = [p for p, when in done.items() if p.stat().st_mtime_ns == when]
    assert len(kept) >= marked and sum(n for n, _ in counts.values()) == 30
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")}
    assert clean(source, out, workers=1) == counts
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*.parquet")}
    whole = clean(source, tmp_path / "whole", workers=1)
    assert whole == counts and everything(tmp_path / "whole") == everything(out)


class Dying(Files):
    "Its second part kills the process that reads it, the first time."

    def documents(self, rank, world_size):
        flag = Path(self.files[0].file).parents[1] / "killed"
        if rank == 1 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Files.documents(self, rank, world_size)


def test_a_killed_worker_is_an_error_and_nothing_is_lost(code, tmp_path):
    files = folder_files(code)
    with pytest.raises(RuntimeError, match="was killed, for want of memory perhaps: run again"):
        clean(Dying(files, task_mb=0.005), tmp_path / "out", workers=2)
    assert (code / "killed").exists()
    clean(Dying(files, task_mb=0.005), tmp_path / "out", workers=2)
    clean(Files(files, task_mb=0.005), tmp_path / "whole", workers=1)
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


SLEEPY = """
import sys, time
from pathlib import Path
from phi1_nb.corpus import folder_files
from phi1_nb.sources import Files
from phi1_nb.steps import clean
class Sleepy(Files):
    def documents(self, rank, world_size):
        time.sleep(60)
        return Files.documents(self, rank, world_size)
code, out = map(Path, sys.argv[1:])
clean(Sleepy(folder_files(code), task_mb=0.005), out, workers=2)
"""


def test_workers_end_with_a_killed_parent(code, tmp_path):
    command = [sys.executable, "-c", SLEEPY, code, tmp_path / "out"]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)

    def alive():
        found = [p for p in psutil.process_iter() if p.pid != parent.pid]
        return [p for p in found if os.getpgid(p.pid) == parent.pid and p.status() != "zombie"]

    def wait_for(holds):
        deadline = time.time() + 60
        while not (done := holds()) and time.time() < deadline:
            time.sleep(0.1)
        return done

    try:
        assert wait_for(lambda: len(list((tmp_path / "out" / "logs/0/logs").glob("*"))) == 2)
        assert len(alive()) >= 2
        parent.kill()
        parent.wait()
        assert wait_for(lambda: not alive()), alive()
    finally:
        for process in alive():
            process.kill()


PEAK = """
import resource, sys
from pathlib import Path
from phi1_nb.sources import Rows
from phi1_nb.steps import clean
counts = clean(Rows([Path(sys.argv[1])]), Path(sys.argv[2]), threshold=None, workers=1)
print(counts[None][0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_is_flat(tmp_path):
    prose = "".join(f"# {'the sum of the parts ' * 4}{i}\n" for i in range(500))
    peaks = []
    for n in (500, 2000):
        path = tmp_path / f"{n}.jsonl"
        with open(path, "w") as file:
            for i in range(n):
                row = {"text": helper(i) + prose, "path": f"{i}.py", "licence": "MIT"}
                file.write(json.dumps(row) + "\n")
        command = [sys.executable, "-c", PEAK, path, tmp_path / f"out{n}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        kept, peak = map(int, done.stdout.split())
        assert kept == n
        peaks.append(peak)
    extra = (2000 - 500) * len(prose) / 1024
    assert extra > 60_000 and peaks[1] - peaks[0] < extra / 4, peaks


def test_damaged_files_are_named(tmp_path):
    row = json.dumps({"text": helper(1)}).encode() + b"\n"
    for name, data in {
        "cut.jsonl.gz": gzip.compress(row * 99)[:-20],
        "plain.jsonl.gz": row,
        "flipped.jsonl.gz": gzip.compress(os.urandom(2000))[:900] + bytes(100),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} is no whole gzip file .*: fetch it again"):
            list(jsonl_rows(tmp_path / name, {"text": "text"}))
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"text": [helper(i) * 9 for i in range(500)]}).to_parquet(path)
    data = bytearray(path.read_bytes())
    data[200:1200] = os.urandom(1000)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="rows.parquet is no Parquet file .*: fetch it again"):
        list(parquet_rows(path, {"text": "text"}))


def test_rows_are_normalised_and_odd_ones_counted(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = {"text": ["x = 1\r\ny = 2\r", None], "licence": [["MIT", "BSD"], []]}
    pd.DataFrame(rows).to_parquet(path)
    found = list(parquet_rows(path, {"text": "text", "licence": "licence"}))
    assert [(d.text, d.licence) for d in found] == [("x = 1\ny = 2\n", "MIT OR BSD"), ("", "")]
    deep, lone = b'{"text": ' + b"[" * 200_000, b'{"text": "\\ud800"}'
    (tmp_path / "odd.jsonl").write_bytes(deep + b"\n" + lone + b'\n{"text": "x\\r\\ny"}\n')
    found = list(jsonl_rows(tmp_path / "odd.jsonl", {"text": "text"}))
    assert [d.reason for d in found] == ["malformed", "malformed", None]
    assert found[-1].text == "x\ny"


def test_lines_that_are_no_documents_are_counted_in_little_memory(tmp_path):
    path = tmp_path / "some.jsonl"
    with open(path, "wb") as file:
        file.write(b'{"text": "x = 1"}\n[1, 2]\n{"text": 5}\n\xff\xfe\n')
        file.write(b'{"text": "')
        file.truncate(1 << 30)
        file.seek(1 << 30)
        file.write(b'"}\n{"text": "y = 2"}\n')
    program = (
        "import resource, sys; from pathlib import Path; from collections import Counter;"
        "from phi1_nb.sources import jsonl_rows;"
        "low = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "found = [d.reason for d in jsonl_rows(Path(sys.argv[1]), {'text': 'text'})];"
        "high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "print(found, high - low < 60_000)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]
    expected = [None, "malformed", None, "malformed", "larger than 1 MiB", None]
    assert done.stdout.strip() == f"{expected} True"


def test_rows_of_both_kinds_are_one_corpus(tmp_path):
    rows = [json.dumps({"text": helper(i), "path": f"{i}.py", "licence": "MIT"}) for i in range(6)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows[:3]))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("\n".join([*rows[3:], "not JSON"]))
    source = Rows(sorted(tmp_path.glob("*.jsonl*")))
    counts = clean(source, tmp_path / "out", workers=1)
    assert counts[None][0] == 6 and counts["malformed"][0] == 1
    assert set(counts) <= {None, *sum(REASONS.values(), [])}


@pytest.mark.parametrize(
    "text, n",
    [
        ("y = w@x.real + b@c.dot\n", 0),
        ('key = "hf_' + "a" * 34 + '"\n', 1),
        ("# a.b@c.de, d@example.com\n", 1),
        ('"""\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n"""\n', 1),
        ("write to a.b@c.de, it's 'free\n", 1),
        ("", 0),
    ],
)
def test_masks(text, n):
    masked, found = mask_secrets(text)
    assert found == n and (n > 0) == (masked != text) and mask_secrets(masked)[1] == 0


def test_the_pipelines_tools_are_no_part_of_the_corpus():
    assert not {"datatrove", "skops", "loguru", "humanize"} & set(corpus_packages())
    assert not {f.package for f in installed_files()} & EXCLUDED


def fake_cluster(folder: Path, runs: bool) -> dict[str, str]:
    "Slurm's commands: `sbatch` keeps the script, and if `runs` it runs each task of the array."
    folder.mkdir()
    run = (
        'last=$(sed -n "s/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p" "$script"); '
        'for i in $(seq 0 "${last:-0}"); do SLURM_ARRAY_TASK_ID=$i SLURM_PROCID=0 RUN_OFFSET=0 '
        'SLURM_NODELIST=here SLURM_JOB_ID=1 bash "$script" >&2 || exit 1; done; '
    )
    commands = {
        "sbatch": f"for script; do :; done; n=$(ls {folder} | grep -c job-); "
        f'cp "$script" {folder}/job-$n; {run if runs else ""}echo "Submitted batch job $((n + 7))"',
        "srun": 'while [ "${1#-}" != "$1" ]; do [ "$1" = -n ] && shift; shift; done; exec "$@"',
        "scontrol": "echo here",
    }
    for name, text in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_the_script_for_slurm(code, tmp_path, monkeypatch):
    for name, value in fake_cluster(tmp_path / "bin", runs=False).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    lists = cleaning(Files(folder_files(code)), tmp_path / "out", parts=3)
    options = dict(time="02:00:00", partition="cpu", workers=2, venv_path="/opt/venv/bin/activate")
    executors(lists, tmp_path / "logs", "slurm", **options)[-1].run()
    script = (tmp_path / "bin" / "job-0").read_text()
    assert "#SBATCH --array=0-2%2\n" in script and "#SBATCH --time=02:00:00\n" in script
    assert "source /opt/venv/bin/activate\n" in script and "launch_pickled_pipeline" in script
    for path in (tmp_path / "bin").glob("job-*"):
        assert subprocess.run(["bash", "-n", path]).returncode == 0
    scripts = [p.read_text() for p in sorted((tmp_path / "bin").glob("job-*"))]
    arrays = [text.split("--array=")[1].split("\n")[0] for text in scripts if "--array=" in text]
    assert [a for a in arrays if a[:3] != "0-0"] == ["0-2%2", "0-2%2"] and len(arrays) >= 3


@pytest.mark.slow
def test_slurm_gives_what_one_machine_gives(code, tmp_path, monkeypatch):
    for name, value in fake_cluster(tmp_path / "bin", runs=True).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    source = Files(folder_files(code), task_mb=0.005)
    parts = source.n_tasks()
    lists = cleaning(source, tmp_path / "cluster", parts)
    executors(lists, tmp_path / "logs", "slurm", time="1", partition="cpu")[-1].run()
    clean(source, tmp_path / "local", workers=1)
    assert everything(tmp_path / "cluster") == everything(tmp_path / "local")


class Failing(Files):
    def documents(self, rank, world_size):
        if rank == 1:
            raise ValueError("no disk")
        return Files.documents(self, rank, world_size)


@pytest.fixture
def ray_cluster(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _memory=8 << 30)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_ray_gives_what_one_machine_gives(code, tmp_path, ray_cluster):
    files = folder_files(code)
    source = Files(files, task_mb=0.005)
    assert source.n_tasks() > 2
    with pytest.raises(RuntimeError, match="1 of .* tasks of sign failed on Ray"):
        clean(Failing(files, task_mb=0.005), tmp_path / "cluster", kind="ray")
    counts = clean(source, tmp_path / "cluster", kind="ray")
    assert counts == clean(source, tmp_path / "local", workers=1)
    assert everything(tmp_path / "cluster") == everything(tmp_path / "local")
