"A module for `launch`: rank 1 fails at once, rank 0 would wait for two minutes."

import os
import sys
import time
from pathlib import Path

rank = os.environ["RANK"]
(Path(sys.argv[-1]) / f"pid{rank}").write_text(str(os.getpid()))
if rank == "1":
    while not (Path(sys.argv[-1]) / "pid0").exists():
        time.sleep(0.1)
    raise RuntimeError("rank 1 gives up")
time.sleep(120)
