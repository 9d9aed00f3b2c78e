"""XLA's description of a GPU that is not there, as a text proto."""

from __future__ import annotations

from dis2_jax.planning.chips import Chip


def target_config(chip: Chip) -> str:
    """Describe ``chip`` (a CUDA one) to the CUDA plugin. Limits per block and per multiprocessor: Hopper, Blackwell."""
    gpu = chip.gpu
    assert gpu is not None
    major, minor = gpu.compute_capability
    limits = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_core": 228 * 1024,
        "threads_per_core_limit": 2048,
        "core_count": gpu.multiprocessors,
        "fpus_per_core": 128,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": int(chip.memory_bandwidth),
        "l2_cache_size": gpu.l2_bytes,
        "clock_rate_ghz": gpu.clock_ghz,
        "device_memory_size": chip.memory,
        "shared_memory_per_block_optin": 227 * 1024,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }
    lines = [f"  {name}: {value}" for name, value in limits.items()]
    minor_text = f" minor: {minor}" if minor else ""
    return "\n".join(
        [
            "gpu_device_info {",
            *lines,
            f"  cuda_compute_capability {{ major: {major}{minor_text} }}",
            "}",
            'platform_name: "CUDA"',
            "dnn_version_info { major: 9 minor: 10 }",
            "runtime_version { major: 13 }",
            f'device_description_str: "{gpu.description}"',
            "",
        ]
    )
