"""transformers' wrapper of timm's models, with a head beside the model loaded under its own name."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import TimmWrapperModel


class ImageModel(TimmWrapperModel):  # type: ignore[misc]
    """A `TimmWrapperModel` whose state is loaded as it was saved.

    transformers' own puts `timm_model.` before every name that lacks it, a head's too.
    """

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `torch.nn.Module` does it."""
        return nn.Module.load_state_dict(self, state_dict, strict, assign)


ImageModel.__name__ = TimmWrapperModel.__name__  # what config.json names, for whoever opens the folder elsewhere
