"""Normalisation: the card's statistics, exact inverse, clear refusals."""

import numpy as np
import pytest

from dis2_jax.data.normalize import denormalize, normalize
from dis2_jax.schema import Dis2Error, Modality

RGB = Modality("rgb", 3, kind="optical", mean=(100.0, 90.0, 80.0), std=(40.0, 30.0, 0.0))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_card_statistics_per_channel(dtype):
    x = np.arange(2 * 4 * 5 * 3).reshape(2, 4, 5, 3).astype(dtype)
    x.setflags(write=False)
    z = normalize(x, RGB, "card")
    assert z.dtype == np.float32
    want = (x.astype(np.float64) - [100, 90, 80]) / [40, 30, 1]  # a constant channel is only shifted
    np.testing.assert_allclose(z, want, rtol=1e-5, atol=1e-5)
    back = denormalize(z, RGB, "card")
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, x, atol=1e-4)


def test_none_keeps_the_values_and_copies():
    x = np.ones((2, 2, 3), np.float32)
    z = normalize(x, RGB, "none")
    z += 1
    assert (x == 1).all()
    assert (denormalize(z, RGB, "none") == 2).all()
    assert normalize(np.ones((2, 2, 1)), Modality("height", 1), "none").dtype == np.float32


def test_far_from_zero_keeps_its_digits():
    dem = Modality("dem", 1, mean=(8000.0,), std=(0.5,))
    z = normalize(np.array([[[8000]], [[8001]]], np.int16), dem, "card")
    np.testing.assert_array_equal(z.ravel(), [0, 2])


def test_refusals_name_the_modality():
    with pytest.raises(Dis2Error, match=r"'rgb'.*\(4, 4, 1\).*3 channels"):
        normalize(np.zeros((4, 4, 1)), RGB, "card")
    with pytest.raises(Dis2Error, match=r"'sar'.*0 means"):
        normalize(np.zeros((4, 4, 2)), Modality("sar", 2), "card")
    with pytest.raises(Dis2Error, match="not finite"):
        denormalize(np.zeros((4, 4, 1)), Modality("h", 1, mean=(float("nan"),), std=(1.0,)), "card")
