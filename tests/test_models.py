"""A hub that cannot be reached is not asked for a minute."""

import socket

import pytest
from huggingface_hub import constants

from diffmask_lite import models
from diffmask_lite.models import make_vit


@pytest.fixture
def asked(monkeypatch):
    """What the hub's client was told, each time that timm made a model."""
    seen = []
    monkeypatch.setattr(
        models.timm, "create_model", lambda *_, **__: seen.append(constants.HF_HUB_OFFLINE) or models.nn.Identity()
    )
    monkeypatch.setattr(models, "getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return seen


def unreachable(*_, **__):
    raise OSError("no network")


def test_without_a_connection_only_the_cache_is_asked(monkeypatch, asked):
    monkeypatch.setattr(socket, "create_connection", unreachable)
    make_vit("vit_tiny_patch16_224", {}, pretrained=True)
    make_vit("vit_tiny_patch16_224", {})  # nothing to ask
    assert asked == [True, False] and constants.HF_HUB_OFFLINE is False


def test_behind_a_proxy_or_with_a_connection_the_hub_is_asked(monkeypatch, asked):
    class Connection:
        def close(self):
            pass

    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: Connection())
    make_vit("vit_tiny_patch16_224", {}, pretrained=True)
    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(models, "getproxies", lambda: {"https": "proxy"})
    make_vit("vit_tiny_patch16_224", {}, pretrained=True)
    assert asked == [False, False]


def test_the_switch_is_put_back_after_an_error(monkeypatch, asked):
    def fail(*_, **__):
        raise RuntimeError("no such file")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(models.timm, "create_model", fail)
    with pytest.raises(ValueError, match="timm could not make"):
        make_vit("vit_tiny_patch16_224", {}, pretrained=True)
    assert constants.HF_HUB_OFFLINE is False
