"""The first table of docs/RESULTS.md: what is claimed, and what the studies say to it.

The p-values are of paired t-tests over seeds, and corrected for the number of claims (Holm, 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from studies.results import Results, Summary, markdown

LEVEL = 0.05  # of all claims together


class Claim(NamedTuple):
    """A claim that the first row of a study's pair is better than its second, in top-1 of what is deployed."""

    text: str
    by: str  # "paper", or "ours"
    study: str
    pair: str


_TRUNK = "trained with the pathway, the trunk is better"
CLAIMS = (
    Claim(f"{_TRUNK}: ResNet-18, CIFAR-10, OR", "paper", "cifar10_joins", "OR"),
    Claim(f"{_TRUNK}: ResNet-18, CIFAR-10, IAND", "paper", "cifar10_joins", "IAND"),
    Claim(f"{_TRUNK}: ResNet-18, CIFAR-10, AND", "paper", "cifar10_joins", "AND"),
    Claim(f"{_TRUNK}: ResNet-18, CIFAR-10, XOR", "paper", "cifar10_joins", "XOR"),
    Claim(f"{_TRUNK}: 7B-Net, events, OR, T = 2", "paper", "events_time_steps", "T = 2"),
    Claim(f"{_TRUNK}: 101 layers, digits, OR", "paper", "digits_deep", "101 layers"),
    Claim(f"{_TRUNK}: 18 layers, digits, OR", "paper", "digits_deep", "18 layers"),
    Claim("OR with the pathway is ahead of SEW-ADD", "paper", "cifar10_joins", "OR with the pathway, against SEW-ADD"),
    Claim(
        "OR with the pathway is ahead of Spiking ResNet",
        "paper",
        "cifar10_joins",
        "OR with the pathway, against Spiking ResNet",
    ),
    Claim("a head of the pathway's own is better than the shared one", "ours", "digits", "a separate head"),
    Claim("LIF is better than IF", "ours", "digits", "LIF in place of IF"),
    Claim("the pathway's loss by a quarter is better", "ours", "digits", "the pathway's loss by a quarter"),
    Claim(
        "the pathway's loss off at the end is better",
        "ours",
        "digits",
        "the pathway's loss off for the last 5 epochs",
    ),
)


def holm(p: Sequence[float]) -> list[float]:
    """The p-values, each corrected for all of them: the k-th smallest of m times m - k + 1, and never falling."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, p[i] * (len(p) - rank)))
        corrected[i] = largest
    return corrected


def _answer(found: Summary, p: float) -> str:
    if p >= LEVEL:
        return "not shown"
    return "yes" if found.mean > 0 else "no: worse"


def claims_table(results: Results) -> str:
    """A row for each claim that at least three seeds speak to."""
    told = [(claim, results[claim.study].pairs().get(claim.pair)) for claim in CLAIMS]
    shown = [(claim, found) for claim, found in told if found and found.n > 2]
    corrected = holm([found.p for _, found in shown])
    body = [
        [claim.text, claim.by, _answer(found, p), str(found), str(found.n), f"{p:.2g}", f"`{claim.study}.yaml`"]
        for (claim, found), p in zip(shown, corrected, strict=True)
    ]
    head = ["claim", "whose", "answer", "difference in points [95 % interval]", "seeds", "p (Holm)", "study"]
    return "\n".join(markdown(head, body)) + "\n"
