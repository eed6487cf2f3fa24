"""How deep each parameter lies, by which layer decay sets its learning rate."""

from torch import nn

from volo.model.attention import ClassBlock, TransformerBlock
from volo.model.outlook import OutlookerBlock

BLOCKS = (OutlookerBlock, TransformerBlock, ClassBlock)


def layer_depths(model: nn.Module) -> dict[str, int]:
    """The depth of every parameter, by name.

    It is 0 before the first block (stem, embeddings, class token), grows by one with each block in the order in which
    they are computed, and is largest for what follows the last block (norm, heads).
    """
    blocks = [name for name, module in model.named_modules() if isinstance(module, BLOCKS)]
    depths, depth = {}, 0
    for name, _ in model.named_parameters():
        own = next((number for number, block in enumerate(blocks, start=1) if name.startswith(f"{block}.")), None)
        if own is not None:
            depth = own
        elif name.startswith("downsamples."):  # a pyramid's downsample n follows its stage n
            before = tuple(f"stages.{stage}." for stage in range(int(name.split(".")[1]) + 1))
            depth = sum(block.startswith(before) for block in blocks)
        is_embedding = "pos_embed" in name or name in ("class_token", "cls_token")
        is_last = depth == len(blocks) and own is None
        depths[name] = 0 if is_embedding else depth + is_last
    return depths
