"A module for `launch`: rank 1 fails at once, rank 0 would wait for two minutes."

import os
import sys
import time
from pathlib import Path

folder, rank = Path(sys.argv[-1]), os.environ["RANK"]
(folder / f"pid{rank}").write_text(str(os.getpid()))
if rank == "1":
    while not (folder / "pid0").exists():
        time.sleep(0.1)
    (folder / "raised").write_text(str(time.time()))
    raise RuntimeError("rank 1 gives up")
time.sleep(120)
