"""Loss and accuracy over the samples of all workers, counting each sample once."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volo.training.world import World


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of (B, classes) logits against (B, classes) probabilities, summed over the batch."""
    return F.cross_entropy(logits.float(), targets, reduction="sum")


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], world: World) -> dict[str, float]:
    """`val/loss`, and `val/acc1` and `val/acc5` as fractions, over the batches of all workers.

    Computed in float32 for every training precision, with losses summed in float64. So the results are those of the
    saved model, and of `classification_metrics` in volo/analysis/evaluate.py for the same logits.
    """
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=world.device)  # loss, top-1, top-5, samples
    for images, labels in batches:
        logits = model(images).double()
        rank = rank_of_truth(logits, labels)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([loss, (rank < 1).sum(), (rank < 5).sum(), loss.new_full((), len(labels))])
    loss, top1, top5, count = world.sum(sums).tolist()
    return {"val/loss": loss / count, "val/acc1": top1 / count, "val/acc5": top5 / count}


def rank_of_truth(logits: Tensor, labels: Tensor) -> Tensor:
    """The number of classes ranked before the true one: (B, classes) and (B,) -> (B,).

    Among equal logits the lower class comes first. If the true logit or another one is NaN, that other comes first.
    """
    truth = logits.gather(1, labels[:, None])  # (B, 1)
    later = torch.arange(logits.shape[1], device=logits.device) > labels[:, None]  # (B, classes)
    behind = (logits < truth) | ((logits == truth) & later)
    return logits.shape[1] - 1 - behind.sum(dim=1)
