"""7B-Net and Wide-7B-Net (arXiv:2102.04159), for event cameras, in every family."""

from __future__ import annotations

from typing import Any

from .blocks import MembraneJoin, PlainJoin, SpikeJoin
from .dsnn import full_spike_join
from .event_net import DEFAULTS, STAGES, EventNet
from .registry import register_family

_register = register_family(STAGES, trunk=EventNet, defaults=DEFAULTS)


@_register
def fsnn(layout: str, *, connect_f: str = "OR", **options: Any) -> EventNet:
    """Registered as fsnn_7b and fsnn_wide7b: one stream, only spikes past the stem."""
    return EventNet(layout, full_spike_join(connect_f), **options)


@_register
def dsnn(
    layout: str, *, connect_f: str = "OR", aux_head: str = "shared", aap_pool: str = "projection", **options: Any
) -> EventNet:
    """Registered as dsnn_7b and dsnn_wide7b: two streams; `detach_aap` leaves the fsnn."""
    return EventNet(layout, full_spike_join(connect_f), aux_head, aap_pool, **options)


@_register
def sew(layout: str, *, connect_f: str = "ADD", **options: Any) -> EventNet:
    """Registered as sew_7b and sew_wide7b, as published: spikes joined by a connect function."""
    return EventNet(layout, SpikeJoin(connect_f), **options)


@_register
def spiking(layout: str, **options: Any) -> EventNet:
    """Registered as spiking_7b and spiking_wide7b: the sum is taken on the membrane's input."""
    return EventNet(layout, MembraneJoin(), **options)


@_register
def plain(layout: str, **options: Any) -> EventNet:
    """Registered as plain_7b and plain_wide7b: no shortcuts."""
    return EventNet(layout, PlainJoin(), **options)
