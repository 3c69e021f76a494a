"""The release's dictionary alone: cold start, warm start, slow decay; two evaluations and three updates each."""

from __future__ import annotations

import torch

from soho.models.released.dictionary import ReleasedDictionary
from tests.parity.official import EXACT, VALUES, Arrays, arrays, assert_all_close, margins, part

NAMES = {"embed": "codes", "cluster_size": "counts", "cluster_sum": "hits", "embed_avg": "sums"}


def dictionary_of(case: Arrays) -> ReleasedDictionary:
    size, dim = case["before/embed"].shape
    dictionary = ReleasedDictionary(size, dim, float(case["decay"]), float(case["eps"]))
    for theirs, ours in NAMES.items():
        getattr(dictionary, ours).copy_(torch.from_numpy(case[f"before/{theirs}"]))
    return dictionary


def state_of(dictionary: ReleasedDictionary, prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{theirs}": getattr(dictionary, ours).clone() for theirs, ours in NAMES.items()}


def test_every_array() -> None:
    stored = arrays("vd_update")
    for name in sorted({key.split("/")[0] for key in stored}):
        case = part(stored, name)
        dictionary = dictionary_of(case)
        steps = sorted({key.split("/")[0] for key in case if key.startswith("step")})
        assert {key.split("/")[0] for key in case} == {"decay", "eps", "before", "eval", *steps}
        for step in ("eval", *steps):
            expected = part(case, step)
            dictionary.train(step != "eval")
            before = state_of(dictionary, "after/")
            features = torch.from_numpy(expected["features"]).requires_grad_()
            lookup = dictionary(features.unsqueeze(0))
            ours = {
                "indices": lookup.indices[0],
                "quantized": lookup.embeddings[0],
                "margin": margins(features, before["after/embed"]),
            }
            if step == "eval":
                assert all(torch.equal(value, before[key]) for key, value in state_of(dictionary, "after/").items())
            else:
                lookup.embeddings[0].backward(torch.from_numpy(expected["upstream_grad"]))
                ours |= {"input_grad": features.grad, **state_of(dictionary, "after/")}
            given = {key: value for key, value in expected.items() if key not in ("features", "upstream_grad")}
            # A margin is the difference of two distances, which are far larger.
            assert_all_close(f"{name}/{step}", ours, given, EXACT, {"margin": VALUES})
