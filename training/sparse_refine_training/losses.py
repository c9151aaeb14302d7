"""What the refiner's logits are held to at labelled sites."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn import functional as F

from .data import IGNORE


class LabelLoss:
    """Of logits `[sites, channels]`, over the labelled sites; 0 where there are none. The sum of

    - the mean cross entropy, weighted by label with `weights` (or `None`),
    - `jaccard` times 1 minus the mean soft intersection over union of the labels that occur: the score itself, in which a
      rare class counts as much as a common one,
    - `trust` times the mean divergence KL(coarse || logits): with few pictures, what they do not teach stays as it was.

    Several channels may share a label: its probability is then their sum.
    """

    def __init__(
        self,
        label_of_channel: Iterable,
        labels: int,
        weights: torch.Tensor | None = None,
        jaccard: float = 0.0,
        trust: float = 0.0,
    ) -> None:
        channels = [int(label) for label in label_of_channel]
        self.jaccard, self.trust = jaccard, trust
        self.weights = torch.zeros(IGNORE + 1)  # of every label value
        self.weights[:labels] = 1.0 if weights is None else weights
        self.groups = None
        if channels != list(range(labels)):
            self.groups = torch.zeros(len(channels), labels)
            self.groups[torch.arange(len(channels)), channels] = 1
        # A label without a channel cannot be learnt.
        self.lookup = torch.full((IGNORE + 1,), IGNORE)
        for label in channels:
            self.lookup[label] = label

    def to(self, device: torch.device) -> LabelLoss:
        self.weights, self.lookup = self.weights.to(device), self.lookup.to(device)
        self.groups = None if self.groups is None else self.groups.to(device)
        return self

    def __call__(self, logits: torch.Tensor, label: torch.Tensor, coarse: torch.Tensor | None = None) -> torch.Tensor:
        """`coarse`: the segmenter's logits at the same sites, which `trust` needs."""
        label = self.lookup[label]
        log_p = self._log_probabilities(logits)
        known = self.weights[: log_p.shape[1]]
        total = F.nll_loss(log_p, label, known, ignore_index=IGNORE, reduction="sum")
        loss = total / self.weights[label].sum().clamp(min=1)
        if self.jaccard:
            loss = loss + self.jaccard * jaccard_loss(log_p, label)
        if self.trust:
            assert coarse is not None, "`trust` needs the coarse logits"
            there = label != IGNORE
            before = self._log_probabilities(coarse)[there]
            divergence = before.exp() * (before - log_p[there])
            loss = loss + self.trust * divergence.sum() / there.sum().clamp(min=1)
        return loss

    def _log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Of the labels, `[sites, labels]`."""
        log_p = logits.t().log_softmax(0).t()  # as in `selection.softmax`
        if self.groups is not None:
            log_p = (log_p.exp() @ self.groups).clamp(min=1e-8).log()
        return log_p


def jaccard_loss(log_p: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """1 minus the mean over the labels that occur of `sum(p t) / sum(p + t - p t)`, with t = 1 at a label's own sites."""
    there = label != IGNORE
    if not there.any():
        return log_p.sum() * 0
    p, target = log_p[there].exp(), F.one_hot(label[there], log_p.shape[1]).to(log_p)
    both, of_target = (p * target).sum(0), target.sum(0)
    occurs = of_target > 0
    return 1 - (both / (p.sum(0) + of_target - both))[occurs].mean()
