"""Where the processes of one attempt find each other.

A job that torchrun keeps alive is started many times, and each time its processes leave their addresses in a store. The
store of torchrun's agent outlives the attempts, so it also holds the addresses of dead processes; and nothing that
torchrun tells a worker names the attempt alike on all machines (TORCHELASTIC_RESTART_COUNT counts each agent's own
restarts: after one worker was killed it is 1 on its machine and 0 on the others). So the main process of every
attempt opens a store of its own, which dies with it, and leaves in the agent's store only where that is.

torchrun can also do without a store in its agent (TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1). Several machines need that
where one may be replaced: with the agent's store a new agent never learns its address and ends after a minute, and the
others after it (torch 2.14, DynamicRendezvousHandler.next_rendezvous).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from datetime import timedelta
from urllib.parse import urlsplit

import torch.distributed as dist
from full_spike.utils.cluster.environment import Place, main_address
from torch.distributed.rendezvous import rendezvous

_WHERE, _TOKEN = "full-spike/where", "full-spike/token"
_CONNECTING = 10.0  # seconds that a server which took the connection has to answer


def meet(url: str, place: Place, limit: timedelta) -> dist.Store:
    """A store that the processes of this attempt share, and no process of another one.

    Args:
        url: "env://" for MASTER_ADDR and MASTER_PORT, "tcp://host:port" or "file:///path".
        limit: for finding each other, and for each later exchange.

    Raises:
        RuntimeError, ValueError, OSError: what torch and the system raise of stores, addresses and connections.
        UserError: MASTER_ADDR or MASTER_PORT is wrong.
    """
    deadline = time.monotonic() + limit.total_seconds()
    parts = urlsplit(url)
    host, port = main_address(place) if url == "env://" else (parts.hostname or "", parts.port or 0)
    agents = url == "env://" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if port and (place.rank or agents):
        _wait_for_server(host, port, deadline)  # torch would write a page about each refused connection
    store, _, _ = next(rendezvous(url, place.rank, place.size, timeout=limit))
    store.set_timeout(limit)
    if not dist.is_torchelastic_launched() or not (agents or parts.scheme == "file"):
        return store  # it ends with the main process, which holds it, or there is one attempt only
    return _open(store, main_address(place)[0], limit) if place.rank == 0 else _find(store, limit, deadline)


def _wait_for_server(host: str, port: int, deadline: float) -> None:
    """Return when something listens there."""
    while True:
        try:
            socket.create_connection((host, port), timeout=_CONNECTING).close()
            return
        except OSError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)


def _open(shared: dist.Store, host: str, limit: timedelta) -> dist.Store:
    """A store in this process, and the word to the others where it is."""
    own = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=limit)
    token = uuid.uuid4().hex
    own.set(_TOKEN, token)
    shared.set(_WHERE, json.dumps([host, own.port, token]))
    return own


def _find(shared: dist.Store, limit: timedelta, deadline: float) -> dist.Store:
    """The store that the main process of this attempt opened.

    What is read first may be the address that the attempt before left: nothing answers there any more, or something
    else does; so it is read again until the store behind it knows the token that was left with it.
    """
    while True:
        host, port, token = json.loads(shared.get(_WHERE))
        with contextlib.suppress(OSError, RuntimeError):
            _wait_for_server(host, port, 0.0)
            own = dist.TCPStore(
                host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=_CONNECTING)
            )
            if own.check([_TOKEN]) and own.get(_TOKEN).decode() == token:
                own.set_timeout(limit)
                return own
        if time.monotonic() >= deadline:
            raise TimeoutError(f"the main process's store does not answer at {host}:{port}")
        time.sleep(0.2)
