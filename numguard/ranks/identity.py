"""Which rank this process is, on which host, with which device: what a drained node is told by."""

import os
import socket
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """This process within the run.

    Parameters
    ----------
    rank, world_size
        Of the default process group, else of the launcher's environment, else 0 of 1.
    host
        Host name: a rank moves on restart, a node must be drained.
    device, device_uuid
        The accelerator in use, or ``"cpu"`` and an empty string.
    """

    rank: int
    world_size: int
    host: str
    device: str
    device_uuid: str


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default


def this_rank() -> Rank:
    """Return who this process is. Touches no accelerator that is not in use already."""
    rank, world = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    device, uuid = "cpu", ""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        index = torch.cuda.current_device()
        device, uuid = f"cuda:{index}", str(getattr(torch.cuda.get_device_properties(index), "uuid", ""))
    return Rank(rank=rank, world_size=world, host=socket.gethostname(), device=device, device_uuid=uuid)
