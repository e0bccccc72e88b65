"""Neither a kill nor a second process changes what the training loop ends at."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from efface.core.config import Fit
from efface.core.context import Context
from efface.core.errors import EffaceError
from efface.ops.loop import descend
from efface.testing.tiny import context, facts, tiny_lm

FACTS = facts()
FIT = Fit(lr=1e-3, steps=6, batch=8, precision="no")


def lm_run(fit: Fit, ctx: Context | None = None, rank: int = 0) -> tuple[dict[str, torch.Tensor], Context]:
    """Weights after a run on the tiny language model, and its context."""
    ctx, after = ctx or context(), tiny_lm().trainable(rank, 1)

    def loss(batch: Mapping[str, Any]) -> dict[str, Any]:
        return {"forget": 0.5 * after.losses(batch["forget"]).mean(), "keep": after.losses(batch["keep"]).mean()}

    descend(after, {"forget": FACTS.forget, "keep": FACTS.keep}, loss, fit, ctx)
    return {name: p.detach().clone() for name, p in after.model.named_parameters()}, ctx


def furthest(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """Largest difference between two sets of weights."""
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


# -- kill and resume ----------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[3]))
import safetensors.torch
from efface.core.config import Fit
from efface.ops.loop import descend
from efface.testing.tiny import context, facts, tiny_lm

when, rows, after = sys.argv[2], facts(), tiny_lm().trainable(int(sys.argv[4]), 1)
seen = {"losses": 0, "saves": 0}

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def loss(batch):
    seen["losses"] += 1
    if when == "step" and seen["losses"] == 6:
        die()
    return {"forget": 0.5 * after.losses(batch["forget"]).mean(), "keep": after.losses(batch["keep"]).mean()}

save = safetensors.torch.save_file
def save_then_die(*given):
    save(*given)
    seen["saves"] += 1
    if when == "save" and seen["saves"] == 5:  # weights of the second checkpoint are there, its moments are not
        die()

safetensors.torch.save_file = save_then_die
fit = Fit(lr=1e-3, steps=9, batch=8, precision="no", checkpoint=2, schedule="linear", warmup=2)
descend(after, {"forget": rows.forget, "keep": rows.keep}, loss, fit, context(folder=Path(sys.argv[1])))
"""
RESUMED = Fit(lr=1e-3, steps=9, batch=8, precision="no", checkpoint=2, schedule="linear", warmup=2)


def killed(folder: Path, when: str, rank: int) -> None:
    """Start the run in another process, where it kills itself; return once it is dead."""
    given = [sys.executable, "-c", CHILD, str(folder), when, str(torch.get_num_threads()), str(rank)]
    done = subprocess.run(given, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


@pytest.mark.parametrize(("when", "rank", "kept"), [("step", 0, 4), ("save", 4, 2)])
def test_kill_and_resume_end_at_the_same_weights(tmp_path: Path, when: str, rank: int, kept: int) -> None:
    """SIGKILL in the sixth step, or amid the writing of the second checkpoint; then the run goes on, to the very same bits."""
    undisturbed, whole = lm_run(RESUMED, context(folder=tmp_path / "undisturbed"), rank)
    killed(tmp_path / "run", when, rank)
    assert json.loads((tmp_path / "run/checkpoint/state.json").read_text())["step"] == kept
    resumed, ctx = lm_run(RESUMED, context(folder=tmp_path / "run"), rank)
    assert ctx.notes["resumed_at"] == kept
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in undisturbed)
    assert ctx.curve == whole.curve
    assert list((tmp_path / "run").iterdir()) == [], "a finished run leaves no checkpoint, whole or half"


@pytest.mark.parametrize("change", ["seed", "rows", "settings", "purpose"])
def test_a_foreign_checkpoint_is_refused(tmp_path: Path, change: str) -> None:
    after, calls = tiny_lm().trainable(0, 1), []

    def broken(batch: Mapping[str, Any]) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return {"keep": after.losses(batch["keep"]).mean()}

    fit = FIT.model_copy(update={"checkpoint": 2})
    with pytest.raises(KeyboardInterrupt):
        descend(after, {"keep": FACTS.keep}, broken, fit, context(folder=tmp_path))
    before = load_file(tmp_path / "checkpoint/weights.safetensors")
    other = fit.model_copy(update={"lr": 2e-3}) if change == "settings" else fit
    ctx = context(seed=1 if change == "seed" else 0, folder=tmp_path, purpose="another method" if change == "purpose" else "")
    rows = FACTS.keep[1:] if change == "rows" else FACTS.keep
    with pytest.raises(EffaceError, match="belongs to a run of another system"):
        descend(after, {"keep": rows}, broken, other, ctx)
    assert furthest(load_file(tmp_path / "checkpoint/weights.safetensors"), before) == 0, "the checkpoint is left as it was"


# -- two processes ------------------------------------------------------------------------------------------------

PEER = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from efface.core.config import Fit
from efface.core.errors import BadConfig
from efface.ops.loop import descend
from efface.testing.tiny import context, facts, tiny_lm

rows, out, main = facts(), Path(sys.argv[1]), os.environ["RANK"] == "0"
for rank in (0, 4):
    ctx, after = context(), tiny_lm().trainable(rank, 1)
    loss = lambda batch: {"forget": 0.5 * after.losses(batch["forget"]).mean(), "keep": after.losses(batch["keep"]).mean()}
    descend(after, {"forget": rows.forget, "keep": rows.keep}, loss, Fit(lr=1e-4, steps=6, batch=8, accumulate=2, precision="no"), ctx)
    if main:
        save_file({name: p.detach().clone() for name, p in after.model.named_parameters()}, out / f"{rank}.safetensors")
        (out / f"{rank}.json").write_text(json.dumps(ctx.curve))
try:
    descend(tiny_lm().trainable(0, 1), {"keep": rows.keep}, loss, Fit(batch=3), context())
except BadConfig as error:
    (out / f"refused{os.environ['RANK']}").write_text(str(error))
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote that trained together over gloo on this machine."""
    out = tmp_path_factory.mktemp("peers")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", PEER, str(out)], env={**os.environ, **shared, "RANK": r, "LOCAL_RANK": r}, stderr=subprocess.PIPE, text=True)
        for r in "01"
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(error[-2000:] for error in errors)
    return out


@pytest.mark.parametrize("rank", [0, 4])
def test_one_process_equals_two(peers: Path, rank: int) -> None:
    """Six steps of 8 rows, in 2 pieces on each of 2 processes, against the same steps in one: weights to 1e-5, terms to 1e-5."""
    alone, ctx = lm_run(Fit(lr=1e-4, steps=6, batch=8, precision="no"), rank=rank)
    start = dict(tiny_lm().trainable(rank, 1).model.named_parameters())
    assert furthest(alone, load_file(peers / f"{rank}.safetensors")) < 1e-5
    assert furthest(alone, start) > 3e-4, "the run moved the weights far more than the two differ"
    curve = json.loads((peers / f"{rank}.json").read_text())
    for name in ("forget", "keep", "gradient_norm"):
        assert [line[name] for line in curve] == pytest.approx([line[name] for line in ctx.curve], rel=1e-5)


def test_a_batch_that_does_not_divide_by_the_processes(peers: Path) -> None:
    for rank in "01":
        assert "fit.batch = 3 must be a multiple of fit.accumulate x processes = 2" in (peers / f"refused{rank}").read_text()
