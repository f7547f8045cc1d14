"""What logits say: one class of several by a softmax, or each label on its own by a sigmoid.

A multi-label head with K labels is K two-class problems: each label is present or absent. So its divergences, log-odds and
log-probabilities are sums over labels. `anatomy(vit).multilabel` says which head a ViT has.

What is explained of an image is `chosen`: a class, LongTensor (B,); or, in a multi-label ViT, a sign for each label, (B, K):
1 if the label is to be present, −1 if absent, 0 if it is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def kl_divergence(logits: Tensor, masked: Tensor, multilabel: bool = False) -> Tensor:
    """Return KL(p ‖ q) in nats, (B,), for p and q as predicted by logits and masked, both (B, classes).

    p and q are softmax distributions, or Bernoulli distributions of each label, whose divergences are summed.
    """
    p, q = (_log_distribution(each.float(), multilabel) for each in (logits, masked))
    kl = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    return kl.sum(-1) if multilabel else kl


def _log_distribution(logits: Tensor, multilabel: bool) -> Tensor:
    """Return log p of each class, (B, classes), or of the presence and the absence of each label, (B, K, 2)."""
    return torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], -1) if multilabel else logits.log_softmax(-1)


def same_answer(logits: Tensor, masked: Tensor, multilabel: bool = False) -> Tensor:
    """Return whether both have the same most probable class, or the same set of labels above ½, bool (B,)."""
    if multilabel:
        return ((logits > 0) == (masked > 0)).all(-1)
    return logits.argmax(-1) == masked.argmax(-1)


def chosen_classes(logits: Tensor, target: int | Tensor | None, multilabel: bool = False) -> Tensor:
    """Return what to explain of each image: the target, or what logits (B, classes) predict.

    That is the most probable class, (B,), or the signs of the predicted set of labels, (B, K). A target may be chosen before.
    """
    if target is None:
        return torch.where(logits > 0, 1.0, -1.0) if multilabel else logits.argmax(1)
    if isinstance(target, Tensor) and target.ndim == 2:
        return target
    target = torch.as_tensor(target, dtype=torch.long, device=logits.device).expand(len(logits))
    return F.one_hot(target, logits.shape[1]).float() if multilabel else target


def logit_of(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the logit of what is chosen, (B,): of labels, the sum of their signed logits."""
    return (logits * chosen).sum(1) if chosen.ndim == 2 else logits.gather(1, chosen[:, None]).squeeze(1)


def log_p_of(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return log p of what is chosen, (B,): of labels, that all of them are present or absent as chosen."""
    if chosen.ndim == 2:
        return (F.logsigmoid(logits * chosen) * chosen.abs()).sum(1)
    return logit_of(logits.log_softmax(1), chosen)


def p_of(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the probability of what is chosen, (B,); see `log_p_of`."""
    return log_p_of(logits, chosen).exp() if chosen.ndim == 2 else logit_of(logits.softmax(1), chosen)


def log_odds_of(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return log(p / (1 − p)) of the chosen class, (B,), or the sum over the chosen labels."""
    if chosen.ndim == 2:
        return logit_of(logits, chosen)
    return logit_of(logits, chosen) - logits.scatter(1, chosen[:, None], float("-inf")).logsumexp(1)


def log_odds_slope(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return the slope of `log_odds_of` along each logit, (B, classes).

    It is 1 at the class y and −p_k / (1 − p_y) elsewhere; in a multi-label ViT it is the sign of each label.
    """
    if chosen.ndim == 2:
        return chosen.to(logits.dtype)
    others = logits.float().scatter(1, chosen[:, None], float("-inf")).softmax(1)
    return (F.one_hot(chosen, logits.shape[1]) - others).to(logits.dtype)
