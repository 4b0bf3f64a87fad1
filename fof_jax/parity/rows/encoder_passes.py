"""Forward and backward passes, and optimizer steps, of an encoder recording's case."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fof_jax.methods.classification import cross_entropy
from fof_jax.models.pretrained import torch_layers
from fof_jax.models.vgg import VGG
from fof_jax.parity.rows import encoder_cases
from fof_jax.parity.rows.encoder_cases import Case
from fof_jax.parity.rows.recorded_draws import recorded_draws
from fof_jax.training import state as training_state
from fof_jax.types import Batch, StepContext, Variables

STEPS = 3  # recorded
KEY = jax.random.key(0)  # every draw is recorded


class Pass(NamedTuple):
    """Loss, outputs by recorded name and gradients by published name of a pass."""

    loss: float
    outputs: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    image_gradient: np.ndarray | None = None


def evaluate(case: Case, state: training_state.TrainState, batch: Batch) -> Pass:
    """Loss, intermediates and gradients in evaluation mode, of the image too."""
    encoder = case.method.network.encoder
    if isinstance(encoder, VGG):  # a frozen trunk has no gradient of the image
        case = encoder_cases.with_encoder(case, encoder.clone(freeze=False))

    @jax.jit
    def run(params: Any, image: jax.Array) -> Any:
        def loss(params: Any, image: jax.Array) -> Any:
            outputs = _outputs(case, params, state.state, image, train=False)
            value = cross_entropy(logits=outputs["logits"], grade=batch.grade)
            return value, outputs

        outcome, gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
            params, image
        )
        return outcome, gradient

    (value, outputs), (gradient, of_image) = run(state.params, batch.image)
    return Pass(
        loss=float(value),
        outputs=jax.device_get(outputs),
        gradients=published(case, gradient),
        image_gradient=np.moveaxis(np.asarray(of_image), -1, 1),
    )


def compile_step(case: Case) -> Any:
    """One optimizer step of the method, with its intermediates and gradients.

    The step is the one that training takes; the intermediates and the gradient are
    computed again beside it.
    """

    @jax.jit
    def run(state: Any, batch: Batch, masks: Any, rate: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            variables = Variables(params=params, state=state.state)
            return case.method.loss(variables, batch, StepContext(key=KEY))

        with recorded_draws(masks):
            gradient, _ = jax.grad(loss, has_aux=True)(state.params)
            outputs = _outputs(case, state.params, state.state, batch.image, train=True)
            after, metrics = training_state.update(
                case.method,
                case.optimizer,
                state,
                batch,
                training_state.Schedule(learning_rate=rate),
                {},
                KEY,
            )
        return after, metrics["total"], outputs, gradient

    def step(state: Any, batch: Batch, masks: Any, rate: float) -> tuple[Any, Pass]:
        after, value, outputs, gradient = run(state, batch, masks, np.float32(rate))
        passed = Pass(float(value), jax.device_get(outputs), published(case, gradient))
        return after, passed

    return step


def _outputs(
    case: Case, params: Any, state: Any, image: jax.Array, *, train: bool
) -> dict[str, jax.Array]:
    """Every recorded output of a pass, by its name."""
    network = case.method.network
    captured: Any
    feature: Any
    feature, captured = network.apply(
        {"params": params, **state},
        image,
        train=train,
        method="features",
        mutable=["intermediates", "batch_stats"],
        capture_intermediates=True,
        rngs={"dropout": KEY},
    )
    logits = network.logits(params, feature)
    return case.observe(captured["intermediates"]["encoder"]) | {
        "feature": feature,
        "logits": logits,
        "log_probs": jax.nn.log_softmax(logits),
    }


def published(case: Case, params: Any) -> dict[str, np.ndarray]:
    """Trained tensors by published name, in PyTorch's layout."""
    flat = {}
    for name, path in case.layers.items():
        if any(path[: len(u)] == u for u in case.method.untrained):
            continue
        node = params
        for key in path:
            node = node[key]
        for leaf, value in node.items():
            if isinstance(value, Mapping):
                continue
            value = np.asarray(value)
            if leaf == "kernel":
                flat[f"{name}.weight"] = torch_layers.weight_of(value)
            else:
                flat[f"{name}.{'weight' if leaf == 'scale' else leaf}"] = value
    return flat
