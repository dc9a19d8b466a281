"""Where the workers of a training meet: at an address that only they can reach.

By itself torch's store listens on all interfaces of a node, and takes keys without a credential. Neither Ray nor torch
has an option for its address, so the store gets a socket that is bound before.
"""

import os
import socket
from datetime import timedelta
from typing import Any

import ray
import torch.distributed

stores: list[Any] = []
"""The store of this process, until it has joined its group."""


def open_store(on_one_node: bool, world_size: int) -> tuple[str, int]:
    """In the first worker, open the store at which all workers meet: on loopback if all of them are on one node,
    otherwise at the node's own address in the cluster. Returns its host and port."""
    host = "127.0.0.1" if on_one_node else ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    port = listener.getsockname()[1]
    stores[:] = [
        torch.distributed.TCPStore(
            host, port, world_size, True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
    ]
    return host, port


def join_group(rank: int, backend: str, address: tuple[str, int], world_size: int, timeout_s: int) -> None:
    """In each worker, join the process group."""
    host, port = address
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = host, str(port)
    if host == "127.0.0.1":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    store = stores.pop() if rank == 0 else torch.distributed.TCPStore(host, port, world_size, wait_for_workers=False)
    torch.distributed.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout_s)
    )
