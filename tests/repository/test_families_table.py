"""The table of families is what the experiment finds, and both pages are what the tool makes of it."""

import csv
import json
import shutil

import pytest
from torch import nn

import families_table
import model_families
from diffmask_lite.attribution import METHODS

ROWS = families_table.read()
MODELS = {(model.family, model.variant): model for model in model_families.MODELS}
ASKED = {
    "ViT", "DeiT", "DeiT-3", "DINOv2", "DINOv3", "SigLIP", "SigLIP 2", "CLIP", "EVA", "EVA-02", "BEiT", "BEiT v2", "FlexiViT",
    "NaFlexViT", "SAM", "Hiera", "Swin", "CaiT", "ConViT", "XCiT", "CrossViT", "PiT", "TNT", "VOLO", "MaxViT", "ViTamin",
    "Perception Encoder", "AIMv2", "ResNet", "ConvNeXt", "MLP-Mixer",
}  # fmt: skip


def test_every_model_of_the_experiment_is_in_the_table_once():
    assert [(row["family"], row["variant"]) for row in ROWS] == list(MODELS) and len(MODELS) == len(model_families.MODELS)
    assert {row["family"] for row in ROWS} >= ASKED
    for row in ROWS:
        model = MODELS[row["family"], row["variant"]]
        assert row["model"] == model.name
        assert json.loads(row["options"]).get("img_size") == (list(model.size) if isinstance(model.size, tuple) else model.size)


def test_no_model_is_explained_wrongly_and_each_refusal_is_a_sentence():
    assert {row["outcome"] for row in ROWS} == {"works", "refused"}
    for row in ROWS:
        if row["outcome"] == "works":
            assert row["drop"] in ("yes", "no") and set(row["methods"].split()) <= set(METHODS) and row["reason"] == ""
        else:
            assert " does not fit: " in row["reason"] and row["reason"].endswith(".") and row["drop"] == row["methods"] == ""


SOME = [
    ("ViT", "class token"), ("ViT", "not square"), ("ViT", "relative positions"), ("DINOv3", "plain"), ("BEiT", "shared bias"),
    ("NaFlexViT", "average pooling"), ("CaiT", "plain"), ("XCiT", "nano"), ("ResNet", "18"),
]  # fmt: skip


@pytest.mark.parametrize("which", SOME, ids=": ".join)
def test_some_rows_are_found_again(which):
    (stored,) = [row for row in ROWS if (row["family"], row["variant"]) == which]
    assert model_families.row(MODELS[which]) == stored


TEXTS = [families_table.PAGE, "docs/families.md"]


@pytest.fixture
def store(tmp_path):
    """Make a copy of the two texts beside other results; where it lies."""

    def make(rows):
        for name in (*TEXTS, "data/results/families.csv"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(families_table.ROOT / name, tmp_path / name)
        with (tmp_path / "data" / "results" / "families.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, model_families.COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return tmp_path

    return make


def test_both_pages_are_what_the_tool_makes_and_another_result_changes_both(store):
    assert families_table.rewrite(check=True) == [], "run python tools/families_table.py"
    copied = store([ROWS[0] | {"family": "Nobody's ViT", "drop": "no", "methods": "rollout"}, *ROWS[1:]])
    before = [(copied / name).read_text("utf-8") for name in TEXTS]
    assert families_table.rewrite(copied, check=True) == TEXTS
    assert before == [(copied / name).read_text("utf-8") for name in TEXTS], "--check changed something"
    families_table.rewrite(copied)
    assert families_table.rewrite(copied) == []
    for name in TEXTS:
        (line,) = [line for line in (copied / name).read_text("utf-8").splitlines() if "Nobody's ViT" in line]
        assert "| no |" in line and "all but `raw_attention`" in line and "`rollout`" not in line


def test_a_model_that_is_explained_wrongly_stops_the_tool(store):
    copied = store([ROWS[0] | {"outcome": "wrong", "reason": "the image still shows"}, *ROWS[1:]])
    with pytest.raises(ValueError, match=r"explained wrongly.*the image still shows"):
        families_table.rewrite(copied)


# ---- The experiment's own checks find what they are for ----
@pytest.fixture
def vit():
    return MODELS["ViT", "class token"].build()


class Leaky(nn.Module):
    """A patch embedding past which the image reaches the blocks: it leaves a copy that the next module adds."""

    def __init__(self, embed, norm):
        super().__init__()
        self.embed, self.norm = embed, norm
        self.grid_size, self.img_size = embed.grid_size, embed.img_size

    def forward(self, x):
        self.norm.seen = self.embed(x).mean(1, keepdim=True)
        return self.embed(x)


class Adding(nn.Module):
    seen = 0

    def forward(self, x):
        return x + self.seen


def leaky(model):
    model.norm_pre = Adding()
    model.patch_embed = Leaky(model.patch_embed, model.norm_pre)


def reversed_order(model):
    embed = model.patch_embed.forward
    model.patch_embed.forward = lambda x: embed(x).flip(1)


def blind(model):
    nn.init.zeros_(model.head.weight)


def remembering(model):
    """The head reads patch embeddings past the blocks, so a token dropped there still shows."""
    right = model.forward_features

    def remember(x, **options):
        model.images = x
        return right(x, **options)

    model.forward_features = remember
    model.forward_head = lambda x: model.head(x[:, 0] + model.patch_embed(model.images).mean(1))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (leaky, "without any patch the image still shows"),
        (reversed_order, "pixels of patch 0 reach another patch's embedding"),
        (blind, "without any patch nothing changes"),
        (remembering, "a dropped patch still shows"),
    ],
)
def test_a_sound_model_has_no_faults_and_a_spoilt_one_is_found_out(vit, spoil, words):
    assert model_families.faults(vit) == model_families.trains(vit) == [] and model_families.drops(vit) == (True, [])
    spoil(vit)
    assert words in (model_families.drops(vit)[1] if spoil is remembering else model_families.faults(vit))
