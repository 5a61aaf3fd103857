"""The site's builder finds what is broken, and the notebooks are fit to be pages."""

import ast
import base64
import importlib.util
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
STAGES = re.compile(r"(01[a-z]|02|04|05|06|07|08|09)_")  # notebooks that papermill runs
IDS = [path.stem for path in NOTEBOOKS]


@pytest.fixture(scope="module")
def build():
    "The module `nbs/_build.py`."
    spec = importlib.util.spec_from_file_location("build", ROOT / "nbs" / "_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(path: Path, kind: str) -> list[tuple[str, dict]]:
    "Source and cell, for each cell of a kind."
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [("".join(c["source"]), c) for c in found if c["cell_type"] == kind]


GOOD = (
    '<link rel="stylesheet" href="a.css"><h2 id="x">X</h2>'
    '<a href="two.html#y">y</a><a href="#x">x</a>'
)


def site(folder: Path, extra: str = "") -> Path:
    (folder / "a.css").write_text("")
    (folder / "one.html").write_text(GOOD + extra)
    (folder / "two.html").write_text('<p id="y"></p><a href="https://arxiv.org">out</a>')
    return folder


def test_a_whole_site_has_no_broken_links(build, tmp_path):
    assert build.broken_links(site(tmp_path)) == []


@pytest.mark.parametrize(
    "planted, found",
    [
        ('<a href="three.html">', "three.html does not exist"),
        ('<a href="two.html#z">', "two.html#z has no such place"),
        ('<a href="#nowhere">', "#nowhere has no such place"),
        ('<img src="missing.png">', "missing.png does not exist"),
        ('<a href="/elsewhere/">', "/elsewhere/ does not exist"),
        ('<script src="https://cdn.example/katex.js"></script>', "needs a network"),
        ('<link rel="stylesheet" href="//cdn.example/a.css">', "needs a network"),
    ],
)
def test_a_planted_broken_link_is_found(build, tmp_path, planted, found):
    (problem,) = build.broken_links(site(tmp_path, planted))
    assert problem.startswith("one.html: ") and found in problem


def test_comments_of_a_signature_have_no_links(build):
    shown = json.dumps(["    q:int=1, # of [`Sign`](/a.html#sign)\n", "# of [`Sign`](/a.html#b)"])
    made = build.COMMENT.sub(lambda comment: build.LINK.sub(r"\1", comment[0]), shown)
    assert json.loads(made) == ["    q:int=1, # of `Sign`\n", "# of [`Sign`](/a.html#b)"]


def test_maths_needs_no_script(build):
    page = (
        '<head><link rel="stylesheet" href="https://x/katex.min.css">'
        '<script defer src="https://x/katex.min.js"></script></head>'
        '<span class="math inline">\\(a &lt; \\frac{1}{2}\\)</span>'
        '<p><span class="math display">\\[x_i^2\\]</span></p>'
    )
    drawn = build.with_mathml(page)
    assert "katex" not in drawn and "\\" not in drawn
    assert drawn.count("<math") == 2 and "<mfrac>" in drawn and 'display="block"' in drawn
    assert build.with_mathml("<p>$5</p>") == "<p>$5</p>"


def test_readme_links_work_from_the_top(build, tmp_path):
    index = tmp_path / "index.ipynb"
    texts = [
        (
            "markdown",
            "# T\n> s\n\n![f](../results/nano/f.png) [c](00a_core.ipynb#key) [o](https://o)",
        ),
        ("code", "#| hide\nsecret = 1"),
        ("code", "#| echo: false\n1 + 1"),
    ]
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}
    for kind, text in texts:
        cell = {"id": f"c{len(text)}", "cell_type": kind, "metadata": {}, "source": text}
        code = {"outputs": [], "execution_count": None} if kind == "code" else {}
        notebook["cells"].append(cell | code)
    index.write_text(json.dumps(notebook))
    text = build.readme(index)
    assert "](results/nano/f.png)" in text and "](nbs/00a_core.ipynb#key)" in text
    assert "](https://o)" in text and "secret" not in text and "#|" not in text


def test_readme_is_what_the_index_says(build):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == build.readme(ROOT / "nbs" / "index.ipynb"), "run `make prepare`"
    links = re.findall(r"\]\(([^)#\s]+)", text)
    local = [link for link in links if not re.match(r"\w+:", link)]
    assert local and [link for link in local if not (ROOT / link).exists()] == []


def test_quarto_finds_its_settings():
    link = ROOT / "nbs" / "_quarto.yml"
    assert link.is_symlink() and link.readlink() == Path("../_quarto.yml")
    settings = yaml.safe_load(link.read_text())
    assert settings["metadata-files"] == ["nbdev.yml", "sidebar.yml"]
    assert settings["format"]["html"]["html-math-method"] == "mathml"
    assert (ROOT / "nbs" / settings["format"]["html"]["css"]).is_file()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_a_notebook_is_small_and_the_same_everywhere(path):
    assert path.stat().st_size <= 300_000
    place = re.compile(r"(?<![\w.])/(?:home|root|work|tmp|usr|Users)/|\bat 0x[0-9a-f]{6,}")
    for source, cell in cells(path, "code"):
        for output in cell["outputs"]:
            data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
            shown = json.dumps([output.get("text"), data, output.get("traceback")])
            assert not place.search(shown), f"{source[:80]}\n{place.search(shown)}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_a_notebook_can_be_a_page(path):
    texts = [source for source, _ in cells(path, "markdown")]
    assert re.match(r"# .+\n+> .+", texts[0]), "begin with '# Title' and '> subtitle'"
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", "\n\n".join(texts), flags=re.M | re.S)
    assert not re.search(r"^#{3}\s", prose, re.M), "### is left to the symbols"
    assert not re.search(r"(?<!\w)@(fig|tbl|sec|eq)-", prose), "only Quarto knows cross-references"
    assert "{mermaid}" not in "".join(texts), "a diagram in mermaid stops the build"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_imports_stand_alone(path):
    "The site's build runs the cells that import; what stands beside an import would run too."
    for source, _ in cells(path, "code"):
        if re.search(r"^\s*[%!]", source, re.M):
            continue
        body = ast.parse(source).body
        imports = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in body]
        assert all(imports) or not any(imports), source


@pytest.mark.parametrize(
    "path", [p for p in NOTEBOOKS if STAGES.match(p.name)], ids=lambda p: p.stem
)
def test_a_stage_takes_its_scale_from_one_cell(path):
    tagged = [
        s for s, cell in cells(path, "code") if "parameters" in cell["metadata"].get("tags", [])
    ]
    assert len(tagged) == 1 and 'scale = "nano"' in tagged[0]


def notebook_of(*sources: str, count: int | None = 1) -> dict:
    "A notebook of code cells a, b, ...; each printed its name and warned."
    made = []
    for name, source in zip("abc", sources, strict=False):
        prints = [{"output_type": "stream", "name": s, "text": name} for s in ("stdout", "stderr")]
        made.append({"cell_type": "code", "id": name, "source": source, "execution_count": count})
        made[-1]["outputs"] = prints
    return {"cells": made}


def test_outputs_of_a_run_are_stored_without_its_warnings(build):
    page, copy = (notebook_of("1 + 1", "#| run\nlosses()") for _ in range(2))
    page["cells"][0]["outputs"] = page["cells"][1]["outputs"] = []
    assert build.with_outputs(page, copy) == 1
    assert [len(cell["outputs"]) for cell in page["cells"]] == [1, 1]
    assert page["cells"][1]["outputs"][0]["name"] == "stdout"


def test_a_stored_picture_is_smaller_and_shows_the_same(build):
    pixels = np.full((200, 200, 3), 255, np.uint8)
    pixels[20:90, 30:120] = (60, 140, 64)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG", compress_level=0)
    small = base64.b64decode(build.with_palette(base64.b64encode(png.getvalue()).decode()))
    assert len(small) < len(png.getvalue()) / 3
    assert (np.asarray(Image.open(io.BytesIO(small)).convert("RGB")) == pixels).all()


def test_a_notebook_without_runs_keeps_its_outputs(build):
    page, copy = notebook_of("1 + 1"), notebook_of("1 + 1")
    page["cells"][0]["outputs"] = []
    assert build.with_outputs(page, copy) == 0
    assert page["cells"][0]["outputs"] == []


NEVER_RUN = notebook_of("1", "#| run\nf()", count=None)


@pytest.mark.parametrize("copy", [notebook_of("1", "#| run\ng()"), notebook_of("1"), NEVER_RUN])
def test_outputs_of_another_cell_are_refused(build, copy):
    with pytest.raises(ValueError, match="make study"):
        build.with_outputs(notebook_of("1", "#| run\nf()"), copy)


def test_the_readme_tells_the_numbers_of_the_committed_run():
    table = pd.read_csv(ROOT / "results" / "nano" / "ablation.csv")
    table = table.set_index(["metric", "arm", "seed"]).value
    told = (ROOT / "README.md").read_text(encoding="utf-8")
    for arm in ("codeexercises", "raw_code_then_exercises"):
        percents = " and ".join(f"{v:.0%}" for v in table["heldout_pass@1", arm])
        assert percents in told, (arm, percents)
    bits = table["humaneval_bits_per_byte"].groupby("arm").mean()
    assert f"{bits['raw_code'] - bits['codetextbook']:.2f} bits per byte" in told


def test_pages_tell_the_numbers_of_the_ablations():
    table = pd.read_csv(ROOT / "results" / "nano" / "data_ablation.csv")
    table = table.set_index(["arm", "model", "metric"])
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "nbs" / "06p_effects.ipynb").read_text(encoding="utf-8")
    solved = {arm: table.loc[arm, "finetuned", "heldout_pass@1"] for arm in ("all", *ABLATED)}
    half = solved["half the families"]
    points = [abs(round(100 * half[f"difference_{end}"])) for end in ("high", "low")]
    whole = f"from {solved['all']['mean']:.0%} to {half['mean']:.0%}"
    assert f"{whole} (three seeds, difference {points[0]} to {points[1]} points)" in readme
    assert whole in page and f"({points[0]} to {points[1]})" in page
    seeds = [f"{solved['without textbooks'][f'seed{seed}']:.0%}" for seed in range(3)]
    assert "{}, {} and {}".format(*seeds) in readme
    random = table.loc["random subset", "pretrained", "humaneval_bits_per_byte"]
    bits = [f"{random[f'difference{end}']:.2f}" for end in ("", "_low", "_high")]
    for told in (readme, page):
        assert "by {} bits per byte ({} to {})".format(*bits) in told
    for arm in ("all", "offline teacher alone"):
        assert f"{table.loc[arm, 'finetuned', 'humaneval_bits_per_byte']['mean']:.2f}" in page


ABLATED = ("half the families", "without textbooks", "without execution")


def test_the_readme_lists_every_notebook():
    told = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [
        name for name in IDS if name != "index" and f"[{name}](nbs/{name}.ipynb)" not in told
    ] == []
