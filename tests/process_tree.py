"""Which processes there are, and who started whom."""

from pathlib import Path


def processes(
    zombies: bool = False,  # those too that have ended and that nobody has asked about
) -> dict[int, int]:
    "Process ids and their parents."
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it has ended meanwhile
        if zombies or state != "Z":
            found[int(folder.name)] = int(parent)
    return found


def descendants(pid: int, zombies: bool = False) -> set[int]:
    parents, found = processes(zombies), {pid}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found - {pid}
