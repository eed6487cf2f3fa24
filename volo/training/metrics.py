"""Loss and accuracy over the samples of all workers, each counted once."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volo.training.precision import Precision
from volo.training.world import World


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of (B, classes) logits against (B, classes) probabilities, summed over the batch."""
    return F.cross_entropy(logits.float(), targets, reduction="sum")


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: Precision, world: World
) -> dict[str, float]:
    """`val/loss`, `val/acc1` and `val/acc5` (fractions; of fewer than five classes all) over every worker's batches."""
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=world.device)  # loss, top-1, top-5, samples
    for images, labels in batches:
        with precision.autocast():
            logits = model(images)
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]  # (B, 5)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        sums += torch.stack([loss, ranked[:, 0].sum(), ranked.sum(), loss.new_full((), len(labels))])
    loss, top1, top5, count = world.sum(sums).tolist()
    return {"val/loss": loss / count, "val/acc1": top1 / count, "val/acc5": top5 / count}
