"""What a job uses, told as servers tell it: for hours, the status, and whoever looks at a workspace."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from ..service import NotAnswered, Service
from ..usage import gpus
from ..usage.sampler import Programs, Sampler

SECONDS = 30.0


async def tell(environ: Mapping[str, str], sampler: Sampler) -> None:
    """Tell it until this is cancelled; what cannot be told is left out.

    Args:
        sampler: made before anything else ran here.
    """
    service, smi = Service.of(environ), gpus.program(environ)
    while service is not None:
        sample = await asyncio.to_thread(sampler.take, Programs(), asyncio.get_running_loop().time())
        beat = {
            "cpu_seconds": round(sample.cpu_seconds, 2),
            "memory": sample.memory,
            "memory_limit": sample.limit,
            "gpus": await gpus.read(smi),
            "busy": True,
            "kernels": 1,
        }
        try:
            await service.heartbeat(json.dumps(beat))
        except NotAnswered as error:
            if error.refused:
                return
        await asyncio.sleep(SECONDS)
