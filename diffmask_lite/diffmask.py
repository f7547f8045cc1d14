"""`DiffMask`: gates and a placeholder for a frozen ViT. One forward pass of the ViT then explains a batch of images.

Nalmpantis et al., "VISION DIFFMASK: Faithful Interpretation of Vision Transformers with Differentiable Patch Masking",
CVPR Workshops 2023, arXiv 2304.06391.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .gates import Gate, log_odds, log_open, normalise
from .vit import anatomy, guest, mean_patch, observe, predict, weigh_tokens
from .vit.inputs import require_images, require_placeholder
from .vit.removal import predict_unchecked
from .vit.storage import fingerprint, load_tensors, same_weights, save_tensors

PLACEHOLDERS = ("mean", "zero", "learned", "drop")


@dataclass(frozen=True)
class Explanation:
    """What the gates say of a batch of images; all tensors are on the ViT's device and without gradients."""

    mask: Tensor  # float (B, h, w): the probability that each patch is kept, gates of all layers together; with a cut, σ(score)
    keep: Tensor  # bool (B, h, w): mask > threshold, the predicted subset; verify it before you rely on it
    layers: Tensor  # float (B, L + 2, h, w): the gate of each hidden state on its own; (B, depth + 2, h, w) at a depth
    logits: Tensor | None  # (B, classes): the ViT's prediction on the whole image; None where the pass was stopped early
    threshold: float
    score: Tensor  # float (B, h, w): the mask's log-odds, for ranking: its order, without the ties that rounding to 1 makes


@dataclass(frozen=True)
class Check:
    """What the ViT says when it sees only the patches that were kept."""

    kl: Tensor  # (B,): KL(p(x) ‖ p(masked x)) in nats, 0 where the prediction is untouched
    agree: Tensor  # bool (B,): the most probable class is the same
    kept: Tensor  # (B,): share of patches kept
    logits: Tensor  # (B, classes): the ViT's prediction on the kept patches alone


class _Enough(Exception):
    """Raised in a hook to end a forward pass of which no more is needed."""


def kl_divergence(logits: Tensor, masked: Tensor) -> Tensor:
    """Return KL(p ‖ q) in nats, (B,), for p = softmax(logits) and q = softmax(masked), both (B, classes)."""
    p, q = logits.float().log_softmax(-1), masked.float().log_softmax(-1)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(-1)


class DiffMask(nn.Module):
    """Gates, and a placeholder for removed patches, that explain one frozen ViT.

    vit: a timm ViT; `vit.anatomy` says what fits. It is a guest: not a submodule, never changed, and it decides the device.
    placeholder: what stands for a removed patch, as a patch embedding before positions. "mean": the embedding of an all-zero
        normalised patch; "zero": the zero vector; "learned": trained with the gates; or a tensor (D,) or (N, D). "drop":
        nothing, the tokens of removed patches are dropped, by degrees while gates learn; for a ViT that was trained with
        tokens missing this is the gentlest removal, and its gradient says far more of what a patch is worth.
    hidden: width of each gate's hidden layer, by default D / 8 (the authors: D / 4), so that gates cost little beside the
        ViT, but 48 where D < 192: with 16 hidden units the gates learn the colour grid more slowly.
    per_class: whether each gate has an output for every class, mixed by the ViT's prediction; see `Gate`. The published gates
        have one output for all.
    context: whether each gate also reads what the ViT makes of the whole image at its depth: the class token, or the mean
        over the patches where the head does not read one. Not published.
    normalise: whether gates read normalised hidden states. False is the published form, kept for comparison; its gates
        tend to shut for good.
    seed: of the gates' first weights.

    Gates that learned to rank say which patch comes before which; how far down that order a mask goes, `calibrate`
    can settle afterwards: it sets the attribute `cut`, which `save` stores. Until then `cut` is None.

    The state dict, the parameters and `train()` are those of the gates and the placeholder alone.
    """

    def __init__(
        self,
        vit: nn.Module,
        placeholder: str | Tensor = "mean",
        hidden: int | None = None,
        normalise: bool = True,
        seed: int = 0,
        *,
        per_class: bool = False,
        context: bool = False,
    ):
        super().__init__()
        self.shape, self.per_class, self.context = anatomy(vit, refresh=True), per_class, context
        self.cut: float | None = None  # see `explain`
        self._guest = (vit,)  # a tuple hides it from nn.Module, which would adopt it as a submodule
        width = self.shape.width
        self.hidden, self.normalise = hidden or (48 if width < 192 else width // 8), normalise
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.random.default_generator.manual_seed(seed)
            classes = self.shape.classes if per_class else None
            gates = (Gate(width, self.hidden, classes=classes, context=context) for _ in range(self.shape.states))
            self.gates = nn.ModuleList(gates)
        self.kind = placeholder if isinstance(placeholder, str) else "tensor"
        start = self._first_placeholder(placeholder)
        if self.kind == "drop":
            self.placeholder = start
        elif self.kind == "learned":
            self.placeholder = nn.Parameter(start)
        else:
            self.register_buffer("placeholder", start)
        self.to(next(vit.parameters()).device)

    @property
    def vit(self) -> nn.Module:
        return self._guest[0]

    def _first_placeholder(self, placeholder: str | Tensor) -> Tensor | str:
        if isinstance(placeholder, Tensor):
            require_placeholder(placeholder, self.shape)
            return placeholder.detach().clone()
        if placeholder not in PLACEHOLDERS:
            raise ValueError(f"Unknown placeholder {placeholder!r}: use {', '.join(map(repr, PLACEHOLDERS))} or a tensor.")
        if placeholder == "drop":
            with weigh_tokens(self.vit, torch.ones(1, self.shape.patches)):  # refused now, where it cannot be had
                return placeholder
        if placeholder == "zero":
            return next(self.vit.parameters()).new_zeros(self.shape.width)
        grey = mean_patch(self.vit)
        # one vector where the embedding looks at each patch alone, as a plain ViT's does
        return grey[0].clone() if torch.allclose(grey, grey[:1], atol=1e-6) else grey

    def read(self, images: Tensor, last: int | None = None, stop: bool = False) -> tuple[Tensor | None, Tensor]:
        """Run the ViT once: its logits (B, classes), and the logits of gates 0 … last, (B, last + 1, N), by default all.

        images: not looked at again; `explain` and `fit` have. stop: run no block that gates 0 … last do not need; the ViT's
        logits are then None, and gates per class impossible.
        The ViT runs without gradients; the gates with them, where the caller has them on. Without them, no hidden state but
        h_0 outlives the block that made it.
        """
        last = self.shape.states - 1 if last is None else last
        learning, ready = torch.is_grad_enabled(), normalise if self.normalise else Tensor.float
        embedding: list[Tensor] = []
        hidden: list[Tensor] = []

        def gate(i: int, tokens: Tensor) -> None:
            if i > last:
                return
            state = ready(tokens[:, -self.shape.patches :])
            if i == 0:
                embedding.append(state)
            context = None
            if self.context:  # what the head will read; at h_0, where no token holds it yet, and in pooling ViTs the mean
                context = ready(tokens[:, 0]) if i and self.shape.class_tokens else state.mean(1)
            with torch.set_grad_enabled(learning):
                hidden.append(self.gates[i].encode(embedding[0], state, context))
            if stop and i == last:
                raise _Enough

        prediction = None
        with torch.no_grad(), guest(self.vit), observe(self.vit, gate, prefix_too=True), suppress(_Enough):
            prediction = self.vit(images)
        p = prediction.float().softmax(-1) if self.per_class else None
        return prediction, torch.stack([gate.score(h, p) for gate, h in zip(self.gates, hidden, strict=False)], dim=1)

    @torch.no_grad()
    def explain(self, images: Tensor, threshold: float = 0.5, depth: int | None = None) -> Explanation:
        """Predict which patches are enough to keep the ViT's prediction, in one forward pass of the ViT, deterministically.

        With a `cut`, the score is standardised in each image, less the cut, and the mask is its sigmoid: a patch is kept if it
        lies more than `cut` standard deviations above the mean of its image.
        images: float (B, C, H, W), normalised as the ViT expects. threshold: a patch is kept if its probability is above it.
        depth: run only so many blocks, 0 … L, and use the gates of h_0 … h_{depth + 1}. The ViT then makes no prediction, so
            gates per class take no depth. What a depth is worth: `experiments/depth.py`.
        Raises `ValueError` on input that does not fit.
        """
        require_images(self.vit, images)
        if not 0 <= threshold < 1:
            raise ValueError(f"The threshold is a probability in [0, 1), but it is {threshold}.")
        if depth is not None:
            self._check_depth(depth)
        with torch.inference_mode():  # cheaper than no_grad, small operations above all
            prediction, logits = self.read(images, None if depth is None else depth + 1, stop=depth is not None)
        prediction = None if prediction is None else prediction.clone()  # ordinary tensors again
        each = log_open(logits)  # (B, L + 2, N)
        log_mask = each.sum(1).unflatten(1, self.shape.grid)  # a patch stays only if every layer keeps it
        score, layers = log_odds(log_mask), each.exp().unflatten(2, self.shape.grid)
        mask = log_mask.exp()
        if self.cut is not None:
            score = standardised(score) - self.cut
            mask = score.sigmoid()
        return Explanation(mask, mask > threshold, layers, prediction, threshold, score)

    def _check_depth(self, depth: int) -> None:
        if self.per_class:
            raise ValueError("These gates have an output per class and need the whole prediction; leave depth out.")
        if not isinstance(depth, int) or not 0 <= depth <= self.shape.depth:
            raise ValueError(f"depth is a number of blocks, 0 … {self.shape.depth}, but it is {depth}.")

    @torch.no_grad()
    def verify(self, images: Tensor, keep: Tensor, logits: Tensor | None = None, removal: str | Tensor | None = None) -> Check:
        """Ask the ViT about exactly the patches in `keep`, bool (B, h, w), and compare with its prediction on whole images.

        logits: that prediction, (B, classes), if it is at hand (`result.logits`); else one more forward pass finds it.
        removal: what stands for the other patches, by default this explainer's placeholder; see `vit.predict`.
        """
        if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
            kind = keep.dtype if isinstance(keep, Tensor) else f"a {type(keep).__name__}"
            raise ValueError(f"verify scores a hard mask, so keep must be a bool tensor, but it is {kind}; use mask > 0.5.")
        masked = predict(self.vit, images, keep, self.placeholder if removal is None else removal)
        logits = predict_unchecked(self.vit, images) if logits is None else logits
        agree = logits.argmax(-1) == masked.argmax(-1)
        kl = kl_divergence(logits, masked).clamp(min=0)  # rounding can leave −1e-8
        return Check(kl, agree, keep.flatten(1).float().mean(1), masked)

    def config(self) -> dict:
        """What a weights file must say besides numbers, so that it can only be loaded where it fits."""
        shape = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.shape).items()}
        return {"kind": "diffmask", "placeholder": self.kind, "hidden": self.hidden, "normalise": self.normalise,
                "per_class": self.per_class, "context": self.context, "shape": shape, "vit": fingerprint(self.vit)}  # fmt: skip

    def save(self, path: str | os.PathLike) -> None:
        """Write gates and placeholder as safetensors, replacing an older file in one step."""
        save_tensors(path, self.state_dict(), self.config() | {"cut": self.cut})

    @classmethod
    def load(cls, path: str | os.PathLike, vit: nn.Module, same_vit: bool = True) -> DiffMask:
        """Read what `save` wrote. Raises `ValueError` if the file is broken, or its gates are for another ViT, and
        `FileNotFoundError` if there is none.

        same_vit=False also takes gates trained on other weights of the same shape, for a warm start.
        """
        tensors, config = load_tensors(path)
        if config.get("kind") != "diffmask":
            raise ValueError(f"{path} holds {config.get('kind', 'something else')}, not the gates of a DiffMask.")
        placeholder = config["placeholder"] if config["placeholder"] != "tensor" else tensors["placeholder"]
        kind = {key: config[key] for key in ("hidden", "normalise", "per_class", "context")}
        explainer = cls(vit, placeholder, **kind)
        mine = explainer.config()
        for key, value in mine["shape"].items():
            if config["shape"][key] != value:
                raise ValueError(f"{path} is for a ViT with {key} {config['shape'][key]}, but this one has {key} {value}.")
        same = same_weights(config["vit"], mine["vit"])
        if same_vit and not same:
            raise ValueError(
                f"{path} was trained for a ViT of this shape but with other weights; load those, or pass same_vit=False "
                "to start a new training from these gates."
            )
        if explainer.kind == "mean" and not same and "placeholder" in tensors:
            tensors["placeholder"] = explainer.placeholder  # the mean patch as this ViT embeds it, not as the other did
        try:
            explainer.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(
                f"{path} lacks tensors of a DiffMask ({' '.join(str(error).split()[-3:])}); save it again."
            ) from error
        explainer.cut = config.get("cut")
        return explainer


def standardised(score: Tensor) -> Tensor:
    """Return score (B, h, w) minus its mean in each image, in units of its standard deviation there; 0 where it is constant."""
    spread = score.std((1, 2), keepdim=True)
    return (score - score.mean((1, 2), keepdim=True)) / spread.clamp(min=1e-6)
