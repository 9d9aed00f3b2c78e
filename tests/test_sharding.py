"""Eight devices do what one does, under every strategy: three steps in float64, in processes of their own.

The number of CPU devices is fixed at start-up. Compared: losses, norms, gradients, parameters, averages, optimiser
slots, half-accumulated gradients and running statistics.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from sharding_case import BATCH, CARD, CONFIG, TILE, Case, run_case

SPECS = Path(__file__).parent / "sharding_specs"
BOUND = {"rtol": 1e-9, "atol": 1e-12}
"""Room for another order of the sums."""
LARGEST_PARAMETER = 8 * 4 * 4 * 32 * 64
"""Bytes of an encoder's last kernel."""
LOGITS = 8 * BATCH * TILE[0] * TILE[1] * len(CARD.legend)
"""Of the whole batch."""
LEVEL_4 = 8 * BATCH * TILE[0] * TILE[1] // 16**2 * 8 * CONFIG.model.width * len(CARD.modalities)
"""Of the whole batch, all modalities side by side."""

slow = pytest.mark.sharding
CASES = [
    pytest.param(Case("dp"), marks=slow),  # zero1 splits tiles likewise
    pytest.param(Case("zero1")),
    pytest.param(Case("fsdp")),
    pytest.param(Case("spatial", "data:4,rows:2")),
    pytest.param(Case("spatial", "data:2,rows:4", batch=2), marks=slow),  # fewer tiles than devices
    pytest.param(Case("hsdp", "data:2,fsdp:4"), marks=slow),
    pytest.param(Case("class", "data:2,classes:4"), marks=slow),
    pytest.param(Case("fsdp", "fsdp:4,classes:2"), marks=slow),
    pytest.param(Case("spatial", "data:2,rows:2,classes:2"), marks=slow),
    pytest.param(Case("dp", remat="decoder"), marks=slow),
    pytest.param(Case("dp", remat="branch"), marks=slow),
    pytest.param(Case("fsdp", remat="full"), marks=slow),
    # Each device draws its own dropout there.
    pytest.param(Case("shard_map", dropout=0.0), marks=slow),
    pytest.param(Case("pmap", dropout=0.0), marks=slow),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, np.ndarray]]:
    """What one device finds, by dropout rate, batch size and type."""

    @functools.cache
    def find(dropout: float, batch: int, dtype: str = "float64") -> dict[str, np.ndarray]:
        out = tmp_path_factory.mktemp("single")
        case = Case("single", dropout=dropout, batch=batch, dtype=dtype)
        run_case(out, case)
        with np.load(out / f"{case.name}.npz") as found:
            return dict(found)

    return find


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_three_steps_equal_those_of_one_device(
    reference: Callable[..., dict[str, np.ndarray]], tmp_path: Path, case: Case
) -> None:
    run_case(tmp_path, case)
    expected = reference(case.dropout, case.batch)
    with np.load(tmp_path / f"{case.name}.npz") as found:
        assert set(found) == set(expected)
        for key in found:
            np.testing.assert_allclose(found[key], expected[key], err_msg=key, **BOUND)
    check_traffic(json.loads((tmp_path / f"{case.name}.json").read_text())["collectives"], case)
    if case.remat == "none":
        check_text((tmp_path / f"{case.name}.txt").read_text(), SPECS / f"{case.name}.txt")


@pytest.mark.sharding
@pytest.mark.parametrize(
    "case",
    [Case("fsdp"), Case("spatial", "data:4,rows:2"), Case("class", "data:2,classes:4")],
    ids=lambda case: case.name,
)
def test_bfloat16_differs_from_one_device_by_its_rounding(
    reference: Callable[..., dict[str, np.ndarray]], tmp_path: Path, case: Case
) -> None:
    """bfloat16 and float32 on one device are 4 % apart here in the gradients, and so are eight devices and one."""
    case = dataclasses.replace(case, dtype="bfloat16")
    run_case(tmp_path, case)
    expected = reference(case.dropout, case.batch, case.dtype)
    with np.load(tmp_path / f"{case.name}.npz") as found:
        assert {k: v.dtype for k, v in found.items()} == {k: v.dtype for k, v in expected.items()}
        for key in (k for k in found if k.startswith("step")):
            np.testing.assert_allclose(found[key], expected[key], err_msg=key, rtol=0.02)
        assert _distance(found, expected, "gradients/") < 0.1
        assert _distance(found, expected, "params/") < 0.02


def _distance(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], field: str) -> float:
    """Of all leaves together, as a share."""
    names = [k for k in expected if k.startswith(field)]
    a, b = (np.concatenate([x[k].ravel() for k in names]) for x in (found, expected))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def check_traffic(collectives: list[dict], case: Case) -> None:
    """Nothing is gathered by accident."""
    assert any(c["kind"] == "all-reduce" for c in collectives)
    moved = [c for c in collectives if c["kind"] != "all-reduce"]
    gathered = [c for c in moved if c["kind"] != "collective-permute"]
    if case.strategy in ("dp", "shard_map", "pmap"):
        assert not moved
    elif "classes" in case.axes:
        assert all(c["size"] <= max(LARGEST_PARAMETER, LOGITS) for c in gathered)
    elif case.strategy == "spatial":
        # Convolutions and enlargements exchange rows; level 4 alone, where every token looks at all, changes hands.
        # With fewer tiles than devices, heads are split there, and the gradients of their kernels gathered.
        enough = case.batch == BATCH
        assert all(c["size"] <= (LEVEL_4 if enough else LARGEST_PARAMETER) for c in gathered)
        assert not enough or all("pool" in c["op_name"] for c in gathered if c["kind"] == "all-gather")
        assert len(moved) > len(gathered)
    else:
        assert moved == gathered
        assert all(c["size"] <= LARGEST_PARAMETER for c in gathered)


def check_text(found: str, path: Path) -> None:
    """Compare with the stored text; ``DIS2_WRITE_SPECS=1`` writes it instead."""
    if os.environ.get("DIS2_WRITE_SPECS") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert found == path.read_text(), f"the specs changed: if they should, DIS2_WRITE_SPECS=1 rewrites {path}"
