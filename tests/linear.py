"""A ViT that only adds up, so that what each of its patches is worth can be written down."""

import timm
import torch
from torch import Tensor, nn


def linear_vit() -> nn.Module:
    """No attention, no norm, average pooling: two logits ±y, and y is the mean over the patches of what each says."""
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, embed_dim=16, depth=2, num_heads=2, num_classes=2, class_token=False,
        global_pool="avg", fc_norm=False,
    ).eval()  # fmt: skip
    vit.norm = nn.Identity()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in vit.blocks:
            for last in (block.attn.proj, block.mlp.fc2):
                last.weight.zero_(), last.bias.zero_()
        for weight in (vit.patch_embed.proj.weight, vit.patch_embed.proj.bias):
            weight.normal_(0, 0.05, generator=draw)
        vit.pos_embed.zero_(), vit.head.bias.zero_()
        direction = torch.randn(16, generator=draw)
        vit.head.weight.copy_(torch.stack([direction, -direction]))
    return vit


@torch.no_grad()
def says(vit: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """What each patch says for class 0, (n, h, w), and what a patch of the mean colour says, a number."""
    words = vit.patch_embed(images) @ vit.head.weight[0]
    return words.unflatten(1, vit.patch_embed.grid_size), (vit.patch_embed(0 * images[:1]) @ vit.head.weight[0])[0, 0]
