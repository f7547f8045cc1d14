"""What attention carries to the class: against sums that must come out, slow loops, and autograd."""

from contextlib import ExitStack

import pytest
import torch
from torch import nn

from diffmask_lite import DiffMask
from diffmask_lite.attribution import METHODS
from diffmask_lite.vit import UnfitViT, anatomy, explicit_attention
from diffmask_lite.vit.direct import observe_carried
from diffmask_lite.vit.head import log_odds_slope
from families import FAMILIES, double, left_as_it_was, shared, some_images

SUMS = [family for family in FAMILIES if family != "siglip"]  # whose head pools by attention


def seen(vit, images, last=None):
    """(logits, what was carried, what each attention and MLP and the first tokens gave), all in the precision of the ViT."""
    gave = {}
    with torch.no_grad(), ExitStack() as stack:
        for i, block in enumerate(vit.blocks):
            for name in ("attn", "mlp"):
                module = getattr(block, name)
                keep = module.register_forward_hook(lambda _m, _a, out, place=(name, i): gave.__setitem__(place, out))
                stack.callback(keep.remove)
        first = vit.blocks[0].register_forward_pre_hook(lambda _m, args: gave.__setitem__("tokens", args[0]))
        stack.callback(first.remove)
        carried = stack.enter_context(observe_carried(vit, last))
        logits = vit(images)
    return logits, carried, gave


def log_odds_rise(logits):
    return log_odds_slope(logits, logits.argmax(1))


@pytest.mark.parametrize("family", SUMS)
def test_the_terms_of_attention_mlps_and_tokens_add_up_to_the_logits(family):
    """Σ_k wanted_k logit_k is what the tokens, MLPs and biases give along u, and the direct terms of all heads and tokens.

    The head's bias and the last norm's, which no token gives, are added by hand.
    """
    vit = double(family)
    images = some_images(vit, 2).double()
    logits, carried, gave = seen(vit, images)
    wanted = log_odds_rise(logits)
    towards, terms = carried.directions(wanted), carried.terms(wanted)
    assert terms.shape[:2] == (2, len(vit.blocks)) and terms.shape[3] == anatomy(vit).prefix + anatomy(vit).patches
    total = (gave["tokens"][:, carried.read] * towards).sum((1, 2)) + terms.sum((1, 2, 3))
    for i, block in enumerate(vit.blocks):  # LayerScale is 1 in these models
        total += (gave["mlp", i][:, carried.read] * towards).sum((1, 2))
        if block.attn.proj.bias is not None:
            total += (block.attn.proj.bias * towards).sum((1, 2))
    heads = [vit.head, vit.head_dist] if hasattr(vit, "head_dist") else [vit.head]
    constant = sum(head.bias for head in heads if head.bias is not None) / len(heads)
    for norm in (vit.norm, vit.fc_norm):
        if getattr(norm, "bias", None) is not None:
            constant = constant + sum(head.weight for head in heads) / len(heads) @ norm.bias
    torch.testing.assert_close(total + wanted @ constant, (wanted * logits).sum(1))


@pytest.mark.parametrize("family", ["not_square", "distilled", "average_pooling"])
def test_direct_is_the_sum_of_its_terms_one_by_one(family):
    vit = double(family)
    images, shape = some_images(vit, 2).double(), anatomy(vit)
    logits, carried, _ = seen(vit, images)
    towards, wanted = carried.directions(log_odds_rise(logits)), torch.zeros(2, shape.patches, dtype=torch.float64)
    for i, block in enumerate(vit.blocks):
        maps, value, _ = carried.blocks[i]
        for b in range(2):
            for h in range(maps.shape[1]):
                out = block.attn.proj.weight[:, h * value.shape[-1] : (h + 1) * value.shape[-1]]
                for row, token in enumerate(range(shape.prefix + shape.patches)[carried.read]):
                    for j in range(shape.patches):
                        given = out @ value[b, h, shape.prefix + j]
                        wanted[b, j] += maps[b, h, token, shape.prefix + j] * (given @ towards[b, row])
    found = METHODS["direct"](vit, images)
    torch.testing.assert_close(found.flatten(1), wanted.to(found.dtype), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["not_square", "distilled", "dinov3", "beit", "average_pooling", "eva02"])
@pytest.mark.parametrize("last", [None, 2])
def test_paths_are_the_slope_of_dropping_with_all_else_held_fixed(family, last):
    """Autograd along the keep weights in each block, with attention, MLPs, norms' scales and gates held as they were."""
    vit, shape = double(family), anatomy(double(family))
    images = some_images(vit, 2).double()
    logits, carried, _ = seen(vit, images, last)
    wanted, blocks = log_odds_rise(logits), list(carried.collected)
    found = carried.paths(wanted)
    keep = torch.ones(2, len(blocks), shape.prefix + shape.patches, dtype=torch.float64, requires_grad=True)

    def weigh(k):
        def hook(_module, args):
            weighed = args[0].detach() * keep[:, k, None, None]
            return (weighed / weighed.sum(-1, keepdim=True),)

        return hook

    def hold_scale(module, args, out):  # a norm as a linear map: the same scale, whatever happens to the tokens
        x = args[0]
        if isinstance(module, nn.LayerNorm):
            scale = (x.var(-1, unbiased=False, keepdim=True) + module.eps).sqrt().detach()
            normed = (x - x.mean(-1, keepdim=True)) / scale
        else:
            normed = x / (x.square().mean(-1, keepdim=True) + module.eps).sqrt().detach()
        normed = normed if module.weight is None else normed * module.weight
        return normed if getattr(module, "bias", None) is None else normed + module.bias

    norms = [vit.norm, vit.fc_norm, *(block.norm1 for block in vit.blocks)]
    norms += [block.attn.norm for block in vit.blocks if hasattr(block.attn, "norm")]
    with explicit_attention(vit), ExitStack() as stack:
        for k, i in enumerate(blocks):
            stack.callback(vit.blocks[i].attn.attn_drop.register_forward_pre_hook(weigh(k)).remove)
            stack.callback(vit.blocks[i].mlp.register_forward_hook(lambda _m, _a, out: out.detach()).remove)
            if getattr(vit.blocks[i].attn, "gate", None) is not None:
                stack.callback(vit.blocks[i].attn.gate.register_forward_hook(lambda _m, _a, out: out.detach()).remove)
        for norm in norms:
            if not isinstance(norm, nn.Identity):
                stack.callback(norm.register_forward_hook(hold_scale).remove)
        again = vit(images)
    (slope,) = torch.autograd.grad((wanted * again).sum(), keep)
    torch.testing.assert_close(again, logits)
    torch.testing.assert_close(found, slope)
    if last is None:
        mapped = METHODS["direct_paths"](vit, images)
        torch.testing.assert_close(mapped.flatten(1), found[..., shape.prefix :].sum(1).to(mapped.dtype))


@pytest.mark.parametrize("family", ["dinov3", "not_square"])
def test_class_aware_gates_follow_the_class_that_is_asked_about(family):
    vit = shared(family)
    images = some_images(vit, 3)
    with left_as_it_was(vit):
        explainer = DiffMask(vit, class_aware=True)
        with torch.no_grad():
            for gate in explainer.gates:
                nn.init.normal_(gate.turn.weight, std=0.3)
        plain = explainer.explain(images)
    said = plain.logits.argmax(1)
    assert torch.equal(explainer.explain(images, target=said).score, plain.score)
    other = (said + 1) % anatomy(vit).classes
    asked = explainer.explain(images, target=other)
    assert not torch.allclose(asked.score, plain.score) and torch.equal(asked.logits, plain.logits)
    alone = [explainer.explain(image[None], target=int(y)).score for image, y in zip(images, other, strict=True)]
    torch.testing.assert_close(torch.cat(alone), asked.score, rtol=1e-3, atol=1e-4)


def test_only_the_last_gate_reads_what_is_carried():
    """Its weight on each block's paths, in units of their sum's spread, is added to its logit as it stands."""
    vit = shared("not_square")
    images = some_images(vit, 2)
    explainer = DiffMask(vit, class_aware=True)
    assert [gate.carried is None for gate in explainer.gates] == [True] * (len(explainer.gates) - 1) + [False]
    with torch.no_grad():
        _, gates = explainer.read(images)
        weights = torch.tensor([0.3, -0.2, 0.9])
        explainer.gates[-1].carried.copy_(weights)
        _, after = explainer.read(images)
        logits, carried, _ = seen(vit, images)
        paths = carried.paths(log_odds_rise(logits))[..., 1:]
    paths = paths / paths.sum(1, keepdim=True).std(-1, keepdim=True)
    moved = ((weights - 0.7)[:, None] * paths).sum(1)
    torch.testing.assert_close(after[:, -1] - gates[:, -1], moved, rtol=1e-4, atol=1e-5)
    assert torch.equal(after[:, :-1], gates[:, :-1])


def test_what_has_no_direct_terms_is_refused_when_gates_are_made():
    with pytest.raises(UnfitViT, match="pools by 'map'"):
        DiffMask(shared("siglip"), class_aware=True)
    with pytest.raises(ValueError, match="do not know the class"):
        DiffMask(shared("vit")).explain(some_images(shared("vit"), 1), target=1)
    with pytest.raises(ValueError, match="choose published or class_aware"):
        DiffMask(shared("vit"), class_aware=True, published=True)
