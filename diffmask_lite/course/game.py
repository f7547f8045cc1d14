"""The game "Beat the mask" without its view: which patches are on, what the ViT says of them, and who needs fewer.

`widgets.beat_the_mask` is the view. `greedy_subset` is an opponent: it asks the ViT about each patch before it takes one away.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffmask import DiffMask, kl_divergence
from ..vit import predict


@dataclass(frozen=True)
class Position:
    """What the board shows after a move."""

    keep: Tensor  # bool (h, w): the patches that are on
    before: Tensor  # (classes,): logits of the whole image
    after: Tensor  # (classes,): logits of what is left
    kl: float  # KL(p(x) ‖ p(masked x)) in nats
    same: bool  # the ViT gives the same answer as of the whole image
    rival: int  # how many patches DiffMask kept
    rival_kl: float  # the KL of its mask in nats
    rival_same: bool  # whether its mask keeps the answer
    helped: bool  # DiffMask's mask was shown since the board was last cleared or filled

    @property
    def kept(self) -> int:
        return int(self.keep.sum())

    @property
    def par(self) -> int:
        """The number to stay below. A mask that loses the answer has shown nothing, so it counts as keeping every patch."""
        return self.rival if self.rival_same else self.keep.numel()

    @property
    def won(self) -> bool:
        return self.same and self.kept < self.par

    @property
    def close(self) -> bool:
        """The second level: a win whose probabilities are no further from those of the whole image than DiffMask's are."""
        return self.won and self.kl <= self.rival_kl


class Game:
    """One board at a time: an image of which the player switches patches on and off.

    explainer: the opponent and, through it, the ViT. images: (B, C, H, W), one board each, normalised as the ViT expects.
    A removed patch is replaced by the explainer's placeholder, for both sides.
    """

    def __init__(self, explainer: DiffMask, images: Tensor, threshold: float = 0.5):
        self.explainer, self.images = explainer, images
        self.result = explainer.explain(images, threshold)
        self.check = explainer.verify(images, self.result.keep, self.result.logits)
        self.best: dict[int, int] = {}  # image -> fewest patches with which the player won, without help
        self.open(0)

    def open(self, index: int) -> None:
        """Turn to an image, with all its patches on; after the last comes the first."""
        self.index = index % len(self.images)
        self.fill(True)

    def fill(self, on: bool) -> None:
        """Switch all patches on or off."""
        self.keep, self.helped = torch.full_like(self.result.keep[self.index], on), False

    def show_diffmask(self) -> None:
        """Switch on exactly the patches that DiffMask kept."""
        self.keep, self.helped = self.result.keep[self.index].clone(), True

    def toggle(self, row: int, column: int) -> None:
        """Switch one patch on or off."""
        self.keep[row, column] = ~self.keep[row, column]

    def look(self) -> Position:
        """Ask the ViT about the patches that are on, in one forward pass, and note a record."""
        i = self.index
        before, rival = self.result.logits[i], self.result.keep[i]
        check = self.explainer.verify(self.images[i : i + 1], self.keep[None], before[None])
        position = Position(
            self.keep.clone(), before, check.logits[0], check.kl.item(), bool(check.agree),
            int(rival.sum()), self.check.kl[i].item(), bool(self.check.agree[i]), self.helped,
        )  # fmt: skip
        if position.won and not position.helped:
            self.best[i] = min(position.kept, self.best.get(i, position.kept))
        return position


def standing(position: Position, answer: str, now: str) -> str:
    """Say in a sentence or two how the player stands; `answer` and `now` name the class of the whole image and of the rest."""
    kept, par = position.kept, position.par
    theirs = f"DiffMask kept {position.rival}"
    if not position.rival_same:
        theirs = f"DiffMask's own {position.rival} lose the answer, so anything below {par} wins"
    if not position.same:
        return f"The answer is lost: “{now}”, no longer “{answer}”. Switch a patch back on."
    if position.won and position.helped:
        return f"Still “{answer}” with {kept} patches; {theirs}. But you started from its mask: clear the board and try alone."
    if position.won:
        level = "reached" if position.close else f"not yet ({position.kl:.2f})"
        level = f"Level 2, a KL no larger than its {position.rival_kl:.2f}: {level}."
        return f"You win: still “{answer}” with {kept} patches. {theirs}. {level}"
    return f"Still “{answer}” with {kept} patches. {theirs}."


def greedy_subset(explainer: DiffMask, image: Tensor) -> tuple[Tensor, Tensor]:
    """Take patches away one by one, each time the one without which the KL divergence stays smallest.

    image: (C, H, W). Returns keep, bool (N + 1, h, w), and the KL of each in nats, (N + 1,), with N, N − 1, …, 0 patches kept.
    It costs N·(N + 1)/2 masked predictions and looks one move ahead, so smaller sets may exist. Compare "backward selection"
    in Carter et al., "What made you do this?", AISTATS 2019, arXiv 1810.03805.
    """
    whole = predict(explainer.vit, image[None])  # (1, classes)
    keep = torch.ones(explainer.shape.patches, dtype=torch.bool, device=image.device)
    path, kls = [keep], [whole.new_zeros(())]
    while keep.any():
        left = keep.nonzero().squeeze(1)  # (n,)
        trials = keep.repeat(len(left), 1).scatter(1, left[:, None], False)  # (n, N): each without one more patch
        masked = predict(
            explainer.vit, image.expand(len(left), -1, -1, -1), trials.unflatten(1, explainer.shape.grid), explainer.placeholder
        )
        kl = kl_divergence(whole.expand_as(masked), masked)
        keep = trials[kl.argmin()]
        path.append(keep)
        kls.append(kl.min())
    return torch.stack(path).unflatten(1, explainer.shape.grid), torch.stack(kls)
