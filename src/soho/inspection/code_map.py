"""Which code of the visual dictionary a trained model gives to every cell of a picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from soho.errors import SohoError
from soho.inspection.dictionary import STRIDE
from soho.pipelines import Picture, SohoPipeline, open_picture


def grid_shape(height: int, width: int, cells: int) -> tuple[int, int]:
    """Return (rows, columns) of the cells of pixels (height, width): the CNN divides by 32, the max-pool by 2.

    The paper's wiring pools with ceil, that of the release with floor; the number of cells tells which.

    Raises:
        SohoError: neither gives this number.
    """
    halves = [-(-edge // (STRIDE // 2)) for edge in (height, width)]
    for grid in ((-(-halves[0] // 2), -(-halves[1] // 2)), (halves[0] // 2, halves[1] // 2)):
        if grid[0] * grid[1] == cells:
            return grid
    raise SohoError(
        f"a picture of {width} x {height} pixels gave {cells} cells, which are no grid of {STRIDE} pixels each"
    )


def cells_only(rows: Tensor, summary: bool) -> Tensor:
    """Return the cells (.., N) of visual tokens, without the summary token that may stand before them."""
    return rows[..., 1:] if summary else rows


def dictionary_size(pipeline: SohoPipeline) -> int:
    """Return K.

    Raises:
        SohoError: the model has no visual dictionary.
    """
    if pipeline.model.trunk.visual_dictionary is None:
        raise SohoError(
            "this model has no visual dictionary; expected a pre-training folder, or one that was fine-tuned from it "
            "in the paper's wiring"
        )
    return int(pipeline.model.config.dictionary_size)


def reads_codes(pipeline: SohoPipeline) -> bool:
    """Say whether fusion reads the codes; a fine-tuned model keeps the dictionary but reads the features before it."""
    return bool(pipeline.model.config.visual_input == "dictionary")


@torch.inference_mode()
def code_map(pipeline: SohoPipeline, image: Picture) -> npt.NDArray[np.int64]:
    """Return the code of every cell of a picture.

    Of a model that reads the features before the dictionary it is the code nearest to each feature; the CNN may have
    moved on since the codes did.

    Args:
        pipeline: a model with a visual dictionary.
        image: the picture.

    Returns:
        (h, w) index in [0, K), -1 at padding. Cell (i, j) covers 64 pixels from (64 j, 64 i) of the picture in the
        size in which the model reads it (`read_size`).

    Raises:
        SohoError: the model has no visual dictionary, or the picture cannot be read.
    """
    dictionary_size(pipeline)
    trunk = pipeline.model.trunk
    batch = pipeline.processor(images=open_picture(image)).to(pipeline.device)
    height, width = batch["pixel_values"].shape[-2:]
    encoding = trunk.encode_image(batch["pixel_values"], batch["pixel_mask"])
    indices, summary = encoding.indices, bool(pipeline.model.config.visual_summary)
    if indices is None:
        assert trunk.visual_dictionary is not None
        features, mask = encoding.features, encoding.mask
        indices = trunk.visual_dictionary(features[:, 1:] if summary else features, cells_only(mask, summary)).indices
    else:
        indices = cells_only(indices, summary)
    return indices[0].reshape(grid_shape(height, width, indices.shape[1])).cpu().numpy()


def read_size(pipeline: SohoPipeline, image: Image.Image) -> tuple[int, int]:
    """Return the (width, height) in which the model reads a picture, without padding."""
    size: tuple[int, int] = pipeline.processor.image_processor.target_size(*image.size)
    return size
