"The plan against the paper, against measured memory, and against what it must refuse."

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from phi1_nb.config import get_scale
from phi1_nb.flops import flops
from phi1_nb.model import count_parameters
from phi1_nb.paper import paper_table
from phi1_nb.plan import (
    corpus_costs,
    corpus_rates,
    data_costs,
    implied_shares,
    largest_micro_batch,
    memory,
    plan,
)

ROOT = Path(__file__).parent.parent
PHI_1 = get_scale("phi-1")


def test_the_command_prints_one_json_object(tmp_path):
    script = tmp_path / "phi1_plan"
    script.write_text("from phi1_nb.plan import main\n\nmain()\n")
    command = [sys.executable, str(script), "--scale", "phi-1", "--gpus", "8"]
    command += ["--gpu", "a100-80gb", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    made = json.loads(done.stdout)
    assert made["n_params"] == 1_418_270_720 and made["tokens"] == 24_000 * 1024 * 2048
    assert made["micro_batch"] >= 1 and made["fits"]
    assert 0 < made["memory_gb_per_gpu"] <= 80
    assert made["memory_gb_per_gpu"] == pytest.approx(sum(made["memory_gb"].values()))
    assert made["gpu_hours"] == pytest.approx(
        made["flops"] / (made["share_of_peak"] * 312e12 * 3600)
    )


def test_the_hours_are_near_the_papers():
    hours = paper_table("training").query("quantity == 'GPU hours'").set_index("run")["value"]
    assert plan("phi-1").gpu_hours == pytest.approx(hours["phi-1-base"], rel=0.05)
    whole = plan("phi-1").gpu_hours * 36 / 24
    assert whole == pytest.approx(hours["1.3B on The Stack"], rel=0.05)
    shares = implied_shares().share_of_peak
    assert abs(shares.iloc[0] / shares.iloc[1] - 1) < 0.06, "the two large runs agree"


def test_flops_are_six_a_parameter_and_attention():
    parts, n = flops(PHI_1.model), count_parameters(PHI_1.model)["all"]
    embedding = PHI_1.model.vocab_size * PHI_1.model.d_model
    assert parts["matrices"] == pytest.approx(6 * (n - embedding), rel=1e-3)
    assert parts["attention"] == 6 * 24 * 2048 * 2048
    assert sum(flops(PHI_1.model, 7).values()) == 7 * sum(parts.values())


def test_zero_cuts_what_it_says_by_the_number_of_gpus():
    n = count_parameters(PHI_1.model)["all"]
    for stage in range(4):
        parts = memory(PHI_1.model, replace(PHI_1.pretrain, zero_stage=stage), n_gpus=8)
        assert parts["Adam's moments"] * 1e9 == pytest.approx(8 * n / (8 if stage else 1))
        assert parts["weights"] * 1e9 == pytest.approx(2 * n / (8 if stage == 3 else 1))
    offloaded = memory(PHI_1.model, replace(PHI_1.pretrain, offload=True), n_gpus=8)
    assert offloaded["Adam's moments"] == 0


def test_checkpointing_and_more_rows_move_the_activations():
    few, many = (
        memory(PHI_1.model, replace(PHI_1.pretrain, micro_batch_size=rows), 8)["activations"]
        for rows in (1, 4)
    )
    assert many == pytest.approx(4 * few)
    again = replace(PHI_1.pretrain, micro_batch_size=4, activation_checkpointing=True)
    assert memory(PHI_1.model, again, 8)["activations"] < many / 5


def test_the_largest_micro_batch_fits_and_the_next_does_not():
    rows = largest_micro_batch(PHI_1.model, PHI_1.pretrain, 8, 80)
    divisors = [r for r in range(1, 129) if 128 % r == 0]
    use = {r: memory(PHI_1.model, replace(PHI_1.pretrain, micro_batch_size=r), 8) for r in divisors}
    use = {r: sum(parts.values()) for r, parts in use.items()}
    assert rows == max(r for r in divisors if use[r] <= 80) and use[2 * rows] > 80
    small = plan("phi-1", gpu="v100-32gb", gpus=1, zero_stage=1)
    assert not small.fits and small.micro_batch is None


def test_memory_is_within_a_tenth_of_what_was_measured(tmp_path):
    out = tmp_path / "memory.csv"
    command = [sys.executable, "-m", "benchmarks.training_memory", "--out", str(out), "--only"]
    subprocess.run([*command, "5"], cwd=ROOT, check=True, timeout=300)
    with open(out) as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1
    for row in rows:
        assert float(row["predicted_mb"]) == pytest.approx(float(row["measured_mb"]), rel=0.1), row


def test_the_packaged_rates_are_the_benchmarks(tmp_path):
    measured = ROOT / "benchmarks" / "results" / "filter_steps.csv"
    assert corpus_rates() == corpus_rates(str(measured))
    with open(measured, newline="") as file:
        rows = list(csv.DictReader(file))
    most = max(int(row["documents"]) for row in rows)
    expected = {
        row["step"]: float(row["documents_per_s"]) for row in rows if int(row["documents"]) == most
    }
    assert corpus_rates() == expected and len(expected) == 10
    hours = 35e6 / 3600 * sum(1 / rate for rate in expected.values())
    costs = corpus_costs(expected, cores=10, price=0.5).loc["all steps"]
    assert costs.to_list() == pytest.approx([hours, hours / 10, hours / 2])
    (tmp_path / "other.csv").write_text("step,seconds\nread,1\n")
    with pytest.raises(ValueError, match="has no column .*documents_per_s.* give"):
        corpus_rates(str(tmp_path / "other.csv"))


def test_data_costs_are_items_times_cost():
    costs = data_costs({"embed": 3.6e-3}, {"annotate": 0.01}, price=2.0)
    assert costs.gpu_hours.to_dict() == pytest.approx({"annotate": 0, "embed": 35.0})
    assert costs.dollars.to_dict() == pytest.approx({"annotate": 1000.0, "embed": 70.0})


def test_the_command_adds_what_the_data_cost(tmp_path):
    "Half a GPU-second or a cent a sample, two milliseconds a file, a dollar a million tokens."
    script = tmp_path / "phi1_plan"
    script.write_text("from phi1_nb.plan import main\n\nmain()\n")
    command = [sys.executable, str(script), "--json", "--annotate", "0.5", "--annotate_dollars"]
    command += ["0.01", "--embed", "0.002", "--generate_dollars", "1e-6", "--price", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    data = json.loads(done.stdout)["data"]
    hours = {name: row["gpu_hours"] for name, row in data.items()}
    dollars = {name: row["dollars"] for name, row in data.items()}
    assert hours == pytest.approx({"annotate": 1e5 / 7200, "embed": 7e4 / 3600, "generate": 0})
    expected = {"annotate": 3e5 / 7200 + 1000, "embed": 21e4 / 3600, "generate": 1000}
    assert dollars == pytest.approx(expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(scale="phi-2"), "choose one of nano"),
        (dict(gpu="a100"), "choose one of a100-80gb"),
        (dict(run="both"), "choose pretrain or finetune"),
        (dict(gpus=7), "can't be shared by 7 GPUs"),
        (dict(gpus=0), "0 GPUs"),
        (dict(share_of_peak=1.5), "up to 1.0"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan(**arguments)
    with pytest.raises(ValueError, match="no data work"):
        data_costs({"translate": 1.0})
