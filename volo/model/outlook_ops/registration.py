"""Registers a kernel's forward and backward operators with autograd, compilers, and exporters."""

from torch import Tensor
from torch.library import CustomOpDef


def make_differentiable(forward: CustomOpDef, backward: CustomOpDef) -> None:
    """Registers output shapes and the gradient, which is not differentiable itself.

    Args:
        forward: (values, logits, kernel_size, stride, padding) -> out, with the shape and dtype of the values.
        backward: (gradient of out, then the arguments of forward) -> gradients of values and logits.
    """

    def fake_forward(values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int) -> Tensor:
        return values.new_empty(values.shape)

    def fake_backward(
        grad: Tensor, values: Tensor, logits: Tensor, kernel_size: int, stride: int, padding: int
    ) -> tuple[Tensor, Tensor]:
        return values.new_empty(values.shape), logits.new_empty(logits.shape)

    def save(ctx, inputs, output) -> None:
        values, logits, *ctx.window = inputs
        ctx.save_for_backward(values, logits)

    def differentiate(ctx, grad):
        return *backward(grad, *ctx.saved_tensors, *ctx.window), None, None, None

    forward.register_fake(fake_forward)
    backward.register_fake(fake_backward)
    forward.register_autograd(differentiate, setup_context=save)
