"""What answers at the address of a cluster, found out before Ray connects to it. Ray itself tries for minutes, with
warnings of its core, whatever is wrong with the address."""

import socket

from seva_ray.core.errors import InputError
from seva_ray.private.ray import address_for, channel_to, listen_on_loopback_only

HEAD_SERVICE, CLIENT_SERVICE = "/ray.rpc.NodeInfoGcsService/CheckAlive", "/ray.rpc.RayletDriver/ClusterInfo"
"""Methods of gRPC: one of a head, and one of its server for clients, which is at ray://."""

FORMS = "by default it is HOST:6379, or ray://HOST:10001 from outside of the cluster"
TOKENS = "RAY_AUTH_MODE and RAY_AUTH_TOKEN (or the file ~/.ray/auth_token) must be those of the cluster"

CONNECT_S = 10.0
"""Longest time to wait for a connection to the address of a cluster, in seconds."""


def check_address(address: str) -> None:
    """Raises: InputError if no cluster answers at the address. Ray would try for minutes, with warnings of its core."""
    if address.startswith(("http://", "https://")):
        raise InputError(
            f"RAY_ADDRESS {address}: this is the address of a dashboard, which `ray job submit` takes; for a job "
            "itself it is HOST:6379, or auto on a node of the cluster"
        )
    place = (address_for(address) or "") if address == "auto" else address.removeprefix("ray://")
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit():
        if not address.startswith("ray://") and not port.isdigit():
            return  # `local`, or another form that Ray knows
        raise InputError(f"RAY_ADDRESS {address}: must be HOST:6379, or ray://HOST:10001 from outside of the cluster")
    where = f"at {place}, the last cluster of this machine" if address == "auto" else "there"
    if not address.startswith("ray://"):
        place = reached(place)
    if reason := refusal(place):
        raise InputError(f"RAY_ADDRESS {address}: nobody answers {where} ({reason}); is the cluster running?")
    if fault := fault_of(place, of_clients=address.startswith("ray://")):
        raise InputError(f"RAY_ADDRESS {address}: what answers {where} {fault}")


def reached(place: str) -> str:
    """The HOST:PORT that Ray will connect to. For 127.0.0.1 Ray by itself takes an address of this machine that other
    machines can reach. If a head listens on 127.0.0.1 alone, Ray is told to take that."""
    other = address_for(place) or place
    if other != place and refusal(other) and not refusal(place):
        listen_on_loopback_only()
        return place
    return other


def refusal(place: str) -> str:
    """Why there is no connection to HOST:PORT; empty if there is one."""
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""


def fault_of(place: str, of_clients: bool) -> str:
    """What is wrong with the server at HOST:PORT; empty if it is a head, or if it is a server `of_clients`."""
    import grpc

    with channel_to(place) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_S)
            channel.unary_unary(CLIENT_SERVICE if of_clients else HEAD_SERVICE)(b"", timeout=CONNECT_S)
        except grpc.FutureTimeoutError:
            return "is no Ray cluster; by default its port is 6379"
        except grpc.RpcError as error:
            kind = "takes no clients by ray://" if of_clients else "is not the head of a Ray cluster"
            return {
                grpc.StatusCode.UNIMPLEMENTED: f"{kind}; {FORMS}",
                grpc.StatusCode.UNAUTHENTICATED: f"takes another token; {TOKENS}",
            }.get(error.code(), "")  # a server of clients has other errors for a client without an id
    return ""
