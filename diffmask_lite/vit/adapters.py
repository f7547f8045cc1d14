"""ViTs of transformers and torchvision as timm's class, and heads of one logit as heads of two, with the same answers."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .anatomy import UnfitViT
from .hold import guest

# What their tensors are called, and what timm calls them; of transformers in its versions 4 and 5.
TRANSFORMERS = (
    (r"^\w+\.embeddings\.cls_token$", "cls_token"),
    (r"^\w+\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^\w+\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^\w+\.(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(attention\.query|q_proj)\.", ".attn.qkv[0]."),
    (r"\.attention\.(attention\.key|k_proj)\.", ".attn.qkv[1]."),
    (r"\.attention\.(attention\.value|v_proj)\.", ".attn.qkv[2]."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.gate_proj\.", ".mlp.fc1[0]."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1[1]."),
    (r"\.(intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"(?<=\d)\.(output\.dense|mlp\.weights_out|mlp\.down_proj)\.", ".mlp.fc2."),
    (r"^\w+\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
TORCHVISION = (
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.(head\.)?(\d+\.)?(?=weight$|bias$)", "head."),  # also a head that was put there by hand
)
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class ClassAndMean(VisionTransformer):
    """A ViT whose head reads the class token beside the mean of the patches, as that of DINOv2 in transformers does.

    Its `global_pool` is "avg", which is how `weigh_tokens` finds the mean to weigh.
    """

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Return (B, 2 D) from tokens (B, P + N, D)."""
        return torch.cat([x[:, 0], x[:, self.num_prefix_tokens :].mean(1)], dim=1)


def from_transformers(model: nn.Module, processor: Any = None, size: tuple[int, int] | None = None) -> nn.Module:
    """Return a timm ViT, in eval mode, with the weights of an image classifier of transformers and the same logits.

    model: a `ViTForImageClassification`, `Dinov2ForImageClassification` or `TimmWrapperForImageClassification`.
    processor: its image processor, which says how images are made and normalised; without one, `models.describe(vit, mean,
        std)` says it.
    size: H, W of the images, by default the processor's, else the model's own.
    The names of classes come from the model's configuration. Raises `UnfitViT` for other classes, for regression, and where
    the logits of two random images differ by more than 1e-4 of the largest (float32; see `_require_equal`).
    """
    config, kind = model.config, type(model).__name__
    if config.problem_type == "regression":
        raise UnfitViT(f"{kind} was trained for regression; what is explained here is a prediction among classes.")
    about = {"label_names": [config.id2label[i] for i in range(config.num_labels)]}
    about |= {"problem_type": config.problem_type} if config.problem_type else {}
    about |= {} if processor is None else _processing(processor)
    if kind == "TimmWrapperForImageClassification":
        vit = _twin(model.timm_model)
        vit.pretrained_cfg |= {**(getattr(config, "pretrained_cfg", None) or {}), **about}
        return _finished(vit)
    if kind not in ("ViTForImageClassification", "Dinov2ForImageClassification"):
        raise UnfitViT(
            f"{kind} of transformers is not known here; ViTForImageClassification, Dinov2ForImageClassification and "
            "TimmWrapperForImageClassification are, and of timm every ViT."
        )
    if config.hidden_act != "gelu":
        raise UnfitViT(f"{kind} has the activation {config.hidden_act!r} in its MLPs; known is 'gelu'.")
    state = _renamed({k: v for k, v in model.state_dict().items() if not k.endswith(".mask_token")}, TRANSFORMERS)
    own = _pair(config.image_size)
    size = size or about.get("input_size", (0, *own))[1:]
    if kind.startswith("Dinov2"):
        state["pos_embed"] = _positions(model.dinov2.embeddings, size)
    elif tuple(size) != own:
        raise UnfitViT(f"{kind} takes images of {own[0]} × {own[1]} pixels, but its processor makes {size[0]} × {size[1]}.")
    vit = _built(state, size, config.num_attention_heads, config.layer_norm_eps, kind, about)
    _require_equal(vit, model, lambda images: model(images).logits)
    return _finished(vit)


def from_torchvision(model: nn.Module) -> nn.Module:
    """Return a timm ViT, in eval mode, with the weights of a `torchvision.models.VisionTransformer` and the same logits.

    Images are taken to be made as for torchvision's own weights: shorter side 256 for a crop of 224, bilinear, normalised by
    ImageNet's mean and standard deviation; `models.describe` says others. Raises `UnfitViT` for a convolutional
    stem or more than one layer in the head, and where logits differ, as `from_transformers` does.
    """
    if type(model).__name__ != "VisionTransformer" or not hasattr(model, "conv_proj"):
        raise UnfitViT(f"{type(model).__name__} is no VisionTransformer of torchvision; a ViT of timm needs no adapter.")
    about = {
        "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": "bilinear", "crop_pct": 224 / 256,
    }  # fmt: skip
    state, norm = _renamed(model.state_dict(), TORCHVISION), model.encoder.ln
    heads = model.encoder.layers[0].self_attention.num_heads
    vit = _built(state, _pair(model.image_size), heads, norm.eps, "torchvision's VisionTransformer", about)
    _require_equal(vit, model, model)
    return _finished(vit)


def two_class(vit: nn.Module) -> nn.Module:
    """Return a copy of a ViT with a head of one logit x in which the head has two, [0, x]: softmax then gives σ(x).

    The copy shares all other weights with the ViT, which stays as it is.
    """
    heads = vit.pretrained_cfg.get("classifier") or "head"
    heads = (heads,) if isinstance(heads, str) else heads
    if (outputs := vit.get_submodule(heads[0]).out_features) != 1:
        raise ValueError(f"Only a head of one logit becomes one of two, but this one has {outputs}.")
    vit = _twin(vit)
    cfg = vit.pretrained_cfg
    for name in heads:
        old = vit.get_submodule(name)
        new = nn.Linear(old.in_features, 2, bias=old.bias is not None).to(old.weight)
        with torch.no_grad():
            for mine, value in zip(new.parameters(), old.parameters(), strict=True):
                mine.copy_(torch.cat([torch.zeros_like(value), value]))
        vit.set_submodule(name, new.train(old.training))
    vit.num_classes = 2
    cfg["problem_type"] = None  # one class of two, also where the logit was of a single label
    if len(names := cfg.get("label_names") or ()) == 1:
        cfg["label_names"] = [f"not {names[0]}", names[0]]
    return vit


def _twin(vit: nn.Module) -> nn.Module:
    """Return a copy of a module that shares its weights."""
    held = itertools.chain(vit.parameters(), vit.buffers())
    return copy.deepcopy(vit, {id(tensor): tensor for tensor in held})


def _finished(vit: nn.Module) -> nn.Module:
    return (two_class(vit) if vit.num_classes == 1 else vit).eval()


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _renamed(state: Mapping[str, Tensor], names: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    """Return tensors under timm's names; parts of one, such as `qkv[0]`, `qkv[1]` and `qkv[2]`, are put together."""
    found: dict[str, dict[int, Tensor]] = {}
    for old, tensor in state.items():
        new = old
        for pattern, words in names:
            new = re.sub(pattern, words, new)
        part = re.search(r"\[(\d)\]", new)
        parts, place = found.setdefault(re.sub(r"\[\d\]", "", new), {}), int(part[1]) if part else 0
        if place in parts:
            raise UnfitViT(f"This ViT has two tensors for what is one in timm's class ({old}).")
        parts[place] = tensor.detach()
    return {name: torch.cat([parts[i] for i in sorted(parts)]) for name, parts in found.items()}


def _built(
    state: dict[str, Tensor], size: tuple[int, int], heads: int, eps: float, kind: str, about: dict[str, Any]
) -> VisionTransformer:
    """Return timm's class with these tensors, on their device; about: entries of its `pretrained_cfg`."""
    try:
        width, channels, *patch = state["patch_embed.proj.weight"].shape
        classes, read = state["head.weight"].shape
        rows = len(state["blocks.0.mlp.fc1.weight"])
        gated = rows == 2 * state["blocks.0.mlp.fc2.weight"].shape[1]
        vit = (VisionTransformer if read == width else ClassAndMean)(
            img_size=size, patch_size=tuple(patch), in_chans=channels, num_classes=classes, embed_dim=width,
            depth=sum(name.endswith("norm1.weight") for name in state), num_heads=heads, mlp_ratio=(rows + 0.5) / width,
            qkv_bias="blocks.0.attn.qkv.bias" in state, init_values=1.0 if "blocks.0.ls1.gamma" in state else None,
            norm_layer=partial(nn.LayerNorm, eps=eps), global_pool="token" if read == width else "avg", fc_norm=False,
            weight_init="skip", **({"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if gated else {}),
        )  # fmt: skip
        if read != width:
            vit.head = nn.Linear(read, classes)
        vit.to(state["cls_token"]).load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        why = " ".join(str(error).split("\n\t")[-1].split()).rstrip(".")
        raise UnfitViT(
            f"{kind} does not fit into timm's class ({why}); only plain ones with one linear layer as head do."
        ) from error
    own = {"architecture": kind, "num_classes": classes, "first_conv": "patch_embed.proj", "classifier": "head"}
    vit.pretrained_cfg = about | own | {"input_size": (channels, *size)}
    return vit


def _require_equal(vit: nn.Module, model: nn.Module, ask: Callable[[Tensor], Tensor]) -> None:
    """Raise `UnfitViT` unless two random images get the same logits, to 1e-4 of the largest, in half precision to 0.1."""
    images = torch.randn(2, *vit.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), guest(model), guest(vit):
        images = images.to(vit.cls_token)
        wanted, found = ask(images).float(), vit(images).float()
    apart, most = (found - wanted).abs().max().item(), wanted.abs().max().item()
    if not apart <= (1e-4 if images.dtype == torch.float32 else 0.1) * most:
        raise UnfitViT(
            f"{type(model).__name__} and its copy in timm's class do not agree (logits up to {most:.3g} differ by "
            f"{apart:.3g}), so it computes something else than a plain ViT."
        )


def _positions(embeddings: nn.Module, size: tuple[int, int]) -> Tensor:
    """Return DINOv2's positions for images of a size, interpolated as transformers does it in each forward pass."""
    high, wide = (side // patch for side, patch in zip(size, _pair(embeddings.patch_size), strict=True))
    tokens = embeddings.cls_token.new_empty(1, 1 + high * wide, embeddings.cls_token.shape[-1])
    return embeddings.interpolate_pos_encoding(tokens, *size).detach()


def _processing(processor: Any) -> dict[str, Any]:
    """Return what an image processor of transformers does to a picture, as entries of timm's `pretrained_cfg`."""
    if hasattr(processor, "data_config"):  # timm's own, wrapped
        return dict(processor.data_config)
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255  # their normalisation comes after this
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
    found = {"mean": tuple(value / scale for value in mean), "std": tuple(value / scale for value in std)}
    resample = getattr(processor.resample, "value", processor.resample)  # Pillow's number or torchvision's word
    side = dict(processor.size)
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", None) else side
    short = side.get("shortest_edge") or side.get("height")
    if not crop.get("height"):  # the shorter side alone, so images of any shape: the ViT takes the middle
        crop = {"height": short, "width": short}
    return found | {
        "input_size": (len(mean), crop["height"], crop["width"]), "crop_pct": crop["height"] / short,
        "crop_mode": "center" if side.get("shortest_edge") else "squash",
        "interpolation": RESAMPLING.get(resample, resample or "bilinear"),
    }  # fmt: skip
