"""Notebook 09's ImageNet cells on an architecture of ImageNet's, without its weights: what our machines cannot download."""

import timm
import torch

import badges
import contract
import reading
from diffmask_lite import models

NAMES = [path.name for path in badges.notebook_paths()]
NOTEBOOK = contract.Notebook.load(badges.notebook_paths()[9], NAMES)


def test_the_cells_that_load_and_explain_a_large_vit_run_on_its_architecture(monkeypatch, capsys):
    """At 224 pixels with 1,000 classes. Gates are then our own, since new ones are trained on a GPU alone."""
    architecture = {"img_size": 224, "num_classes": 1000, "depth": 2}

    def load(name, pretrained):
        assert name == "vit_base_patch16_224" and pretrained
        return timm.create_model("vit_tiny_patch16_224", **architecture).eval()

    monkeypatch.setattr(models, "load", load)
    sources = [cell.source for cell in NOTEBOOK.code]
    first = next(i for i, source in enumerate(sources) if source.startswith("MODEL = "))
    names: dict = {"__name__": "__main__"}
    lesson = [cell for cell in NOTEBOOK.cells if cell.source != contract.BOOTSTRAP]
    exec("\n".join(reading.imports(lesson)), names)
    photograph = next(source for source in sources if source.startswith('vit, explainer = weights.pretrained("cifar10")'))
    for source in (photograph, *sources[first : first + 2]):
        exec(source, names)
    assert names["large"] is not names["vit"] and names["order"].shape == names["fifth"].shape == (1, 14, 14)
    assert names["fifth"].sum() == 196 // 5 and names["order"].isfinite().all() and len(names["called"]) == 1000
    assert names["by_luck"].kl.shape == (50,) and torch.isfinite(names["by_fifth"].kl).all()
    assert "39 of 196 patches kept" in capsys.readouterr().out
    exec(sources[first + 2], names)
    if not torch.cuda.is_available():
        assert names["gates"] is names["explainer"] and names["large_result"].keep.shape == (1, 8, 8)
