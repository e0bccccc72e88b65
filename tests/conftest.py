"""What holds for every test: no plug-ins, no network, one thread, and a cache of its own unless it runs the real model."""

import os
import time

os.environ["EFFACE_PLUGINS"] = ""
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[name] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402

BEGAN = time.monotonic()


def pytest_runtest_setup(item):
    """Slow tests that could only begin after EFFACE_SLOW_SECONDS are skipped, and the summary says so."""
    limit = float(os.environ.get("EFFACE_SLOW_SECONDS") or "inf")
    if item.get_closest_marker("slow") is not None and time.monotonic() - BEGAN > limit:
        pytest.skip(f"not begun within {limit:g} s")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny tensors are slower on many threads, and sums on one thread are the same on every machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(request, tmp_path_factory, monkeypatch):
    """Fast tests must neither find nor leave anything in the user's cache."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setenv("EFFACE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
