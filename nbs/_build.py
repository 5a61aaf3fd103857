"""Build the site, or README.md, from the notebooks.

    python nbs/_build.py             _docs/: with Quarto if it is on PATH, else with smalldocs
    python nbs/_build.py --readme    README.md from nbs/index.ipynb
    python nbs/_build.py --check     only look for broken links in _docs/
    python nbs/_build.py --outputs   the outputs of `make study` go into nbs/, from runs/nano/

`nbdev_docs` and `nbdev_readme` do this where Quarto is installed, and where it isn't they try to
install it with sudo. So the steps are taken here one by one; Quarto, when there, only renders.
Nothing is executed for the pages' outputs: those are stored in the notebooks.

nbdev passes over files whose names begin with an underscore, hence this one's.
"""

import argparse
import base64
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
# a link from nbs/ to elsewhere in the checkout
UP = re.compile(r"(\]\(|src=\\?\")\.\./([^)#\s\"\\]+)")
# nbdev shows sources unfolded; only a dataclass stays so, for its fields' comments
OPEN = re.compile(r"#\| code-fold: show(?=\\n\",\n[^\n]*code-summary[^\n]*\n(?!\s*\"@dataclass))")
# nbdev links names in the comments of a signature, where nothing renders a link
COMMENT = re.compile(r"(?<=\S )# (?:\\\"|(?!\\n)[^\"\n])*")
LINK = re.compile(r"\[(`[^`\]]+`)\]\([^)]*\)")
IMPORTS_ONLY = re.compile(r"#\| export\n(?:(?:from|import|    |\)).*\n?|\n)*")


def with_sources(folder: Path) -> Path:
    """A copy of the notebooks in `folder` in which definitions are marked `exports`.

    nbdev then shows their source below the signature, which a page to learn from must have."""
    for path in (ROOT / "nbs").iterdir():
        if path.suffix != ".ipynb":
            shutil.copy2(path, folder / path.name)
            continue
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            source = "".join(cell["source"])
            if source.startswith("#| export\n") and not IMPORTS_ONLY.fullmatch(source):
                cell["source"] = source.replace("#| export", "#| exports", 1)
        (folder / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    return folder


def processed() -> tuple[Path, dict[str, str]]:
    "`_proc/`, the notebooks as nbdev prepares them, and each page's name by its notebook's name."
    from nbdev.doclinks import _build_modidx
    from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
    from nbdev.serve import proc_nbs

    refresh_quarto_yml()
    _build_modidx()
    nbdev_sidebar.__wrapped__()
    with tempfile.TemporaryDirectory() as copy:
        proc = proc_nbs(with_sources(Path(copy)), force=True, n_workers=0)
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(proc.glob("*.ipynb"))}
    pages = {}
    for path, text in texts.items():
        named = re.search(r"output-file: ([\w.-]+)\.html", text)
        pages[path.stem] = named[1] if named else path.stem
    symbols = {page: name for name, page in pages.items()}
    shown = {
        pages[path.stem]: set(re.findall(r"#+ ([\w.]+)\\n", text.lower()))
        for path, text in texts.items()
    }

    def to_notebook(link: re.Match) -> str:
        "nbdev links a symbol to /page.html#symbol, shown there or not; its notebook is safer."
        start, page, symbol = link.groups()
        if page not in symbols:
            return link[0]
        place = next((s for s in (symbol, symbol.split(".")[0]) if s in shown[page]), "")
        return f"{start}{symbols[page]}.ipynb" + (f"#{place}" if place else "")

    for path, text in texts.items():
        for _, name in UP.findall(text):
            (proc / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, proc / name)
        text = OPEN.sub("#| code-fold: true", UP.sub(r"\1\2", text))
        text = COMMENT.sub(lambda comment: LINK.sub(r"\1", comment[0]), text)
        text = re.sub(r"(\]\(|href=\\?\")/([\w.-]+)\.html#([\w.]+)", to_notebook, text)
        path.write_text(text, encoding="utf-8")
    return proc, pages


def render_with_smalldocs(proc: Path, pages: dict[str, str]) -> None:
    """Render `_proc/` without Quarto.

    smalldocs knows no `output-file`, so the notebooks take their pages' names; and it leaves maths
    to a script from the network, so MathML takes its place, as `html-math-method: mathml` asks."""
    names = "|".join(map(re.escape, pages))
    link = re.compile(rf"(\]\(|href=\\?\"|^\s*- )({names})\.ipynb", re.M)
    for path in [proc / "sidebar.yml", *(proc / f"{name}.ipynb" for name in pages)]:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"^ *\"output-file: .*\n", "", text, flags=re.M)
        path.write_text(link.sub(lambda m: f"{m[1]}{pages[m[2]]}.ipynb", text), encoding="utf-8")
        path.rename(path.with_stem(pages.get(path.stem, path.stem)))
    settings = proc / "_quarto.yml"
    text = re.sub(r" *(html-math-method|grid): .*\n", "", settings.read_text(encoding="utf-8"))
    settings.write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "smalldocs.cli", "render", "--strict", proc], check=True)
    for page in (proc / "_docs").glob("**/*.html"):
        page.write_text(with_mathml(page.read_text(encoding="utf-8")), encoding="utf-8")


def with_mathml(page: str) -> str:
    "`page` with its TeX as MathML and without the scripts that would have drawn it."
    if 'class="math' not in page:
        return page
    from latex2mathml.converter import convert

    def mathml(match: re.Match) -> str:
        display = {"inline": "inline", "display": "block"}[match[1]]
        return convert(html.unescape(match[2]), display=display)

    page = re.sub(
        r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', mathml, page, flags=re.S
    )
    return re.sub(r"<link[^>]*katex[^>]*>|<script[^>]*katex[^>]*></script>", "", page)


def build_site() -> None:
    "`_docs/` from the notebooks; the old one stays if anything fails."
    proc, pages = processed()
    if shutil.which("quarto"):
        subprocess.run(["quarto", "render", "--no-cache", "--no-execute"], cwd=proc, check=True)
    else:
        render_with_smalldocs(proc, pages)
    shutil.rmtree(ROOT / "_docs", ignore_errors=True)
    shutil.move(proc / "_docs", ROOT / "_docs")
    shutil.rmtree(proc)


class _Page(HTMLParser):
    "What a page links to, and what can be linked to in it."

    def __init__(self, text: str):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        needed = tag != "a" and given.get("rel") not in ("canonical", "prev", "next", "alternate")
        self.links += [(given[name], needed) for name in ("href", "src") if name in given]


def broken_links(folder: Path) -> list[str]:
    "What in the pages of `folder` leads nowhere, or can't be shown without a network."
    pages = {
        path: _Page(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("**/*.html"))
    }
    broken = []
    for path, page in pages.items():
        for link, needed in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if needed and parts.scheme != "data":
                    broken.append(f"{path.relative_to(folder)}: {link} needs a network")
                continue
            start = folder if parts.path.startswith("/") else path.parent
            target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.is_file():
                broken.append(f"{path.relative_to(folder)}: {link} does not exist")
            elif anchor and target in pages and anchor not in pages[target].ids:
                broken.append(f"{path.relative_to(folder)}: {link} has no such place on its page")
    return broken


def readme(index: Path) -> str:
    "The text of README.md: the cells of `index`, with links that work from the top folder."
    import nbformat
    from nbconvert import MarkdownExporter

    notebook = nbformat.read(index, as_version=4)
    notebook.cells = [
        c for c in notebook.cells if not re.match(r"#\|\s*(hide|default_exp)", c.source)
    ]
    for cell in notebook.cells:
        cell.source = re.sub(r"^#\|.*\n", "", cell.source, flags=re.M)
    text, resources = MarkdownExporter().from_notebook_node(notebook)
    if resources["outputs"]:
        raise ValueError(f"{index} has a picture in an output: link to a file of results/ instead")
    text = re.sub(r"<style.*?</style>\n?", "", text, flags=re.S)  # GitHub would print it as text
    text = re.sub(r"\]\(([\w.-]+\.ipynb)", r"](nbs/\1", UP.sub(r"\1\2", text)).strip()
    return f"<!-- Made from nbs/{index.name}: edit that and run `make prepare`. -->\n\n{text}\n"


def with_outputs(notebook: dict, executed: dict) -> int:
    """Give the cells of `notebook` the outputs of its executed copy; how many are marked `#| run`.

    A notebook without such cells stays as it is. Progress and warnings on stderr stay behind.
    Raises `ValueError` for a cell that has changed since, or that was never run."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    marked = sum("".join(cell["source"]).startswith("#| run") for cell in cells)
    ran = {cell["id"]: cell for cell in executed["cells"]}
    for cell in cells if marked else []:
        copy = ran.get(cell["id"], {"source": "", "outputs": []})
        if "".join(copy["source"]) != "".join(cell["source"]) or copy["execution_count"] is None:
            raise ValueError(f"cell {cell['id']} isn't the one that was run: `make study` first")
        cell["outputs"] = [o for o in copy["outputs"] if o.get("name") != "stderr"]
        for data in (o["data"] for o in cell["outputs"] if "image/png" in o.get("data", {})):
            data["image/png"] = with_palette(data["image/png"])
    return marked


def with_palette(picture: str) -> str:
    "A picture (PNG in base64) in 128 colours: plots need no more, and a third of the space."
    from PIL.Image import Dither, Quantize, open

    small = io.BytesIO()
    image = open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image = image.quantize(128, method=Quantize.MAXCOVERAGE, dither=Dither.NONE)
    image.save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode() + "\n"


def store_outputs(runs: Path) -> None:
    "Take over the outputs of each stage that has an executed copy in `runs`."
    for path in sorted((ROOT / "nbs").glob("[0-9]*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        executed = json.loads((runs / path.name).read_text(encoding="utf-8"))
        if with_outputs(notebook, executed):
            text = json.dumps(notebook, indent=1, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")


def main() -> int:
    "Build what the command line asks for; 1 if a link is broken."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--readme", action="store_true", help="write README.md only")
    parser.add_argument("--check", action="store_true", help="check the links of _docs only")
    parser.add_argument("--outputs", action="store_true", help="store outputs of runs/nano only")
    asked = parser.parse_args()
    os.chdir(ROOT)
    if asked.outputs:
        store_outputs(ROOT / "runs" / "nano")
        return 0
    if asked.readme:
        (ROOT / "README.md").write_text(readme(ROOT / "nbs/index.ipynb"), encoding="utf-8")
        return 0
    if not asked.check:
        build_site()
    broken = broken_links(ROOT / "_docs")
    print(*broken, f"_docs: {len(broken)} broken links", sep="\n", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
