"""The frozen weights spread over the processes: each holds its part, and gathers a block while it is used.

PyTorch FSDP (Zhao et al. 2023, arXiv 2304.11277) on the frozen network alone. The LoRA stays whole on every
process and outside of it, so that its gradient is summed, and its state saved, as without. Gathering copies
bits: nothing that is learnt changes.
"""

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from train.lora.adapters import lora_parameters


def shard(network: Any, device: torch.device, processes: int) -> None:
    """Leaves this process its part of every frozen weight of a network with a LoRA, on `device`.

    The network may lie in host memory before: only one block at a time is whole on the device. From then on
    the processes must call it equally often, forward and backward, since each call gathers from all.
    """
    lora = lora_parameters(network)
    for parameter in lora:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device.type, (processes,))
    blocks = set(network._no_split_modules)
    # Inner modules first: what is left of an outer one is a part of its own.
    inside = [m for _, m in network.named_modules() if type(m).__name__ in blocks]
    for module in [*reversed(inside), network]:
        fully_shard(module, mesh=mesh, ignored_params=set(lora))
