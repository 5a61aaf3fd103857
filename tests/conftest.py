import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; `pytest -m slow`")
    config.addinivalue_line("markers", "gpu: needs a CUDA device; `pytest -m gpu`")
