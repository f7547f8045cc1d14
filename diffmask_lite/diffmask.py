"""`DiffMask`: gates and a placeholder for a frozen ViT. One forward pass of the ViT then explains a batch of images.

Nalmpantis et al., "VISION DIFFMASK: Faithful Interpretation of Vision Transformers with Differentiable Patch Masking",
CVPR Workshops 2023, arXiv 2304.06391.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .gates import Gate, PublishedGate, log_odds, log_open, normalise
from .vit import anatomy, guest, mean_patch, observe, predict, weigh_tokens
from .vit.direct import class_direction, observe_carried
from .vit.head import chosen_classes, kl_divergence, log_odds_slope, same_answer
from .vit.inputs import require_finite, require_images, require_logits, require_placeholder, require_target
from .vit.removal import predict_unchecked
from .vit.storage import fingerprint, load_tensors, same_weights, save_tensors

OPTIONS = ("hidden", "normalise", "class_aware", "published")  # of `DiffMask`, that a file holds
CARRIED = 4  # last blocks whose attention class-aware gates follow; more cost more, and on our ViT add little
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
    multilabel: bool = False  # whether each logit is of a label on its own


@dataclass(frozen=True)
class Check:
    """What the ViT says when it sees only the patches that were kept."""

    kl: Tensor  # (B,): KL(p(x) ‖ p(masked x)) in nats, 0 where the prediction is untouched
    agree: Tensor  # bool (B,): the most probable class is the same, or the set of labels above ½
    kept: Tensor  # (B,): share of patches kept
    logits: Tensor  # (B, classes): the ViT's prediction on the kept patches alone


class _Enough(Exception):
    """Raised in a hook to end a forward pass of which no more is needed."""


class DiffMask(nn.Module):
    """Gates, and a placeholder for removed patches, that explain one frozen ViT.

    vit: a timm ViT; `vit.anatomy` says what fits, and how to name a multi-label head. It is a guest: not a submodule, never
        changed, and it decides the device.
    placeholder: what stands for a removed patch, as a patch embedding before positions. "mean": the embedding of an all-zero
        normalised patch; "zero": the zero vector; "learned": trained with the gates; or a tensor (D,) or (N, D). "drop":
        nothing, the tokens of removed patches are dropped, by degrees while gates learn; for a ViT that was trained with
        tokens missing this is the gentlest removal, and its gradient says far more of what a patch is worth.
    hidden: width of each gate's hidden layer, by default D / 8 (the authors: D / 4), so that gates cost little beside the
        ViT, but 48 where D < 192: with 16 hidden units the gates learn the colour grid more slowly.
    class_aware: whether gates also read what the ViT makes of the whole image at their depth (the class token, or the mean over
        the patches where the head does not read one), and know the class that is explained: the direction in which the head
        finds it, and what attention carries of each patch along it; see `Gate` and `vit.direct`. Not published.
    normalise: whether gates read normalised hidden states. False is as published, kept for comparison.
    published: take the authors' gates, `PublishedGate`, with D / 4 hidden units; kept for comparison.
    seed: of the gates' first weights.

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
        class_aware: bool = False,
        published: bool = False,
    ):
        super().__init__()
        if published and class_aware:
            raise ValueError("The published gates know no class: choose published or class_aware.")
        self.shape, self.class_aware, self.published = anatomy(vit, refresh=True), class_aware, published
        self._guest = (vit,)  # a tuple hides it from nn.Module, which would adopt it as a submodule
        width = self.shape.width
        self.normalise = normalise
        self.hidden = hidden or (width // 4 if published else 48 if width < 192 else width // 8)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.random.default_generator.manual_seed(seed)
            self.gates = nn.ModuleList(self._make_gates(vit))
        self.kind = placeholder if isinstance(placeholder, str) else "tensor"
        start = self._first_placeholder(placeholder)
        if self.kind == "drop":
            self.placeholder = start
        elif self.kind == "learned":
            self.placeholder = nn.Parameter(start.float())  # the steps of Adam are lost in half precision, or infinite
        else:
            self.register_buffer("placeholder", start)
        self.to(next(vit.parameters()).device)

    def _make_gates(self, vit: nn.Module) -> Iterator[Gate]:
        width, hidden = self.shape.width, self.hidden
        if self.published:
            yield from (PublishedGate(width, hidden) for _ in range(self.shape.states))
            return
        if self.class_aware:
            with observe_carried(vit):  # refused now, where it cannot be had
                pass
        for i in range(self.shape.states):
            blocks = min(CARRIED, self.shape.depth) if self.class_aware and i + 1 == self.shape.states else 0
            yield Gate(width, hidden, class_aware=self.class_aware, blocks=blocks)

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

    def read(
        self, images: Tensor, last: int | None = None, stop: bool = False, target: int | Tensor | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """Run the ViT once: its logits (B, classes), and the logits of gates 0 … last, (B, last + 1, N), by default all.

        images: not looked at again; `explain` and `fit` have. stop: run no block that gates 0 … last do not need; the ViT's
        logits are then None, and gates that know the class impossible. target: for class-aware ones, as for `explain`.
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
            if self.class_aware:  # what the head will read; at h_0, where no token holds it yet, and in pooling ViTs the mean
                context = ready(tokens[:, 0]) if i and self.shape.class_tokens else state.mean(1)
            with torch.set_grad_enabled(learning):
                hidden.append(self.gates[i].encode(embedding[0], state, context))
            if stop and i == last:
                raise _Enough

        prediction, carried, known = None, None, {}
        collected = observe_carried(self.vit, CARRIED) if self.class_aware else nullcontext()
        with torch.no_grad(), guest(self.vit), collected as seen, observe(self.vit, gate, prefix_too=True):
            with suppress(_Enough):
                prediction = self.vit(images)
            if seen is not None:
                wanted = log_odds_slope(prediction, chosen_classes(prediction, target, self.shape.multilabel))
                known, carried = {"direction": class_direction(self.vit, wanted.float())}, self._scaled(seen.paths(wanted))
        pairs = zip(self.gates, hidden, strict=False)
        logits = [gate.score(h, **known, carried=None if gate.carried is None else carried) for gate, h in pairs]
        return prediction, torch.stack(logits, dim=1)

    def _scaled(self, carried: Tensor) -> Tensor:
        """Return what is carried of the patches, (B, blocks, N), in units of the standard deviation of its sum."""
        carried = carried[..., self.shape.prefix :].float()
        return carried / carried.sum(1, keepdim=True).std(-1, keepdim=True).clamp(min=1e-6)

    @torch.no_grad()
    def explain(
        self, images: Tensor, threshold: float = 0.5, depth: int | None = None, target: int | Tensor | None = None
    ) -> Explanation:
        """Predict which patches are enough to keep the ViT's prediction, in one forward pass of the ViT, deterministically.

        images: float (B, C, H, W), normalised as the ViT expects. threshold: a patch is kept if its probability is above it.
        depth: run only so many blocks, 0 … L, and use the gates of h_0 … h_{depth + 1}. The ViT then makes no prediction, so
            gates that know the class take no depth. Notebook 05 shows masks by depth.
        target: the class to explain, an int or one for each image, LongTensor (B,), by default each image's predicted class,
            or set of labels; for class-aware gates alone, since others do not know the class.
        Raises `ValueError` on input that does not fit.
        """
        self.require_same_shape()
        require_images(self.vit, images)
        if not 0 <= threshold < 1:
            raise ValueError(f"The threshold is a probability in [0, 1), but it is {threshold}.")
        if depth is not None:
            self._require_depth(depth)
        if target is not None:
            if not self.class_aware:
                raise ValueError("These gates do not know the class, so they explain the prediction alone; leave target out.")
            require_target(target, self.shape, images)
        with torch.inference_mode():  # cheaper than no_grad, small operations above all
            prediction, logits = self.read(images, None if depth is None else depth + 1, stop=depth is not None, target=target)
        prediction = None if prediction is None else prediction.clone()  # ordinary tensors again
        each = log_open(logits)  # (B, L + 2, N)
        log_mask = each.sum(1).unflatten(1, self.shape.grid)  # a patch stays only if every layer keeps it
        score, layers = log_odds(log_mask), each.exp().unflatten(2, self.shape.grid)
        mask = log_mask.exp()
        require_finite(score, prediction)
        return Explanation(mask, mask > threshold, layers, prediction, threshold, score, self.shape.multilabel)

    def require_same_shape(self) -> None:
        """Raise `ValueError` if the ViT got another head, image size or depth after these gates were made for it."""
        now = asdict(anatomy(self.vit))
        for key, value in asdict(self.shape).items():
            if now[key] != value:
                raise ValueError(
                    f"The ViT had {key} {value} when its gates were made, and now has {now[key]}; make them again."
                )

    def _require_depth(self, depth: int) -> None:
        if self.class_aware:
            raise ValueError("These gates know the class and need the whole prediction; leave depth out.")
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
        self.require_same_shape()
        masked = predict(self.vit, images, keep, self.placeholder if removal is None else removal)
        if logits is None:
            logits = predict_unchecked(self.vit, images)
        require_logits(logits, self.shape, images)
        require_finite(logits, masked)
        kl = kl_divergence(logits, masked, self.shape.multilabel).clamp(min=0) + 0.0  # rounding can leave −1e-8, or −0
        return Check(kl, same_answer(logits, masked, self.shape.multilabel), keep.flatten(1).float().mean(1), masked)

    def config(self) -> dict:
        """What a weights file must say besides numbers, so that it can only be loaded where it fits."""
        shape = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.shape).items()}
        if not self.shape.multilabel:  # as in older files
            del shape["multilabel"]
        about = {"kind": "diffmask", "placeholder": self.kind, **{key: getattr(self, key) for key in OPTIONS}}
        return about | {"shape": shape, "vit": fingerprint(self.vit)}

    def save(self, path: str | os.PathLike) -> None:
        """Write gates and placeholder as safetensors, replacing an older file in one step."""
        save_tensors(path, self.state_dict(), self.config())

    @classmethod
    def load(cls, path: str | os.PathLike, vit: nn.Module, same_vit: bool = True) -> DiffMask:
        """Read what `save` wrote. Raises `ValueError` if the file is broken, or its gates are for another ViT, and
        `FileNotFoundError` if there is none.

        same_vit=False also takes gates trained on other weights of the same shape, for a warm start, and on another head.
        """
        tensors, config = read_gates(path)
        if missing := {"placeholder", "shape", "vit"} - config.keys():
            raise ValueError(f"{path} does not say what it must of its gates ({', '.join(sorted(missing))}); save it again.")
        if config.get("cut") or config.get("per_class") or (config.get("context") and not config.get("class_aware")):
            raise ValueError(f"{path} holds gates of a kind that is no longer made; train class-aware ones in their place.")
        hidden = config.get("hidden")
        if hidden and not any(hidden in tensor.shape for tensor in tensors.values()):  # before memory is taken for them
            raise ValueError(f"{path} holds no gates of {hidden} hidden units, as it claims to; save it again.")
        placeholder = config["placeholder"] if config["placeholder"] != "tensor" else tensors["placeholder"]
        kind = {key: config[key] for key in OPTIONS if key in config}  # older files lack the newer ones
        explainer = cls(vit, placeholder, **kind)
        mine = explainer.config()
        for key in dict.fromkeys([*mine["shape"], *config["shape"]]):
            if key in ("classes", "multilabel") and not same_vit:
                continue
            was, now = (shape.get(key, False) for shape in (config["shape"], mine["shape"]))
            if was != now:
                raise ValueError(f"{path} is for a ViT with {key} {was}, but this one has {key} {now}.")
        same = same_weights(config["vit"], mine["vit"])
        if same_vit and not same:
            raise ValueError(
                f"{path} was trained for a ViT of this shape but with other weights; load those, or start a new training from "
                "these gates (same_vit=False, or train-gates --start)."
            )
        if explainer.kind == "mean" and not same and "placeholder" in tensors:
            tensors["placeholder"] = explainer.placeholder  # the mean patch as this ViT embeds it, not as the other did
        try:
            explainer.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(
                f"{path} lacks tensors of a DiffMask ({' '.join(str(error).split()[-3:])}); save it again."
            ) from error
        return explainer


def read_gates(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the configuration in a file of gates; its "shape" is that of the ViT that they were made for."""
    try:
        tensors, config = load_tensors(path)
    except ValueError as error:
        raise ValueError(f"{str(error).rstrip('.')}; gates are what DiffMask.save or train-gates wrote.") from error
    if config.get("kind") != "diffmask":
        raise ValueError(f"{path} holds {config.get('kind', 'something else')}, not the gates of a DiffMask.")
    return tensors, config
