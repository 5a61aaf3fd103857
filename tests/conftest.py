import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; `pytest -m slow`")
    config.addinivalue_line("markers", "gpu: needs a CUDA device; `pytest -m gpu`")


@pytest.fixture(autouse=True)
def linear_stays_torchs():
    "ZeRO stage 3 replaces `torch.nn.functional.linear` for good, which changes the last bits."
    import torch

    linear = torch.nn.functional.linear
    yield
    torch.nn.functional.linear = linear
