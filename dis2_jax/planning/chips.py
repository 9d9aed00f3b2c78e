"""Public figures of accelerator chips. Bandwidths are bytes per second in one direction."""

from __future__ import annotations

import dataclasses
from typing import Literal

from dis2_jax.schema import Dis2Error, nearest

Platform = Literal["tpu", "cuda", "cpu"]

GB = 10**9
GIB = 2**30
TERA = 10**12
GBIT = 10**9 / 8


@dataclasses.dataclass(frozen=True)
class GpuTarget:
    """What XLA's GPU compiler wants to know besides memory and bandwidth (the text proto of `gpu_target`)."""

    description: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    clock_ghz: float
    l2_bytes: int


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip and its networks; ``None`` where its maker publishes no figure."""

    name: str
    platform: Platform
    bf16_flops: float
    """Peak FLOP/s of matrix products in bfloat16, dense."""
    memory: int
    """Bytes of HBM."""
    memory_bandwidth: float
    link_bandwidth: float
    """ICI: of one link, in one direction. NVLink: of all links of the chip together, in one direction."""
    host_bandwidth: float | None
    """Of one chip's share of its host's network: DCN (TPU), InfiniBand (GPU)."""
    chips_per_host: int
    """In a slice or cluster of several hosts."""
    source: str
    single_host: tuple[int, ...] = ()
    """Largest slice that comes as one host all the same; empty: hosts have ``chips_per_host`` everywhere."""
    devices_per_chip: int = 1
    """What JAX counts as devices. Where it is 2, peak, memory and bandwidths above are the whole chip's."""
    torus: int = 0
    """Dimensions of the ICI torus; 0: all chips of a host see each other (NVSwitch)."""
    wrap: int = 0
    """A torus dimension closes to a ring where its length is a multiple of this."""
    clock_ghz: float | None = None
    """Of the compiler's cycle estimates."""
    launch_seconds: float = 0.0
    """Passes for every instruction besides what it moves; in a TPU's cycles it is counted already."""
    gpu: GpuTarget | None = None
    float32_share: float = 0.5
    """Peak in float32 as a share of bfloat16's: what the default matrix precision reaches."""

    def peak_flops(self, dtype: str) -> float:
        """Peak FLOP/s of matrix products in ``dtype`` (``bfloat16`` or ``float32``)."""
        return self.bf16_flops * (1.0 if dtype == "bfloat16" else self.float32_share)

    @property
    def local_network(self) -> str:
        """Name of the network inside a slice or a host."""
        return {"tpu": "ICI", "cuda": "NVLink", "cpu": "memory"}[self.platform]

    @property
    def host_network(self) -> str:
        """Name of the network between slices (TPU) or hosts (GPU)."""
        return {"tpu": "DCN", "cuda": "InfiniBand", "cpu": "network"}[self.platform]


KERNEL_SECONDS = 1e-6
"""Between two kernels of a stream. NVIDIA's figures for launches are 0.5 us (CUDA graphs) to 0.9 us (streams)."""

CHIPS = (
    Chip(
        name="v4",
        platform="tpu",
        bf16_flops=275 * TERA,
        memory=32 * GIB,
        memory_bandwidth=1200 * GB,
        link_bandwidth=50 * GB,
        host_bandwidth=None,
        chips_per_host=4,
        torus=3,
        wrap=4,
        clock_ghz=1.05,
        float32_share=1.0,
        source="cloud.google.com/tpu/docs/v4; links and clock: Jouppi et al., ISCA 2023 (six, 50 GB/s each)",
    ),
    Chip(
        name="v5e",
        platform="tpu",
        bf16_flops=197 * TERA,
        memory=16 * GIB,
        memory_bandwidth=819 * GB,
        link_bandwidth=50 * GB,
        host_bandwidth=25 * GBIT,
        chips_per_host=4,
        single_host=(2, 4),
        torus=2,
        wrap=16,
        clock_ghz=1.5,
        float32_share=1.0,
        source="cloud.google.com/tpu/docs/v5e: 400 GB/s over 4 ports both ways, 6.4 Tbit/s per pod of 256; "
        "clock: peak over its 4 matrix units of 128 x 128",
    ),
    Chip(
        name="v5p",
        platform="tpu",
        bf16_flops=459 * TERA,
        memory=95 * GIB,
        memory_bandwidth=2765 * GB,
        link_bandwidth=100 * GB,
        host_bandwidth=50 * GBIT,
        chips_per_host=4,
        torus=3,
        wrap=4,
        clock_ghz=1.75,
        float32_share=1.0,
        source="cloud.google.com/tpu/docs/v5p: 1200 GB/s over 6 ports both ways, DCN 50 Gbit/s per chip; "
        "clock: peak over its 8 matrix units of 128 x 128",
    ),
    Chip(
        name="v6e",
        platform="tpu",
        bf16_flops=918 * TERA,
        memory=32 * GIB,
        memory_bandwidth=1638 * GB,
        link_bandwidth=100 * GB,
        host_bandwidth=100 * GBIT,
        chips_per_host=4,
        single_host=(2, 4),
        torus=2,
        wrap=16,
        clock_ghz=1.75,
        float32_share=1.0,
        source="cloud.google.com/tpu/docs/v6e: 800 GB/s over 4 ports both ways; DCN: the table of .../tpu7x; "
        "clock: peak over its 4 matrix units' worth of 256 x 256",
    ),
    Chip(
        name="tpu7x",
        platform="tpu",
        bf16_flops=2307 * TERA,
        memory=192 * GIB,
        memory_bandwidth=7380 * GB,
        link_bandwidth=100 * GB,
        host_bandwidth=100 * GBIT,
        chips_per_host=4,
        devices_per_chip=2,
        torus=3,
        wrap=4,
        float32_share=1.0,
        source="cloud.google.com/tpu/docs/tpu7x: 1200 GB/s over 6 ports both ways, DCN 100 Gbit/s per chip",
    ),
    Chip(
        name="h100",
        platform="cuda",
        bf16_flops=989 * TERA,
        memory=80 * GB,
        memory_bandwidth=3350 * GB,
        link_bandwidth=450 * GB,
        host_bandwidth=50 * GB,
        chips_per_host=8,
        launch_seconds=KERNEL_SECONDS,
        source="NVIDIA H100 SXM data sheet (1979 TFLOP/s with sparsity), DGX H100: 8 x 400 Gbit/s",
        gpu=GpuTarget("NVIDIA H100 80GB HBM3", (9, 0), 132, 1.98, 50 * 2**20),
    ),
    Chip(
        name="h200",
        platform="cuda",
        bf16_flops=989 * TERA,
        memory=141 * GB,
        memory_bandwidth=4800 * GB,
        link_bandwidth=450 * GB,
        host_bandwidth=50 * GB,
        chips_per_host=8,
        launch_seconds=KERNEL_SECONDS,
        source="NVIDIA H200 SXM data sheet, DGX H200: 8 x 400 Gbit/s",
        gpu=GpuTarget("NVIDIA H200", (9, 0), 132, 1.98, 50 * 2**20),
    ),
    Chip(
        name="b200",
        platform="cuda",
        bf16_flops=2250 * TERA,
        memory=180 * GB,
        memory_bandwidth=8000 * GB,
        link_bandwidth=900 * GB,
        host_bandwidth=50 * GB,
        chips_per_host=8,
        launch_seconds=KERNEL_SECONDS,
        source="NVIDIA DGX B200 data sheet: 1440 GB, 64 TB/s, 14.4 TB/s NVLink for 8; 8 x 400 Gbit/s",
        gpu=GpuTarget("NVIDIA B200", (10, 0), 148, 1.965, 126 * 2**20),
    ),
)


def chip(name: str) -> Chip:
    """Look a chip up; an unknown name raises ``Dis2Error`` with the known ones."""
    for known in CHIPS:
        if known.name == name:
            return known
    names = [c.name for c in CHIPS]
    raise Dis2Error(f"no chip {name!r}{nearest(name, names)}; known are {', '.join(names)}")
