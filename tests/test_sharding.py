"""Eight devices do what one does, under every strategy: three steps in float64, in processes of their own.

The number of CPU devices is fixed at start-up. Compared: losses, norms, gradients, parameters, averages, optimiser
slots, half-accumulated gradients and running statistics.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from sharding_case import name_of, run_case

SPECS = Path(__file__).parent / "sharding_specs"
BOUND = {"rtol": 1e-9, "atol": 1e-12}
"""Room for another order of the sums; found: 1.6e-11 |x| + 1.6e-14."""

CASES = [
    pytest.param("dp", ""),
    pytest.param("zero1", ""),
    pytest.param("fsdp", ""),
    pytest.param("hsdp", "data:2,fsdp:4", marks=pytest.mark.sharding),
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What one device finds."""
    out = tmp_path_factory.mktemp("single")
    run_case(out, "single")
    with np.load(out / "single.npz") as found:
        return dict(found)


@pytest.mark.parametrize(("strategy", "axes"), CASES)
def test_three_steps_equal_those_of_one_device(
    reference: dict[str, np.ndarray], tmp_path: Path, strategy: str, axes: str
) -> None:
    run_case(tmp_path, strategy, axes)
    name = name_of(strategy, axes)
    with np.load(tmp_path / f"{name}.npz") as found:
        assert set(found) == set(reference)
        for key in found:
            np.testing.assert_allclose(found[key], reference[key], err_msg=key, **BOUND)
    check_text((tmp_path / f"{name}.txt").read_text(), SPECS / f"{name}.txt")


def check_text(found: str, path: Path) -> None:
    """Compare with the stored text; ``DIS2_WRITE_SPECS=1`` writes it instead."""
    if os.environ.get("DIS2_WRITE_SPECS") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert found == path.read_text(), f"the specs changed: if they should, DIS2_WRITE_SPECS=1 rewrites {path}"
