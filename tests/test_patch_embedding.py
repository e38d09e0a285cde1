"""Patches embedded by a matrix product are those of the model's convolution."""

from copy import deepcopy

import pytest
import torch
from shared_prefix_cases import UNLIKE, make_sharp, read_prompts

from osler.policies.families import FAMILIES
from osler.policies.patch_embedding import PatchProjection, embed_by_product


@pytest.mark.parametrize("model_type", FAMILIES)
def test_patches_are_embedded_as_by_the_convolution(model_type: str) -> None:
    model, patches = make_sharp(model_type).double(), read_prompts(model_type, UNLIKE).pixel_values.double()
    embed, names = model.model.visual.patch_embed, list(model.state_dict())
    found = []
    for _ in range(2):
        embedded = embed(patches)
        found.append((embedded, *torch.autograd.grad(embedded.sin().sum(), list(embed.parameters()))))
        embed_by_product(model)
    assert type(embed.proj) is PatchProjection
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)
    assert list(model.state_dict()) == names
    other = deepcopy(embed)
    torch.nn.init.zeros_(other.proj.weight)
    assert not torch.equal(other(patches), embed(patches))
