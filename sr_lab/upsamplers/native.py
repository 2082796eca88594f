"""Networks whose last layers cannot be replaced by another tail."""

from sr_lab.errors import ConfigError
from sr_lab.types import UpsamplerFactory


def native_only(model: str, upsampler: UpsamplerFactory | None) -> None:
    """Refuse a tail for a network that has no replaceable tail.

    Args:
        model: Name of the network, for the message.
        upsampler: The configured tail; ``None`` for ``upsampler=native``.

    Raises:
        ConfigError: If ``upsampler`` is given.
    """
    if upsampler is not None:
        raise ConfigError(
            f"upsampler: {model} has no tail to replace; leave upsampler out or set upsampler=native"
        )
