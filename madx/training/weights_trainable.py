"""Training of weight deltas: theta = theta_0 + D(phi), for every `WeightsType` that has no phases of its own.

The optimiser holds phi and the other parameters of the module. D(phi) is written to the base again after each step; in
the backward pass the gradient of each parameter theta lives until the units have read it by `pull`:

    grad(phi) += (dD/dphi)^T grad(theta)
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from madx.contract.module_type import WeightsType
from madx.errors import CompositionError, TrainingError
from madx.training.base_gradients import reading_gradients, require_float32, require_unscaled
from madx.training.trainable import Trainee, TraineeTrainable


class WeightsTrainable(TraineeTrainable):
    """A module with components that act through the base's parameters; its head and others are trained beside them.

    Raises TrainingError for a base in half precision, and at each step for a composition that scales the weight deltas.
    """

    def __init__(self, trainee: Trainee[None]):
        super().__init__(trainee)
        require_float32(trainee)
        self.units = trainee.weights_units

    @contextmanager
    def running(self) -> Iterator["WeightsTrainable"]:
        """Gradients reach phi; afterwards nothing of the base asks for gradients."""
        encoder = self.engine.base.encoder
        readers: dict[str, list[WeightsType]] = {}
        for unit in self.units:
            for name in unit.touches():
                readers.setdefault(name, []).append(unit)

        def pull(name: str, gradient: Tensor) -> None:
            for unit in readers[name]:
                unit.pull(name, gradient)

        parameters = {name: encoder.get_parameter(name) for name in readers}
        with self.engine.on_top(self.units[0]), reading_gradients(parameters, pull):
            yield self

    def set_mode(self, *, training: bool, base_dropout: bool = False) -> None:
        super().set_mode(training=training, base_dropout=base_dropout)
        self._write(anew=True)  # a delta may be another one in evaluation, and its tensors do not tell

    def begin_step(self, step: int, seed: int) -> None:
        super().begin_step(step, seed)
        for unit in self.units:
            require_unscaled(self.trainee, unit)
        self.apply_parameters()  # a unit may have drawn something anew

    def apply_parameters(self) -> None:
        self._write()

    def _write(self, *, anew: bool = False) -> None:
        """Write the deltas to the base, if one of their tensors has changed; anew: in any case."""
        try:
            if anew:
                with self.engine.using(None):
                    pass
            self.engine.refresh()
        except CompositionError as error:
            raise TrainingError(
                f"The weight deltas of {self.trainee.name!r} cannot be added to the base any more: {error} "
                "Lower train.learning_rate."
            ) from error

    def state_dict(self) -> dict[str, Tensor]:
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.module.load_state_dict(state)
        self.apply_parameters()
