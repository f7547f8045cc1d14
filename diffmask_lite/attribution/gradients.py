"""Attribution by gradients: how steeply does the logit of a class y rise or fall with what the ViT computes of each patch?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..vit import UnfitViT, mean_patch, observe_attention, replace_embedding
from ..vit.head import chosen_classes, logit_of
from ..vit.hold import attached
from ..vit.removal import predict_unchecked
from .common import Target, captum, gradients, on_grid, reader, require_input


def gradient_input(vit: nn.Module, images: Tensor, target: Target = None, generator: torch.Generator | None = None) -> Tensor:
    """Estimate to first order what replacing a patch by the mean patch would cost: S_j = (h_0j − b_j) · ∂y/∂h_0j.

    h_0j is the patch's embedding, b_j that of a patch of the mean colour. Where the embedding is linear in the pixels this
    equals gradient × input on normalised pixels, summed over each patch. Source: Shrikumar et al., "Not Just a Black Box:
    Learning Important Features Through Propagating Activation Differences", 2016, arXiv 1605.01713.
    """
    shape = require_input(vit, images, target)
    leaves: list[Tensor] = []

    def start_here(state: Tensor) -> Tensor:
        leaves.append(state.detach().requires_grad_())
        return leaves[0]

    with gradients(vit, images) as pixels, replace_embedding(vit, start_here):
        logits = vit(pixels)
        (slope,) = torch.autograd.grad(logit_of(logits, chosen_classes(logits, target, shape.multilabel)).sum(), leaves)
    return on_grid(((leaves[0].detach() - mean_patch(vit)) * slope).sum(-1), shape, logits)


def grad_cam(
    vit: nn.Module,
    images: Tensor,
    target: Target = None,
    generator: torch.Generator | None = None,
    layer: nn.Module | None = None,
) -> Tensor:
    """Weigh the channels of a layer by their mean slope over the patches: S_j = ReLU(Σ_d (mean_i ∂y/∂a_id) a_jd).

    a_jd is channel d of patch j in the layer's output (B, P + N, D). By default these are the tokens that the last block's
    attention reads (in most ViTs the output of `vit.blocks[-1].norm1`). Nothing after that attention brings patches to a
    class token, so the last block's own output has gradient 0 at every patch. Such a layer is refused.
    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, arXiv 1610.02391.
    """
    shape = require_input(vit, images, target)
    leaves: list[Tensor] = []

    def start_here(out: Tensor) -> Tensor:  # the ViT up to here then needs no backward pass
        if getattr(out, "shape", ())[:-1] != (len(images), shape.prefix + shape.patches):
            raise ValueError(f"Grad-CAM needs a layer that gives (B, {shape.prefix + shape.patches}, D), and {name} does not.")
        leaves.append(out.detach().requires_grad_())
        return leaves[-1]

    if layer is None:
        name, place = "the input of the last attention", getattr(vit.blocks[-1], "attn", None)
        if place is None:
            raise UnfitViT(f"{type(vit).__name__} has no `attn` in its last block to read; name another place by `layer`.")
        hook = place.register_forward_pre_hook, lambda _m, args: (start_here(args[0]), *args[1:])
    else:
        name = next((f"vit.{name}" for name, module in vit.named_modules() if module is layer), None)
        if name is None:
            raise ValueError("Grad-CAM's layer must be a module of this ViT, such as vit.blocks[-2].")
        hook = layer.register_forward_hook, lambda _m, _args, out: start_here(out)
    with gradients(vit, images) as pixels, attached(vit, [hook]):
        logits = vit(pixels)
        (slope,) = torch.autograd.grad(logit_of(logits, chosen_classes(logits, target, shape.multilabel)).sum(), leaves)
    slope, active = slope[:, shape.prefix :], leaves[0].detach()[:, shape.prefix :]
    if not slope.any():
        raise ValueError(
            f"Every patch has gradient 0 in {name}, since only prefix tokens are read after it; use layer=vit.blocks[-2], or "
            "leave it out for the input of the last attention."
        )
    return on_grid((slope.mean(1, keepdim=True) * active).sum(-1).relu(), shape, logits)


def _leaf(maps: list[Tensor], attention: Tensor) -> None:
    """Keep an attention map and let gradients end in it. They flow through it already if an earlier block's map is a leaf."""
    maps.append(attention if attention.requires_grad else attention.requires_grad_())


def gradient_attention(
    vit: nn.Module, images: Tensor, target: Target = None, generator: torch.Generator | None = None
) -> Tensor:
    """Follow attention through all blocks where it speaks for the class: R ← R + Ā R, Ā = mean_h (∂y/∂A_h ⊙ A_h)⁺.

    R starts as the identity. S is its row of the class token, or the mean row of the patches where the head pools them.
    Source: Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
    Transformers", ICCV 2021, arXiv 2103.15679, their rule for self-attention.
    """
    shape = require_input(vit, images, target)
    maps: list[Tensor] = []
    with gradients(vit, images) as pixels, observe_attention(vit, lambda _i, attention: _leaf(maps, attention)):
        logits = vit(pixels)
        slopes = torch.autograd.grad(logit_of(logits, chosen_classes(logits, target, shape.multilabel)).sum(), maps)
    row = reader(vit, maps[-1])
    for attention, slope in zip(reversed(maps), reversed(slopes), strict=True):  # one row of the product is all that is wanted
        row = row + (row[:, None] @ (slope * attention.detach()).clamp(min=0).mean(1)).squeeze(1)
    return on_grid(row, shape, logits)


def legrad(vit: nn.Module, images: Tensor, target: Target = None, generator: torch.Generator | None = None) -> Tensor:
    """Ask each block how its attention forms the class: S_j = mean_l mean_h mean_i (∂y^l/∂A^l_hij)⁺.

    y^l is the class's logit read off block l: its output's mean token through the ViT's last norm and head. Only block l lies
    between A^l and y^l, not the blocks before. i runs over all tokens as queries. Source: Bousselham et al., "LeGrad: An
    Explainability Method for Vision Transformers via Feature Formation Sensitivity", ICCV 2025, arXiv 2404.03214. The mean
    token is what the authors' code pools; they then stretch each map to [0, 1], which changes no ranking.
    """
    shape = require_input(vit, images, target)
    maps: list[Tensor] = []
    each: list[Tensor] = []

    def cut(_module, args):  # what came before the block is a constant, so one backward pass serves all blocks at once
        return args[0].detach(), *args[1:]

    def read(_module, _args, out):
        token = out.mean(1, keepdim=True)
        each.append(vit.forward_head(vit.norm(token.expand(-1, shape.prefix + 1, -1))))  # whichever token the head reads

    hooks = [(block.register_forward_pre_hook, cut) for block in vit.blocks]
    hooks += [(block.register_forward_hook, read) for block in vit.blocks]
    observed = observe_attention(vit, lambda _i, attention: _leaf(maps, attention))
    with gradients(vit, images) as pixels, observed, attached(vit, hooks):
        whole = vit(pixels)
        chosen = chosen_classes(whole, target, shape.multilabel)
        slopes = torch.autograd.grad(sum(logit_of(logits, chosen).sum() for logits in each), maps)
    return on_grid(sum(slope.clamp(min=0).mean((1, 2)) for slope in slopes) / shape.depth, shape, whole)


def integrated_gradients(
    vit: nn.Module,
    images: Tensor,
    target: Target = None,
    generator: torch.Generator | None = None,
    steps: int = 20,
) -> Tensor:
    """Add up slopes on the way from the mean patch to the image: S_j = ∫₀¹ ∂y/∂z_j dt at z = (t, …, t).

    z_j mixes patch j with the mean patch, z_j h_0j + (1 − z_j) b_j, so patches are the features. Where the embedding is linear
    in the pixels, S is the pixels' attribution summed over each patch. Σ_j S_j approaches y(image) − y(all patches mean) with
    more `steps`. Captum computes it. Source: Sundararajan et al., "Axiomatic Attribution for Deep Networks", ICML 2017,
    arXiv 1703.01365.
    """
    shape = require_input(vit, images, target)
    with gradients(vit, images) as pixels:
        mean, whole = mean_patch(vit), predict_unchecked(vit, pixels)
        chosen = chosen_classes(whole, target, shape.multilabel)
        method = captum().IntegratedGradients(lambda z, x, y: logit_of(predict_unchecked(vit, x, z, mean), y))
        found = method.attribute(
            pixels.new_ones(len(pixels), *shape.grid),
            baselines=0,
            additional_forward_args=(pixels, chosen),
            n_steps=steps,
            internal_batch_size=len(pixels),  # one step of all images at a time
        )
    return on_grid(found.flatten(1), shape, whole)
