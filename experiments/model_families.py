"""Which of timm's families of ViTs can be explained, and by which methods? Small models without weights answer.

    python experiments/model_families.py

Writes `data/results/families.csv`, a row a model: whether it fits, the project's own sentence where it does not, whether its
tokens can be dropped, and which attribution methods it takes. `python tools/families_table.py` makes the tables from it.

A model that fits is held to what a wrong hook would break: each embedding belongs to the patch at its place in the grid;
keeping all patches changes nothing; keeping one gives what a forward pass gives in which the others were put in by hand;
without any patch all images look the same; two steps of `fit` move the gates. A model that fails there is "wrong", and the
command then ends with status 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pandas as pd
import timm
import torch
from torch import Tensor, nn

from diffmask_lite import DiffMask, UnfitViT, fit
from diffmask_lite.attribution import METHODS
from diffmask_lite.vit import anatomy, attention_maps, hidden_states, predict, to_pixels
from diffmask_lite.vit.storage import write
from diffmask_lite.weights import folder

COLUMNS = ("family", "variant", "model", "options", "outcome", "reason", "local", "drop", "methods")
CLASSES = 10
NARROW = {"embed_dim": 48, "depth": 3, "num_heads": 3}
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Model:
    """A small member of a family: what timm calls it, and what makes it small."""

    family: str
    variant: str
    name: str
    size: int | tuple[int, int] | None = 64  # None: the model takes no `img_size`
    options: dict = field(default_factory=lambda: NARROW)

    def build(self) -> nn.Module:
        """Make it with weights drawn so that its logits hang on its patches; timm's own first values hide a broken hook.

        (LayerScale is 1e-5 at first, a head nearly 0, BEiT's position bias exactly 0.)
        """
        size = {} if self.size is None else {"img_size": self.size}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = timm.create_model(self.name, num_classes=CLASSES, **size, **self.options)
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if key.endswith(("gamma", "gamma_1", "gamma_2", "gamma1", "gamma2", "ls1", "ls2")):
                    weight.fill_(1)
                elif key.endswith(("pos_embed", "_token", "bias_table")):
                    weight.normal_(0, 0.5, generator=draw)
                elif weight.ndim > 1:
                    weight.normal_(0, weight[0].numel() ** -0.5, generator=draw)
        return model.eval()


def more(**options) -> dict:
    return NARROW | options


MODELS = (
    Model("ViT", "class token", "vit_tiny_patch16_224"),
    Model("ViT", "average pooling", "vit_tiny_patch16_224", options=more(global_pool="avg")),
    Model("ViT", "no class token", "vit_tiny_patch16_224", options=more(global_pool="avg", class_token=False)),
    Model("ViT", "attention pooling", "vit_tiny_patch16_224", options=more(global_pool="map", class_token=False)),
    Model("ViT", "not square", "vit_tiny_patch16_224", size=(48, 80)),
    Model("ViT", "dynamic size", "vit_tiny_patch16_224", options=more(dynamic_img_size=True)),
    Model("ViT", "trained as MAE", "vit_base_patch16_224.mae"),
    Model("ViT", "blocks of two branches", "vit_small_patch16_18x2_224"),
    Model("ViT", "differential attention", "vit_dlittle_patch16_reg1_gap_256", options=more(embed_dim=96)),
    Model("ViT", "registers, no class token", "vit_little_patch16_reg4_gap_256"),
    Model("ViT", "relative positions", "vit_relpos_small_patch16_224"),
    Model("ViT", "relative positions, shared", "vit_srelpos_small_patch16_224"),
    Model("ViT", "rotary positions", "vit_small_patch16_rope_224"),
    Model("ViT", "mixed rotary positions", "vit_small_patch16_rope_mixed_224"),
    Model("ViT", "hybrid with ResNet stem", "vit_tiny_r_s16_p8_224"),
    Model("DeiT", "plain", "deit_tiny_patch16_224"),
    Model("DeiT", "distilled", "deit_tiny_distilled_patch16_224"),
    Model("DeiT-3", "plain", "deit3_small_patch16_224"),
    Model("DINO", "plain", "vit_small_patch16_224.dino"),
    Model("DINOv2", "plain", "vit_small_patch14_dinov2", size=56),
    Model("DINOv2", "registers", "vit_small_patch14_reg4_dinov2", size=56),
    Model("DINOv3", "plain", "vit_small_patch16_dinov3"),
    Model("SigLIP", "attention pooling", "vit_base_patch16_siglip_224"),
    Model("SigLIP", "average pooling", "vit_base_patch16_siglip_gap_224"),
    Model("SigLIP 2", "attention pooling", "vit_base_patch16_siglip_224.v2_webli"),
    Model("CLIP", "image tower", "vit_base_patch16_clip_224"),
    Model("CLIP", "quick GELU", "vit_base_patch16_clip_quickgelu_224"),
    Model("EVA", "plain", "eva_giant_patch14_224", size=56),
    Model("EVA-02", "plain", "eva02_tiny_patch14_224", size=56),
    Model("EVA-02", "CLIP", "eva02_base_patch16_clip_224"),
    Model("BEiT", "plain", "beit_base_patch16_224"),
    Model("BEiT", "shared bias", "beit_base_patch16_224",
          options=more(use_rel_pos_bias=False, use_shared_rel_pos_bias=True)),
    Model("BEiT", "class token", "beit_base_patch16_224", options=more(global_pool="token")),
    Model("BEiT v2", "plain", "beitv2_base_patch16_224"),
    Model("BEiT-3", "plain", "beit3_base_patch16_224"),
    Model("TIPS v2", "one register", "vit_base_patch14_reg1_tipsv2", size=56),
    Model("MobileCLIP", "image tower", "vit_base_mci_224", options={"depth": 2}),
    Model("Sapiens 2", "plain", "vit_huge_patch16_sapiens2", options=more(embed_dim=96, num_heads=6, num_kv_heads=(6, 3, 6))),
    Model("Gemma 4", "image tower", "gemma4_vit_167m", size=None, options={"depth": 2}),
    Model("Qwen3", "image tower", "qwen3_vit_88m", size=None, options={"depth": 2}),
    Model("DeepSeek", "image tower", "deepseek_vit_412m", size=None, options={"depth": 2}),
    Model("FlexiViT", "plain", "flexivit_small"),
    Model("NaFlexViT", "average pooling", "naflexvit_base_patch16_gap", size=None),
    Model("NaFlexViT", "SigLIP 2", "naflexvit_base_patch16_siglip", size=None),
    Model("Perception Encoder", "core", "vit_pe_core_tiny_patch16_384"),
    Model("Perception Encoder", "language", "vit_pe_lang_large_patch14_448", size=56),
    Model("AIMv2", "plain", "aimv2_large_patch14_224", size=56, options=more(num_heads=4, embed_dim=64)),
    Model("ViTamin", "small", "vitamin_small_224", options={}),
    Model("SAM", "ViT-B (ViTDet)", "samvit_base_patch16"),
    Model("SAM 2", "Hiera tiny", "sam2_hiera_tiny", size=None, options={}),
    Model("Hiera", "tiny", "hiera_tiny_224", size=None, options={"embed_dim": 16, "stages": (1, 1, 1, 1)}),
    Model("Swin", "v1", "swin_tiny_patch4_window7_224", size=56,
          options={"embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)}),
    Model("Swin", "v2", "swinv2_tiny_window8_256",
          options={"embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)}),
    Model("CaiT", "plain", "cait_xxs24_224", options={"embed_dim": 48, "depth": 2, "num_heads": 4}),
    Model("ConViT", "plain", "convit_tiny", options={"depth": 3, "local_up_to_layer": 2}),
    Model("XCiT", "nano", "xcit_nano_12_p16_224", options={"depth": 2}),
    Model("CrossViT", "tiny", "crossvit_tiny_240", size=240, options={"embed_dim": (24, 48), "num_heads": (3, 3)}),
    Model("PiT", "tiny", "pit_ti_224", size=None, options={}),
    Model("TNT", "small", "tnt_s_patch16_224", options={"embed_dim": 48, "depth": 2, "num_heads_outer": 3}),
    Model("VOLO", "d1", "volo_d1_224", options={}),
    Model("MaxViT", "tiny", "maxvit_tiny_tf_224", size=224, options={}),
    Model("CoaT", "lite tiny", "coat_lite_tiny", size=None, options={}),
    Model("MViTv2", "tiny", "mvitv2_tiny", size=None, options={}),
    Model("Twins", "SVT small", "twins_svt_small", size=None, options={}),
    Model("PVT v2", "b0", "pvt_v2_b0", size=None, options={}),
    Model("LeViT", "128S", "levit_128s", size=None, options={}),
    Model("NesT", "tiny", "nest_tiny", size=None, options={}),
    Model("DaViT", "tiny", "davit_tiny", size=None, options={}),
    Model("TinyViT", "5M", "tiny_vit_5m_224", size=None, options={}),
    Model("MobileViT", "xxs", "mobilevit_xxs", size=None, options={}),
    Model("FastViT", "t8", "fastvit_t8", size=None, options={}),
    Model("EfficientFormer", "l1", "efficientformer_l1", size=None, options={}),
    Model("PoolFormer", "s12", "poolformer_s12", size=None, options={}),
    Model("MLP-Mixer", "S/16", "mixer_s16_224", options={}),
    Model("ResMLP", "12", "resmlp_12_224", options={}),
    Model("ResNet", "18", "resnet18", size=None, options={}),
    Model("ConvNeXt", "atto", "convnext_atto", size=None, options={}),
)  # fmt: skip


# What a model that fits is held to


@torch.no_grad()
def faults(model: nn.Module) -> list[str]:
    """Return a word for each way in which a model's patches are not where they seem to be; an empty list is good."""
    shape = anatomy(model)
    images = torch.randn(3, shape.channels, *shape.size, generator=torch.Generator().manual_seed(0))
    embedded = model.patch_embed(images).flatten(1, -2)  # (3, N, D)
    placeholder = torch.randn(shape.width, generator=torch.Generator().manual_seed(1))
    every = torch.ones(3, *shape.grid, dtype=torch.bool)
    whole, found = model(images), []

    if {len(state[0]) for state in hidden_states(model, images)} != {shape.patches}:
        found.append("a hidden state has another number of patches")
    if not _close(predict(model, images, every, placeholder), whole):
        found.append("keeping all patches changes the prediction")
    wiped = predict(model, images, ~every, placeholder)
    if not _close(wiped, wiped[:1].expand_as(wiped)):
        found.append("without any patch the image still shows")
    if _close(wiped, whole):
        found.append("without any patch nothing changes")
    for at in (0, shape.patches - 1):
        keep = torch.zeros(3, shape.patches, dtype=torch.bool)
        keep[:, at] = True
        by_hand = torch.where(keep[..., None], embedded, placeholder)
        with _embedding(model, by_hand):
            wanted = model(images)
        if not _close(predict(model, images, keep.view_as(every), placeholder), wanted):
            found.append(f"keeping patch {at} is not what it is by hand")
        if int(_moved(model, images, at).argmax()) != at:
            found.append(f"pixels of patch {at} reach another patch's embedding")
    return found


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=TOLERANCE)


@contextmanager
def _embedding(model: nn.Module, value: Tensor) -> Iterator[None]:
    """Let `patch_embed` give this (B, N, D), without a hook: its `forward` is another function for a while."""
    own, right = vars(model.patch_embed).get("forward"), model.patch_embed.forward
    try:
        model.patch_embed.forward = lambda x: value.view_as(right(x))
        yield
    finally:
        del model.patch_embed.forward
        if own is not None:
            model.patch_embed.forward = own


def _moved(model: nn.Module, images: Tensor, at: int) -> Tensor:
    """Return how far each patch's embedding moves, (N,), when the pixels of patch `at`, counted in rows, change sign."""
    shape = anatomy(model)
    mark = torch.zeros(len(images), shape.patches, dtype=torch.bool)
    mark[:, at] = True
    pixels = to_pixels(mark.view(-1, *shape.grid), shape.size, shape.patch)
    tall, wide = (patches * side for patches, side in zip(shape.grid, shape.patch, strict=True))
    pixels[..., tall:, :] = pixels[..., wide:] = False  # pixels left over belong to no patch
    moved = model.patch_embed(torch.where(pixels, -images, images)) - model.patch_embed(images)
    return moved.flatten(1, -2).norm(dim=-1).sum(0)


@torch.no_grad()
def local(model: nn.Module) -> bool:
    """Return whether each patch's embedding is made of that patch's pixels alone; a CNN as a stem looks further."""
    shape = anatomy(model)
    images = torch.randn(1, shape.channels, *shape.size, generator=torch.Generator().manual_seed(0))
    return all(
        not (_moved(model, images, at) > TOLERANCE).view(-1)[torch.arange(shape.patches) != at].any()
        for at in range(shape.patches)
    )


@torch.no_grad()
def attention_faults(model: nn.Module) -> list[str]:
    """Return what is wrong with the attention maps that the methods read; none can be wrong where there are none to read."""
    shape = anatomy(model)
    images = torch.randn(2, shape.channels, *shape.size, generator=torch.Generator().manual_seed(4))
    tokens, before = shape.prefix + shape.patches, model(images)
    try:
        maps = attention_maps(model, images)
    except UnfitViT:
        return []
    if tuple(maps.shape) != (2, shape.depth, model.blocks[0].attn.num_heads, tokens, tokens):
        return [f"attention maps have the shape {tuple(maps.shape)}"]
    if not _close(maps.sum(-1), torch.ones(())) or not _close(model(images), before):
        return ["rows of attention do not sum to 1"]
    return []


@torch.no_grad()
def drops(model: nn.Module) -> tuple[bool, list[str]]:
    """Return whether tokens can be dropped, and the faults of dropping: pixels of a dropped patch must not matter."""
    shape = anatomy(model)
    images = torch.randn(3, shape.channels, *shape.size, generator=torch.Generator().manual_seed(0))
    keep = torch.rand(shape.grid, generator=torch.Generator().manual_seed(2)) < 0.5
    keep[0, 0], keep[-1, -1] = True, False
    keep = keep.expand(3, -1, -1)
    try:
        half = predict(model, images, keep, "drop")
    except UnfitViT:
        return False, []
    found = []
    if not _close(predict(model, images, torch.ones_like(keep), "drop"), model(images)):
        found.append("dropping nothing changes the prediction")
    if _close(half, model(images)):
        found.append("dropping half of the patches changes nothing")
    embedded, rest = model.patch_embed(images).flatten(1, -2), torch.randn(shape.patches, shape.width)
    with _embedding(model, torch.where(keep.flatten(1)[..., None], embedded, rest)):
        if not _close(predict(model, images, keep, "drop"), half):
            found.append("a dropped patch still shows")
    return True, found


def trains(model: nn.Module) -> list[str]:
    """Return the faults of two steps of `fit` and of the explanation after them."""
    explainer = DiffMask(model)
    images = torch.randn(4, explainer.shape.channels, *explainer.shape.size, generator=torch.Generator().manual_seed(3))
    before = {key: value.clone() for key, value in explainer.state_dict().items()}
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    fit(explainer, images, steps=2, batch=2, progress=False)
    result = explainer.explain(images)
    check = explainer.verify(images, result.keep, result.logits)
    found = []
    if all(torch.equal(value, before[key]) for key, value in explainer.state_dict().items()):
        found.append("two steps of fit change nothing")
    if any(not torch.equal(value, weights[key]) for key, value in model.state_dict().items()):
        found.append("fit changes the ViT")
    if not (result.mask.isfinite().all() and check.kl.isfinite().all()) or tuple(result.mask.shape[1:]) != explainer.shape.grid:
        found.append("the explanation is not finite, or not on the patch grid")
    return found


def attributions(model: nn.Module) -> tuple[list[str], list[str]]:
    """Return the names of the methods that a model takes, and the faults of what they give; others refuse by `UnfitViT`."""
    shape = anatomy(model)
    images = torch.randn(2, shape.channels, *shape.size, generator=torch.Generator().manual_seed(4))
    taken, found = [], []
    for name, method in METHODS.items():
        try:
            scores = method(model, images)
        except UnfitViT:
            continue
        except Exception as error:  # anything else than a refusal is a fault, and the table must say so
            found.append(f"{name} fails ({type(error).__name__}: {str(error).splitlines()[0]})")
            continue
        if tuple(scores.shape) != (2, *shape.grid) or not scores.isfinite().all():
            found.append(f"{name} gives no finite map on the patch grid")
        taken.append(name)
    return taken, found


def row(model: Model) -> dict[str, str]:
    """Return what the table says of a model, by column."""
    options = ({} if model.size is None else {"img_size": model.size}) | model.options
    known = {"family": model.family, "variant": model.variant, "model": model.name, "options": json.dumps(options)}
    vit = model.build()
    try:
        anatomy(vit)
    except UnfitViT as refusal:
        return known | {"outcome": "refused", "reason": str(refusal), "local": "", "drop": "", "methods": ""}
    droppable, wrong = drops(vit)
    taken, failing = attributions(vit)
    wrong = [*faults(vit), *wrong, *trains(vit), *attention_faults(vit), *failing]
    outcome = {"outcome": "wrong" if wrong else "works", "reason": "; ".join(wrong)}
    return (
        known
        | outcome
        | {"local": "yes" if local(vit) else "no", "drop": "yes" if droppable else "no", "methods": " ".join(taken)}
    )


def main() -> int:
    rows = []
    for model in MODELS:
        rows.append(row(model))
        print(f"{model.family}, {model.variant}: {rows[-1]['outcome']} {rows[-1]['reason']}", flush=True)
    write(folder() / "results" / "families.csv", pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, lineterminator="\n"))
    return int(any(row["outcome"] == "wrong" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
