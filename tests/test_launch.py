"Starting ranks: what a notebook shows, how one rank's end is the end of all, and batch systems."

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from process_tree import descendants
from test_training import alive, gone, run, steps_logged, wait_until, without_dropout  # noqa: F401

from phi1_nb.checkpoints import checkpoint_steps
from phi1_nb.core import file_sha256
from phi1_nb.launch import command, hostfile, last_lines, rank_environment, slurm_script
from phi1_nb.runs import write_run
from phi1_nb.training import STOPPED

HERE = Path(__file__).parent


class Watched(NotebookClient):
    "A notebook's run that keeps each picture that a reader would have seen."

    def process_message(self, message, cell, cell_index):
        self.pictures = getattr(self, "pictures", [])
        if message["msg_type"] in ("display_data", "update_display_data"):
            if picture := message["content"]["data"].get("image/png"):
                self.pictures.append(picture)
        return super().process_message(message, cell, cell_index)


def notebook(*sources: str) -> Watched:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    return Watched(made, timeout=200, resources={"metadata": {"path": str(HERE)}})


def test_a_notebook_shows_a_growing_curve_and_then_a_ranks_traceback(run, tmp_path):  # noqa: F811
    folder = write_run(
        tmp_path / "run", replace(run, train=replace(run.train, checkpoint_every=40))
    )
    (tmp_path / "bad").mkdir()
    client = notebook(
        "from functools import partial\nfrom phi1_nb import launch as module",
        "module.LiveLosses = partial(module.LiveLosses, every_s=0.1)\n"
        f"module.launch({str(folder)!r})",
        "import time; from pathlib import Path\ntry:\n"
        f"    module.launch({str(tmp_path / 'bad')!r}, n_ranks=2, module='failing_rank')\n"
        f"finally:\n    Path({str(tmp_path / 'bad' / 'ended')!r}).write_text(str(time.time()))",
    )
    with pytest.raises(CellExecutionError) as failed:
        client.execute()
    assert steps_logged(folder) == run.train.stop_step
    assert len({*client.pictures}) >= 3, "the curve grew"
    assert "Traceback" in str(failed.value) and "RuntimeError: rank 1 gives up" in str(failed.value)
    assert client.nb.cells[2].outputs[-1].ename == "RuntimeError"
    raised = float((tmp_path / "bad" / "raised").read_text())
    ended = float((tmp_path / "bad" / "ended").read_text())
    assert ended - raised < 15, "rank 0 would have waited for two minutes"
    assert gone([int((tmp_path / "bad" / f"pid{rank}").read_text()) for rank in (0, 1)])


def ranks_of(parent: int) -> list[int]:
    "The processes below `parent` that are ranks."
    found = []
    for pid in descendants(parent):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            there = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"phi1_nb.training" in line and any(name.startswith(b"LOCAL_RANK=") for name in there):
            found.append(pid)
    return found


@pytest.fixture
def two_ranks(run, tmp_path):  # noqa: F811
    "A long run on two ranks that has made three steps: its process and its folder."
    long = without_dropout(run, planned_steps=10**6, stop_step=10**5, checkpoint_every=10**4)
    folder = write_run(tmp_path / "run", long)
    with open(folder / "train.log", "ab") as log:
        process = subprocess.Popen(
            command(folder, 2),
            env=rank_environment(2),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    assert wait_until(lambda: steps_logged(folder) >= 3, process), last_lines(folder / "train.log")
    yield process, folder
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_within_seconds(two_ranks):
    process, folder = two_ranks
    ranks = ranks_of(process.pid)
    assert len(ranks) == 2, ranks
    start = time.monotonic()
    os.kill(ranks[1], signal.SIGKILL)
    assert process.wait(60) not in (0, STOPPED)
    print(f"all ended {time.monotonic() - start:.1f} s after one was killed")
    assert gone(ranks, 5) and time.monotonic() - start < 30


@pytest.mark.slow
def test_two_ranks_stop_with_a_checkpoint_when_one_is_asked_to(two_ranks):
    process, folder = two_ranks
    os.kill(ranks_of(process.pid)[1], signal.SIGTERM)
    assert process.wait(60) == STOPPED
    assert checkpoint_steps(folder) == [steps_logged(folder)]


@pytest.mark.slow
def test_two_ranks_stop_with_a_checkpoint_when_their_launcher_dies(two_ranks):
    "DeepSpeed's launcher passes no signal on: it dies of it, and the ranks have to notice."
    process, folder = two_ranks
    ranks = ranks_of(process.pid)
    process.terminate()
    assert process.wait(60) == -signal.SIGTERM
    assert gone(ranks, 60)
    assert checkpoint_steps(folder) == [steps_logged(folder)]


@pytest.mark.slow
def test_two_ranks_end_with_a_checkpoint_when_the_cell_is_interrupted(run, tmp_path):  # noqa: F811
    long = without_dropout(run, planned_steps=10**6, stop_step=10**5, checkpoint_every=10**4)
    folder = write_run(tmp_path / "run", long)
    script = f"from phi1_nb.launch import launch; launch({str(folder)!r}, n_ranks=2)"
    with open(tmp_path / "log", "ab") as log:
        cell = subprocess.Popen([sys.executable, "-c", script], stdout=log, stderr=log)
    assert wait_until(lambda: steps_logged(folder) >= 3, cell), last_lines(tmp_path / "log")
    below = descendants(cell.pid)
    cell.send_signal(signal.SIGINT)
    cell.wait(60)
    assert not any(map(alive, below)), "launch waits for the ranks' last checkpoint"
    assert checkpoint_steps(folder) == [steps_logged(folder)]
    assert "KeyboardInterrupt" in last_lines(tmp_path / "log")


FAKE = {
    "scontrol": """#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$FAKE_LOG"; fi
""",
    "srun": """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
export SLURM_NODEID=0
exec "$@"
""",
}


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    "Slurm's commands for a cluster of one machine, this one; the file that gets `requeue`."
    (tmp_path / "bin").mkdir()
    for name, text in FAKE.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "requeued"))
    monkeypatch.setenv("SLURM_JOB_NODELIST", "localhost")
    monkeypatch.setenv("SLURM_JOB_ID", str(os.getpid()))
    return tmp_path / "requeued"


@pytest.mark.parametrize("n_nodes, n_ranks", [(1, 1), (4, 8)])
def test_the_batch_script_is_sound_shell_for_any_folder(run, tmp_path, n_nodes, n_ranks):  # noqa: F811
    folder = write_run(tmp_path / "it's a $folder; true", run)
    text = slurm_script(folder, n_nodes, n_ranks)
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    head, options = text.splitlines()[0], [x for x in text.splitlines() if x.startswith("#SBATCH")]
    assert head == "#!/bin/bash" and text.index("#SBATCH") < text.index("folder=")
    assert f"#SBATCH --nodes={n_nodes}" in options and len({*options}) == len(options)
    said = 'printf "%s" "$folder"'
    first = text[text.index("folder=") :].split("scontrol", 1)[0]
    shown = subprocess.run(["bash", "-c", first + said], capture_output=True, text=True).stdout
    assert shown == str(folder.resolve())


def test_deepspeed_reads_the_hostfile(tmp_path):
    from deepspeed.launcher.runner import fetch_hostfile

    (tmp_path / "hostfile").write_text(hostfile(["node-a", "node-b"], 4))
    assert dict(fetch_hostfile(str(tmp_path / "hostfile"))) == {"node-a": 4, "node-b": 4}


@pytest.mark.slow
def test_the_batch_script_trains_and_a_signal_puts_it_back(run, tmp_path, slurm):  # noqa: F811
    long = without_dropout(run, planned_steps=10**6, stop_step=10**5, checkpoint_every=10**4)
    folder = write_run(tmp_path / "run", long)
    script = tmp_path / "job.sh"
    script.write_text(slurm_script(folder, n_ranks=2))
    log = open(tmp_path / "log", "ab")
    job = subprocess.Popen(
        ["bash", script], env=rank_environment(2), stdout=log, stderr=log, start_new_session=True
    )
    try:
        assert wait_until(lambda: steps_logged(folder) >= 3, job), last_lines(tmp_path / "log")
        job.terminate()
        job.wait(60)
        assert checkpoint_steps(folder) == [steps_logged(folder)], last_lines(tmp_path / "log")
        assert slurm.read_text() == f"requeue {os.getpid()}\n"
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_are_one_at_higher_stages(run, tmp_path, stage):  # noqa: F811
    from phi1_nb.launch import launch
    from phi1_nb.training import train

    exact = without_dropout(run, dtype="fp32", stop_step=12, zero_stage=stage)
    one = train(write_run(tmp_path / "one", exact))
    two = launch(write_run(tmp_path / "two", exact), n_ranks=2)
    logs = [pd.read_csv(folder / "metrics.csv") for folder in (one, two)]
    pd.testing.assert_frame_equal(
        logs[0].drop(columns="tokens_per_s"), logs[1].drop(columns="tokens_per_s"), rtol=1e-3
    )


def test_the_last_run_of_a_stage_has_as_many_threads_as_it_would_have_had_beside_others(
    run,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    "Or the weights of a stage that was interrupted would differ in their last bits."
    from phi1_nb import launch as module

    beside = {}
    monkeypatch.setattr(
        module, "launch", lambda folder, n_beside, **_: beside.update({folder.name: n_beside})
    )
    monkeypatch.setattr(module, "n_cores", lambda: 2)
    runs = {name: run for name in "abc"}
    module.launch_runs(tmp_path, runs)
    whole = dict(beside)
    for name in "ab":
        (tmp_path / name / "summary.json").write_text("{}")
    beside.clear()
    module.launch_runs(tmp_path, runs)
    assert whole == {name: 2 for name in "abc"} and beside == {"c": 2}


def test_a_run_alone_has_two_ranks_where_it_can(run, tmp_path, monkeypatch):  # noqa: F811
    from phi1_nb import launch as module

    seen = []
    monkeypatch.setattr(module, "n_cores", lambda: 2)
    monkeypatch.setattr(module, "command", lambda _, n_ranks, __: seen.append(n_ranks) or ["true"])
    whole = replace(run, train=replace(run.train, micro_batch_size=run.train.batch_size))
    assert run.train.batch_size % (2 * run.train.micro_batch_size) == 0
    for number, (each, beside, asked) in enumerate(
        [(run, 1, None), (whole, 1, None), (run, 2, None), (run, 1, 1), (whole, 1, 3)]
    ):
        module.launch(write_run(tmp_path / f"{number}", each), asked, n_beside=beside)
    assert seen == [2, 1, 1, 1, 3]
    monkeypatch.setattr(module, "n_cores", lambda: 1)
    assert module.default_ranks(tmp_path / "0") == 1


@pytest.mark.slow
def test_two_ranks_that_are_killed_end_with_the_same_weights(run, tmp_path):  # noqa: F811
    from phi1_nb.launch import launch

    whole = launch(write_run(tmp_path / "whole", run))
    assert "dist_world_size=2" in (whole / "train.log").read_text()
    folder = write_run(tmp_path / "run", run)
    script = f"from phi1_nb.launch import launch; launch({str(folder)!r})"
    for target in (9, 31):
        with open(tmp_path / "log", "ab") as log:
            parent = subprocess.Popen(
                [sys.executable, "-c", script], stdout=log, stderr=log, start_new_session=True
            )
        assert wait_until(lambda n=target: steps_logged(folder) >= n, parent)
        below = descendants(parent.pid)
        for pid in (parent.pid, *below):
            os.kill(pid, signal.SIGKILL)
        parent.wait()
        assert gone(below)
    launch(folder)
    assert file_sha256(folder / "model.safetensors") == file_sha256(whole / "model.safetensors")
    steps = pd.read_csv(folder / "metrics.csv").step
    assert steps.tolist() == list(range(1, run.train.stop_step + 1))
