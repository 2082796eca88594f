"""Networks whose last layers no tail can replace."""

from sr_lab.errors import ConfigError
from sr_lab.types import UpsamplerFactory


def native_only(model: str, upsampler: UpsamplerFactory | None) -> None:
    """Refuse a tail for a network without a replaceable one.

    Args:
        model: The network, for the message.
        upsampler: The tail of the configuration; ``None`` for ``upsampler=native``.

    Raises:
        ConfigError: If ``upsampler`` is given.
    """
    if upsampler is not None:
        raise ConfigError(
            f"upsampler: {model} has no tail to replace; allowed: upsampler=native; drop the override"
        )
