"""The machine at hand and the target a model is made for: plain values, probed without heavy imports."""

from __future__ import annotations

import functools
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from picual import _lazy
from picual.errors import DeviceUnavailable

Device = Literal["cpu", "gpu", "npu"]

# Execution provider -> the device it drives and the extra that brings it.
PROVIDERS: dict[str, tuple[Device, str]] = {
    "CPUExecutionProvider": ("cpu", "cpu"),
    "CUDAExecutionProvider": ("gpu", "gpu"),
    "TensorrtExecutionProvider": ("gpu", "gpu"),
    "NvTensorRTRTXExecutionProvider": ("gpu", "gpu"),
    "DmlExecutionProvider": ("gpu", "directml"),
    "ROCMExecutionProvider": ("gpu", "gpu"),
    "MIGraphXExecutionProvider": ("gpu", "gpu"),
    "WebGpuExecutionProvider": ("gpu", "gpu"),
    "JsExecutionProvider": ("gpu", "gpu"),
    "OpenVINOExecutionProvider": ("cpu", "openvino"),
    "QNNExecutionProvider": ("npu", "cpu"),
    "VitisAIExecutionProvider": ("npu", "cpu"),
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the model is made for; described, not necessarily present."""

    device: Device = "cpu"
    provider: str = "CPUExecutionProvider"
    runtime: Literal["onnxruntime-genai", "onnxruntime", "transformers"] = "onnxruntime-genai"
    memory: int | None = None  # bytes the model may use there; None: what this machine has
    threads: int | None = None  # intra-op threads; None: the physical cores of this machine

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    def require_here(self) -> None:
        """Raise ``DeviceUnavailable`` unless this machine can run the target's provider."""
        available = available_providers()
        if self.provider not in available:
            raise DeviceUnavailable(
                f"execution provider `{self.provider}` is not on this machine (here: {', '.join(available)})",
                hint="add `--target local` to use this machine's own provider",
            )


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What this machine has, in bytes and counts."""

    cores: int
    memory: int
    memory_free: int
    system: str
    processor: str
    instructions: tuple[str, ...]  # the vector extensions that decide which kernels run

    @property
    def device_class(self) -> str:
        """Name the kind of machine: equal names promise equal bytes from the same step."""
        return f"{self.system}-{self.processor}-{'+'.join(self.instructions) or 'plain'}"


def machine() -> Machine:
    """Probe this machine (a few milliseconds, no subprocess)."""
    import psutil

    memory = psutil.virtual_memory()
    return Machine(
        cores=physical_cores(),
        memory=memory.total,
        memory_free=memory.available,
        system=platform.system().lower(),
        processor=platform.machine().lower(),
        instructions=_vector_extensions(),
    )


def physical_cores() -> int:
    """Return the cores this process may use, hyper-threads not counted twice."""
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or usable, usable))


def _vector_extensions() -> tuple[str, ...]:
    known = (
        "avx2",
        "avx512f",
        "avx512_vnni",
        "avx_vnni",
        "avx512_bf16",
        "amx_bf16",
        "amx_int8",
        "asimd",
        "i8mm",
    )
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return ()
    for line in cpuinfo.read_text(errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.split(":", 1)[1].split())
            return tuple(name for name in known if name in flags)
    return ()


@functools.cache
def available_providers() -> tuple[str, ...]:
    """Return the execution providers of the installed ONNX Runtime, without importing it where possible.

    Importing onnxruntime takes half a second, so the flavour that is installed decides: the plain wheel
    carries the CPU provider alone.
    """
    flavours = {
        "onnxruntime-gpu": ("CUDAExecutionProvider", "TensorrtExecutionProvider"),
        "onnxruntime-directml": ("DmlExecutionProvider",),
        "onnxruntime-openvino": ("OpenVINOExecutionProvider",),
        "onnxruntime-qnn": ("QNNExecutionProvider",),
    }
    extra = [name for wheel, names in flavours.items() if _lazy.version_of(wheel) for name in names]
    if not has_gpu():
        extra = [name for name in extra if PROVIDERS[name][0] != "gpu"]
    return (*extra, "CPUExecutionProvider")


@functools.cache
def has_gpu() -> bool:
    """Say whether a GPU driver is visible: a device node on Linux, DirectX on Windows."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists() or platform.system() == "Windows"


def disk_free(folder: Path) -> int:
    """Return the free bytes on the file system that ``folder`` is or will be on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
