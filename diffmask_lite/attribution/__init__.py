"""Attribution methods for Vision Transformers, all with one signature and all on whole batches.

    scores = METHODS["leave_one_out"](vit, images)  # float (B, h, w) on the ViT's patch grid, higher is more relevant

Each takes `(vit, images, target=None, generator=None)`.
    vit: a timm ViT that fits (`vit.anatomy`); it is a guest and is left as it was.
    images: float (B, C, H, W), normalised as the ViT expects. A method works on all of them at once, so memory bounds B.
    target: the class to explain, an int or one for each image, LongTensor (B,); by default each image's predicted class, or
        of a multi-label ViT its predicted set of labels: log-odds are then summed over labels, present or absent.
    generator: where random numbers come from, by default one seeded with 0; most methods need none.
They work under the caller's `torch.no_grad` and `torch.inference_mode`, and leave the global random numbers alone. Bad input
raises `ValueError` with one sentence, and a method that a ViT cannot have raises `UnfitViT`.

| module | methods | what they ask |
|---|---|---|
| `attention` | `raw_attention`, `rollout` | where attention goes; blind to the class |
| `direct` | `direct`, `direct_paths` | what attention carries of a patch to the class; no gradient |
| `gradients` | `gradient_input`, `grad_cam`, `gradient_attention`, `legrad`, `integrated_gradients` | the logit's slopes |
| `fading` | `gradient_drop`, `integrated_drop` | its slopes as tokens are dropped by degrees |
| `perturbation` | `occlusion`, `leave_one_out`, `random_keep` | the prediction without some of the patches |
| `baselines` | `random`, `centre` | nothing: what each other method has to beat |

`blurred` turns any map into one more baseline: if the blurred map scores as well, the detail of the map is worth nothing.
`experiments/attribution_methods.py` prints what each costs in forward passes.
"""

from .attention import raw_attention, rollout
from .baselines import blurred, centre, random
from .direct import direct, direct_paths
from .fading import gradient_drop, integrated_drop
from .gradients import grad_cam, gradient_attention, gradient_input, integrated_gradients, legrad
from .perturbation import leave_one_out, occlusion, random_keep

__all__ = ["BLIND", "METHODS", "blurred"]

METHODS = {
    method.__name__: method
    for method in (
        raw_attention, rollout, direct, direct_paths,
        gradient_input, grad_cam, gradient_attention, legrad, gradient_drop, integrated_drop, integrated_gradients,
        occlusion, leave_one_out, random_keep,
        random, centre,
    )
}  # fmt: skip
BLIND = ("raw_attention", "rollout", "random", "centre")  # their maps are the same whichever class is explained
