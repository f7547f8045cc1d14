"""The checkers of notebook 01: an answer that is wrong in a plausible way fails, and the hint names the mistake."""

import pytest
import torch
from torch.nn import functional as F

from diffmask_lite import exercises
from diffmask_lite import vit as see


def unpatchify_columns_first(patches, grid):
    B, _, C, p, q = patches.shape
    h, w = grid
    return patches.reshape(B, w, h, C, p, q).permute(0, 3, 2, 4, 1, 5).reshape(B, C, h * p, w * q)


def unpatchify_by_reshape(patches, grid):
    B, _, C, p, q = patches.shape
    return patches.reshape(B, C, grid[0] * p, grid[1] * q)


def attend(scale=True, hide="before"):
    def attention(q, k, v, keep):
        scores = q @ k.transpose(-2, -1) / (q.shape[-1] ** 0.5 if scale else 1)
        if hide == "before":
            scores = scores.masked_fill(~keep[:, None, None, :], float("-inf"))
        if hide == "zero":
            scores = scores * keep[:, None, None, :]
        weights = scores.softmax(-1)
        return (weights * keep[:, None, None, :] if hide == "after" else weights) @ v

    return attention


def masked(rows=False, inverted=False, fill=float("-inf")):
    def attention(q, k, v, keep):
        hidden = keep if inverted else ~keep
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        hidden = hidden[:, None, :, None] if rows else hidden[:, None, None, :]
        return scores.masked_fill(hidden, fill).softmax(-1) @ v

    return attention


def inverted_but_if_all_are_kept(q, k, v, keep):
    return masked(inverted=not keep.all())(q, k, v, keep)


def over_the_queries(q, k, v, keep):
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return scores.masked_fill(~keep[:, None, None, :], float("-inf")).softmax(-2) @ v


def unpatchify_mirrored(patches, grid):
    B, _, C, p, q = patches.shape
    h, w = grid
    return patches.reshape(B, h, w, C, p, q).flip(2).permute(0, 3, 1, 4, 2, 5).reshape(B, C, h * p, w * q)


def from_the_output(model, images):
    with see.explicit_attention(model):
        maps = []
        handles = [b.attn.attn_drop.register_forward_hook(lambda _m, _a, out: maps.append(out)) for b in model.blocks]
        try:
            model(images)
        finally:
            for handle in handles:
                handle.remove()
    return torch.stack(maps, dim=1)


def leaves_eval_mode(model, images):
    return see.attention_maps(model.eval(), images)


def read_attention(fused=True, restore=True, clean=True, safely=True):
    def read(model, images):
        maps, handles = [], []
        flags = [block.attn.fused_attn for block in model.blocks]

        def undo():
            for handle in handles if clean else []:
                handle.remove()
            for block, flag in zip(model.blocks, flags if restore else [True] * len(flags), strict=True):
                block.attn.fused_attn = flag

        for block in model.blocks:
            block.attn.fused_attn = block.attn.fused_attn and not fused
            handles.append(block.attn.attn_drop.register_forward_pre_hook(lambda _m, args: maps.append(args[0])))
        try:
            model(images)
        except RuntimeError:
            if safely:
                undo()
            raise
        undo()
        return torch.stack(maps, dim=1)

    return read


def swallow(model, images):
    try:
        return see.attention_maps(model, images)
    except RuntimeError:
        return None


WRONG = {
    "columns first": (exercises.check_unpatchify, unpatchify_columns_first, "column by column"),
    "reshape alone": (exercises.check_unpatchify, unpatchify_by_reshape, "reshape alone"),
    "mirrored": (exercises.check_unpatchify, unpatchify_mirrored, "right before p"),
    "pixels changed": (exercises.check_unpatchify, lambda x, g: unpatchify_by_reshape(x, g) * 0, "other pixels"),
    "no root of d": (exercises.check_attention, attend(scale=False), "√d"),
    "nothing hidden": (exercises.check_attention, attend(hide="never"), "with some tokens hidden"),
    "hidden after the softmax": (exercises.check_attention, attend(hide="after"), "sum to 1"),
    "scores of zero": (exercises.check_attention, attend(hide="zero"), "−∞"),
    "softmax over queries": (exercises.check_attention, over_the_queries, "runs over the queries"),
    "queries masked": (exercises.check_attention, masked(rows=True), "mask the keys"),
    "keep inverted": (exercises.check_attention, masked(inverted=True), "wrong way round"),
    "keep inverted, −10⁹": (exercises.check_attention, masked(inverted=True, fill=-1e9), "wrong way round"),
    "keep inverted, some": (exercises.check_attention, inverted_but_if_all_are_kept, "others seen"),
    "nan by chance": (exercises.check_attention, lambda q, k, v, keep: attend()(q, k, v, keep).log(), "are nan"),
    "doubled": (exercises.check_attention, lambda q, k, v, keep: 2 * attend()(q, k, v, keep), "one is off by"),
    "hides nothing, built in": (
        exercises.check_attention,
        lambda q, k, v, keep: F.scaled_dot_product_attention(q, k, v),
        "with some tokens hidden",
    ),
    "fused": (exercises.check_read_attention, read_attention(fused=False), "only 1 of 3 blocks"),
    "output of dropout": (exercises.check_read_attention, from_the_output, "take its input"),
    "eval mode left": (exercises.check_read_attention, leaves_eval_mode, "another mode"),
    "flags not put back": (exercises.check_read_attention, read_attention(restore=False), "fused_attn"),
    "hooks left": (exercises.check_read_attention, read_attention(clean=False), "hook was left"),
    "hooks left after an error": (exercises.check_read_attention, read_attention(safely=False), "failed a hook"),
    "error swallowed": (exercises.check_read_attention, swallow, "reach the caller"),
    "no prefix": (exercises.check_read_attention, lambda m, x: see.attention_maps(m, x)[..., 1:, 1:], "shape"),
    "heads averaged": (exercises.check_read_attention, lambda m, x: see.attention_maps(m, x).mean(2), "shape"),
}


@pytest.mark.parametrize(("check", "answer", "hint"), WRONG.values(), ids=WRONG)
def test_a_plausible_mistake_is_named(check, answer, hint):
    verdict = check(answer)
    assert verdict.status == "failed" and hint in verdict.hint
    assert "[[" not in verdict.hint  # a sentence, not tables of numbers


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        (exercises.check_attention, attend()),
        (exercises.check_attention, masked(fill=-1e9)),
        (exercises.check_read_attention, read_attention()),
        (exercises.check_read_attention, see.attention_maps),
    ],
)
def test_right_answers_pass(check, answer):
    verdict = check(answer)
    assert verdict.status == "passed", verdict.hint
