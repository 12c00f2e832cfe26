"""Amounts of cpu, memory and gpu: read from people, checked, shown again.

Units: cpu in cores; memory in bytes inside, written ``512Mi``, ``16g`` or ``16GiB``. k, m, g, t and Ki, Mi, Gi, Ti are
powers of 1024 in any case; a number without a unit is bytes.
"""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from .errors import MaestroError

MIN_MEMORY = 64 * 1024**2
MAX_MEMORY = 64 * 1024**4
MIN_CPU = 0.01
MAX_CPU = 1024.0
MAX_GPU = 64

_MEMORY = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_MEMORY_I = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt])i", re.IGNORECASE | re.ASCII)
_CPU = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)(m?)", re.ASCII)
_GPU_TYPE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def _refuse(what: str, value: object, hint: str) -> MaestroError:
    return MaestroError(
        "invalid_resources", f"{str(value)[:40]!r} is not an amount of {what}; {hint}.", {"field": what}
    )


def parse_memory(value: object, least: int = MIN_MEMORY, most: int = MAX_MEMORY) -> int:
    """Bytes from ``"16Gi"``, ``"16g"``, ``"512Mi"`` or a number of bytes; of one server unless a range is given.

    Raises:
        MaestroError: ``invalid_resources``.
    """
    hint = "write it like 512Mi or 16Gi"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _refuse("memory", value, hint)
    text = str(value).strip()
    match = _MEMORY_I.fullmatch(text) or _MEMORY.fullmatch(text)
    if match is None:
        raise _refuse("memory", value, hint)
    amount = int(float(match[1]) * 1024 ** _POWERS[match[2].lower()])
    if not least <= amount <= most:
        raise _refuse("memory", value, f"take between {format_memory(least)} and {format_memory(most)}")
    return amount


def format_memory(amount: int) -> str:
    """The shortest exact way to write bytes as Kubernetes reads them: ``16Gi``, ``1536Mi``."""
    for power, unit in ((4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
        if amount and amount % 1024**power == 0:
            return f"{amount // 1024**power}{unit}"
    return str(amount)


def show_memory(amount: float) -> str:
    """For people: ``15.9 GiB``."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if amount >= 1024**power:
            return f"{amount / 1024**power:.1f}".removesuffix(".0") + f" {unit}"
    return f"{int(amount)} bytes"


def parse_cpu(value: object, least: float = MIN_CPU, most: float = MAX_CPU) -> float:
    """Cores from ``2``, ``"0.5"`` or ``"500m"``; of one server unless a range is given.

    Raises:
        MaestroError: ``invalid_resources``.
    """
    hint = "write it like 2, 0.5 or 500m"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _refuse("cpu", value, hint)
    match = _CPU.fullmatch(str(value).strip())
    if match is None:
        raise _refuse("cpu", value, hint)
    cores = float(match[1]) / (1000 if match[2] else 1)
    if not math.isfinite(cores) or not least <= cores <= most:
        raise _refuse("cpu", value, f"take between {least:g} and {most:.0f}")
    return round(cores, 3)


def show_cpu(cores: float) -> str:
    """For people: ``2``, ``0.5``."""
    return f"{cores:g}"


def parse_gpu(value: object, most: int = MAX_GPU) -> int:
    """A whole number of GPUs, 0 to 64 unless another limit is given.

    Raises:
        MaestroError: ``invalid_resources``.
    """
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,6}", text) or int(text) > most:
        raise _refuse("gpu", value, f"take a whole number from 0 to {most}")
    return int(text)


def parse_gpu_type(value: object) -> str | None:
    """A kind of GPU as the profiles name it; None and "" are any.

    Raises:
        MaestroError: ``invalid_resources``.
    """
    if value in (None, ""):
        return None
    if not isinstance(value, str) or not _GPU_TYPE.fullmatch(value):
        raise _refuse("gpu type", value, "write it as the profile does, like nvidia-tesla-v100")
    return value


#: fields of models that hold amounts of one server, as people write them
Cpu = Annotated[float, BeforeValidator(lambda value: parse_cpu(value))]
Memory = Annotated[int, BeforeValidator(lambda value: parse_memory(value))]
Gpu = Annotated[int, BeforeValidator(lambda value: parse_gpu(value))]
GpuType = Annotated[str | None, BeforeValidator(parse_gpu_type)]


class Resources(BaseModel):
    """What one launch gets: requests and limits alike.

    Attributes:
        cpu: cores.
        memory: bytes.
        gpu: number of GPUs.
        gpu_type: a kind of GPU as the profiles name it, or None for any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: Cpu = 1.0
    memory: Memory = 1024**3
    gpu: Gpu = 0
    gpu_type: GpuType = None

    def show(self) -> str:
        """For people: ``2 cpu, 4 GiB, 1 gpu (nvidia-tesla-v100)``."""
        parts = [f"{show_cpu(self.cpu)} cpu", show_memory(self.memory)]
        if self.gpu:
            parts.append(f"{self.gpu} gpu" + (f" ({self.gpu_type})" if self.gpu_type else ""))
        return ", ".join(parts)
