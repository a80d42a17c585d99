"""An exported file in the place of a model."""

from typing import Any, List, Optional

from mmengine.model import BaseModel

from ..errors import UserError
from ..names import ClassOrder, agree, classes_of, differences
from .runtimes import open_program


class Deployed(BaseModel):
    """What mmengine's test loop takes for a model. Pictures come to it as files take them.

    Args:
        file: Of `spectral export`.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.program = open_program(file)
        self.order: Optional[ClassOrder] = None

    def check_data(self, dataset: Any) -> None:
        """Called by the runner with each data set; where it has the file's classes in another order, predictions are
        translated.

        Raises:
            UserError: It has other classes.
        """
        known, given = self.program.metadata["classes"], classes_of(dataset)
        if given in (None, known):
            return
        if not agree(known, given):
            raise UserError(
                f"{self.program.path} was trained for other classes than the data have: {differences(known, given)}"
            )
        self.order = ClassOrder(known, given)

    def test_step(self, data: Any) -> List[Any]:
        """See `mmengine.model.BaseModel`."""
        outputs = super().test_step(data)
        return outputs if self.order is None else self.order.predictions(outputs)
