"""The corpus pipeline: documents a second of each step, its growth, two workers against one.

    python -m benchmarks.filter [--documents 1200] [--rounds 5] [--keep FILE] [--minutes 4]

A measurement is kept in FILE as it ends, and those of earlier calls count, so that a long run can
be done in pieces: none begins after `--minutes`. When all have their rounds, two files are written.

`results/filter_steps.csv`: documents a second of one core by step, for all documents at once and
for each tenth of them in turn; `phi1_plan` extrapolates from a copy in the package.

`results/filter.csv`: two workers against one, each in a fresh process, from the files to the
counts; all documents at once against ten tenths (1 is linear growth); embeddings batched by length
against the given order.
"""

import argparse
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks.common import RESULTS, row, seconds, write
from phi1_nb import embedders
from phi1_nb.annotation import read_recorded
from phi1_nb.contamination import Gate, benchmark_problems
from phi1_nb.corpus import (
    Duplicates,
    ShardWriter,
    SourceFile,
    broken_rule,
    count_tokens,
    files_up_to,
    installed_files,
    read_file,
    signature,
)
from phi1_nb.embedders import features
from phi1_nb.forest import filter_scores, fit_filter
from phi1_nb.quality_filter import annotate
from phi1_nb.sources import Files
from phi1_nb.steps import clean, mask_secrets

PACKAGED = Path(__file__).parents[1] / "phi1_nb" / "data" / "filter_steps.csv"
STEPS = ("read", "rules", "sign", "compare", "mask", "benchmarks", "count tokens", "write")
STEPS += ("n-grams", "score")
SNIPPETS = 40  # that are embedded


def chosen(n: int) -> list[SourceFile]:
    "The first `n` files of the installed corpus that are no giants."
    files = [f for f in files_up_to(installed_files()) if f.file.stat().st_size < 1 << 18]
    return files[:n]


def compare(signatures: list) -> None:
    known = Duplicates()
    for key, minima in signatures:
        known.seen(key, minima)


def save(documents: list, folder: Path) -> None:
    with ShardWriter(folder) as writer:
        for document in documents:
            writer.write(document)


class Steps:
    "Runs one step over a slice of the documents; what it needs of earlier steps is made before."

    def __init__(self, files: list[SourceFile], folder: Path):
        self.files, self.folder = files, folder
        self.documents = [read_file(file) for file in files]
        self.texts = [document.text for document in self.documents]
        self.signatures = [signature(text) for text in self.texts]
        self.counts = features(self.texts)
        some = self.texts[:200]
        self.arrays = fit_filter(self.counts[:200], pd.Series(map(annotate, some)).to_numpy())
        self.gate = Gate(benchmark_problems())
        gc.collect()
        gc.freeze()

    def run(self, step: str, first: int, last: int) -> None:
        documents, texts = self.documents[first:last], self.texts[first:last]
        work: dict[str, Callable[[], object]] = {
            "read": lambda: [read_file(file) for file in self.files[first:last]],
            "rules": lambda: [broken_rule(document) for document in documents],
            "sign": lambda: [signature(text) for text in texts],
            "compare": lambda: compare(self.signatures[first:last]),
            "mask": lambda: [mask_secrets(text) for text in texts],
            "benchmarks": lambda: [self.gate.check(text) for text in texts],
            "count tokens": lambda: [count_tokens(text) for text in texts],
            "write": lambda: save(documents, self.folder / "written"),
            "n-grams": lambda: features(texts),
            "score": lambda: filter_scores(self.arrays, self.counts[first:last]),
        }
        work[step]()

    def seconds(self, step: str, parts: int) -> float:
        "Of all documents, in so many parts."
        edges = [len(self.files) * i // parts for i in range(parts + 1)]
        return seconds(
            lambda: [self.run(step, *ends) for ends in zip(edges, edges[1:], strict=False)]
        )


def tiny_codegen(folder: Path) -> str:
    "A random CodeGen with a tokenizer of bytes, as in `00y_embedders` but wider."
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CodeGenConfig, CodeGenForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    by_byte = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    by_byte.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=by_byte).save_pretrained(folder)
    sizes = dict(n_positions=2048, n_embd=128, n_layer=2, n_head=4, rotary_dim=16)
    CodeGenForCausalLM(CodeGenConfig(vocab_size=256, **sizes)).save_pretrained(folder)
    return str(folder)


def in_given_order(ids: list[list[int]], batch_tokens: int) -> list[list[int]]:
    "As `embedders._by_length`, without sorting."
    batches, longest = [[]], 0
    for i in range(len(ids)):
        longest = max(longest, len(ids[i]))
        if batches[-1] and longest * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
            longest = len(ids[i])
        batches[-1].append(i)
    return batches


class Embeddings:
    def __init__(self, folder: Path):
        self.model = tiny_codegen(folder / "codegen")
        self.texts = [line["code"] for line in read_recorded("annotations.jsonl.gz")[:SNIPPETS]]
        self.by_length = embedders._by_length
        features(self.texts[:2], self.model)

    def seconds(self, batches: Callable) -> float:
        embedders._by_length = batches
        try:
            return seconds(lambda: features(self.texts, self.model))
        finally:
            embedders._by_length = self.by_length


def in_fresh_process(n_documents: int, workers: int, folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.filter", "--documents", str(n_documents)]
    command += ["--once", str(workers), "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measurements(n: int, folder: Path) -> dict[str, Callable[[], float]]:
    steps, embeddings = Steps(chosen(n), folder), Embeddings(folder)
    found = {
        f"{workers} worker(s)": lambda w=workers: in_fresh_process(n, w, folder / "clean")
        for workers in (1, 2)
    }
    for step in STEPS:
        found[f"{step}, whole"] = lambda s=step: steps.seconds(s, 1)
        found[f"{step}, tenths"] = lambda s=step: steps.seconds(s, 10)
    found["by length"] = lambda: embeddings.seconds(embeddings.by_length)
    found["given order"] = lambda: embeddings.seconds(in_given_order)
    return found


def table(values: dict[str, list[float]], n: int) -> pd.DataFrame:
    rows = []
    for size, share, name in ((n // 10, 10, "tenths"), (n, 1, "whole")):
        for step in STEPS:
            found = values[f"{step}, {name}"]
            middle = statistics.median(found) / share
            rate = round(n / share / middle, 1)
            rows.append((step, size, round(middle, 4), rate, len(found)))
    columns = ["step", "documents", "seconds", "documents_per_s", "runs"]
    return pd.DataFrame(rows, columns=columns)


def report(values: dict[str, list[float]], n: int) -> None:
    steps = table(values, n)
    for path in (RESULTS / "filter_steps.csv", PACKAGED):
        steps.to_csv(path, index=False)
    print(steps.to_string())
    rate = {name: [n / value for value in values[name]] for name in ("1 worker(s)", "2 worker(s)")}
    for name in ("by length", "given order"):
        rate[name] = [SNIPPETS / value for value in values[name]]
    for name in ("whole", "tenths"):
        rounds = zip(*(values[f"{step}, {name}"] for step in STEPS), strict=True)
        rate[name] = [n / sum(taken) for taken in rounds]
    lines = [
        row(
            f"documents/s of the cleaning, {n} documents, 2 workers",
            "1 worker",
            rate["2 worker(s)"],
            rate["1 worker(s)"],
        ),
        row(
            f"documents/s, all steps, {n} documents at once",
            "the same in ten tenths",
            rate["whole"],
            rate["tenths"],
        ),
        row(
            "snippets/s embedded, batched by length",
            "in the given order",
            rate["by length"],
            rate["given order"],
        ),
    ]
    print(*lines, sep="\n")
    write("filter", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=5, help="of each; 4 more of the workers")
    parser.add_argument("--keep", type=Path, help="JSON file of earlier measurements")
    parser.add_argument("--minutes", type=float, default=60, help="no measurement begins later")
    parser.add_argument("--once", type=int, help="clean with so many workers, print the seconds")
    parser.add_argument("--folder", type=Path, help="for --once")
    asked = parser.parse_args()
    if asked.once:
        source = Files(chosen(asked.documents))
        print(seconds(lambda: clean(source, asked.folder, workers=asked.once)))
        return
    began, n = time.monotonic(), asked.documents
    values = json.loads(asked.keep.read_text()) if asked.keep and asked.keep.exists() else {}
    if values.setdefault("documents", n) != n:
        parser.error(f"{asked.keep} holds rounds of {values['documents']} documents, not {n}")
    folder = Path(tempfile.mkdtemp())
    tasks = measurements(n, folder)
    wanted = {name: asked.rounds + (4 if "worker" in name else 0) for name in tasks}
    for number in range(max(wanted.values())):
        for name in list(tasks) if number % 2 == 0 else list(tasks)[::-1]:
            done = values.setdefault(name, [])
            enough = len(done) > number or number >= wanted[name]
            if enough or time.monotonic() - began > 60 * asked.minutes:
                continue
            done.append(tasks[name]())
            print(f"{number} {name:24s} {done[-1]:8.3f} s", flush=True)
            if asked.keep:
                asked.keep.write_text(json.dumps(values))
    left = sum(wanted[name] - len(values[name]) for name in tasks)
    print(f"{left} measurements are left" if left else "complete")
    if not left:
        report(values, n)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
