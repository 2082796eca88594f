"""How a paper measures: how the LR image is made, which values are compared, how much border is cropped.

Four protocols are in use, and the second decimal of a published PSNR depends on the choice.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from sr_lab.errors import ConfigError
from sr_lab.ops.colour import rgb_to_y
from sr_lab.ops.metrics import psnr, quantise, ssim
from sr_lab.ops.resize import Border, downscale_uint8, imresize, mod_crop
from sr_lab.types import NetworkColour


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way to make the LR image and to measure the result.

    Args:
        name: Name on the command line and in the heading of a table.
        colour: Measure on luma (``y``) or on all three channels (``rgb``).
        luma_range: BT.601 ``studio`` range, 16..235, as in papers, or ``full`` range, 0..255.
        round_luma: Round luma to 8-bit levels before measuring.
        quantise: Clip and round an RGB result to 8 bits before measuring. The result of a luma network is
            clipped too, but rounded only with ``round_luma``.
        crop: Pixels dropped at every edge: ``scale``, or a number.
        lr_source: The bicubic LR image is made from 8-bit RGB and rounded after each axis (``uint8``), from
            RGB in double precision and rounded once (``double``), or from rounded luma and kept in floating
            point, one channel (``luma``); or an 8-bit RGB LR image comes with the HR image (``given``).
        border: How `imresize` extends the HR image beyond its edges.
        grey: A file with one channel counts as an RGB image with equal channels (``rgb``), or its values
            0..255 are the luma (``luma``). In the studio range, ``rgb`` gives a PSNR 1.32 dB higher.
        reproduces: Whose published PSNR and SSIM it reproduces; empty if unknown.

    Raises:
        ConfigError: A field has a value that is not listed, or ``colour`` is RGB with a luma LR image.
    """

    name: str
    colour: Literal["y", "rgb"] = "y"
    luma_range: Literal["studio", "full"] = "studio"
    round_luma: bool = False
    quantise: bool = True
    crop: Literal["scale"] | int = "scale"
    lr_source: Literal["uint8", "double", "luma", "given"] = "uint8"
    border: Border = "symmetric"
    grey: Literal["rgb", "luma"] = "rgb"
    reproduces: str = ""

    def __post_init__(self) -> None:
        for field, kind in get_type_hints(type(self)).items():
            value, allowed = getattr(self, field), get_args(kind)
            if get_origin(kind) is Literal and value not in allowed:
                raise ConfigError(
                    f"protocol {self.name}: unknown {field}={value!r}; allowed: {', '.join(allowed)}"
                )
        if self.crop != "scale" and (not isinstance(self.crop, int) or self.crop < 0):
            raise ConfigError(
                f"protocol {self.name}: crop={self.crop!r}; allowed: scale, or a number of at least 0"
            )
        if self.colour == "rgb" and self.lr_source == "luma":
            raise ConfigError(
                f"protocol {self.name}: colour=rgb needs an RGB result, got lr_source=luma; "
                "allowed: lr_source=uint8 or double"
            )

    def crop_border(self, scale: int) -> int:
        """Pixels dropped at every edge at this scale."""
        return scale if self.crop == "scale" else self.crop

    def describe(self, scale: int) -> str:
        """One sentence for the heading of a table."""
        bicubic = f"x{scale} LR by MATLAB's bicubic imresize ({self.border} border) from"
        lr = {
            "uint8": f"{bicubic} 8-bit RGB, rounded after each axis",
            "double": f"{bicubic} RGB in double precision, rounded once",
            "luma": f"{bicubic} rounded luma, kept in floating point",
            "given": f"x{scale} LR images as given",
        }[self.lr_source]
        clipped = "; bicubic is clipped to luma 16..235" if self._clips_bicubic else ""
        known = f"; reproduces {self.reproduces}" if self.reproduces else ""
        return f"{self.name}: {lr}; {self.counting(scale)}{clipped}{known}."

    def counting(self, scale: int) -> str:
        """How the result is measured, regardless of how the LR image was made."""
        rounded = "rounded" if self.round_luma else "unrounded"
        values = f"{rounded} {self.luma_range}-range BT.601 luma" if self.colour == "y" else "RGB"
        result = "8-bit" if self.quantise else "unquantised"
        grey = "RGB with equal channels" if self.grey == "rgb" else "luma 0..255"
        return (
            f"PSNR and SSIM on {values} of the {result} result, {self.crop_border(scale)} pixels cropped at "
            f"every edge; files with one channel count as {grey}"
        )

    @property
    def _clips_bicubic(self) -> bool:
        return self.lr_source == "luma" and self.luma_range == "studio"

    @property
    def settings(self) -> "Protocol":
        """This protocol without its name; protocols with equal settings give the same PSNR and SSIM."""
        return replace(self, name="", reproduces="")

    def on_given_lr(self) -> "Protocol":
        """The same protocol on LR images that come with the HR images."""
        return replace(self, name=f"{self.name} on given LR", lr_source="given", reproduces="")

    def check_network(self, colour: NetworkColour) -> None:
        """Check that this protocol has LR images for a network and can measure its results.

        Args:
            colour: What the network takes and returns: ``rgb``, ``y``, or ``any`` (follows the protocol).

        Raises:
            ConfigError: An RGB network with a protocol whose LR image is luma, or a luma network with a
                protocol that measures RGB.
        """
        if colour == "rgb" and self.lr_source == "luma":
            raise ConfigError(
                f"protocol {self.name} has a luma LR image, got an RGB network; "
                "allowed: rgb_uint8, rgb_double"
            )
        if colour == "y" and self.colour == "rgb":
            raise ConfigError(
                f"protocol {self.name} measures RGB, got a network that returns luma only; "
                f"allowed: {', '.join(PROTOCOLS)}"
            )

    def make_lr(self, hr: Tensor, scale: int, *, grey: bool = False) -> Tensor:
        """Make the LR images from whole HR images.

        Args:
            hr: uint8 ``(N, 3, H, W)``; cropped at the right and bottom to multiples of ``scale`` first.
            scale: Downscaling factor.
            grey: The images come from files with one channel.

        Returns:
            float32 ``(N, 3, H // scale, W // scale)`` with values k / 255. If ``lr_source`` is ``luma``: one
            channel in [0, 1], which the cubic kernel may exceed slightly.
        """
        assert self.lr_source != "given"
        hr = mod_crop(hr, scale)
        if self.lr_source == "uint8":
            return downscale_uint8(hr, scale=scale, border=self.border).float() / 255
        if self.lr_source == "double":
            # On 0..255 ties are exact; on [0, 1] they would depend on the platform.
            lr = imresize(hr.double(), denominator=scale, border=self.border)
            return ((lr + 0.5).floor().clamp(0, 255) / 255).float()
        luma = quantise(self._luma(hr.double() / 255, grey))
        return imresize(luma, denominator=scale, border=self.border).float()

    def network_input(self, lr: Tensor, colour: NetworkColour, *, grey: bool = False) -> Tensor:
        """The LR images in the form that a network expects.

        Args:
            lr: What `make_lr` returned, or given LR images.
            colour: See `check_network`.
            grey: The images come from files with one channel.

        Returns:
            ``lr``, or its luma ``(N, 1, h, w)`` for a luma network.

        Raises:
            ConfigError: The network does not fit the protocol (`check_network`).
        """
        self.check_network(colour)
        return self._luma(lr, grey) if colour == "y" and lr.shape[1] == 3 else lr

    def bicubic(self, lr: Tensor, scale: int) -> Tensor:
        """Upscale LR images with the bicubic kernel that made them: the bicubic row of a table.

        Args:
            lr: What `make_lr` returned, ``(N, C, h, w)``, or given LR images.
            scale: Upscaling factor.

        Returns:
            ``(N, C, scale * h, scale * w)``, rounded after each axis if ``lr_source`` is ``uint8`` or
            ``given``, as MATLAB does, otherwise not rounded. Studio-range luma is clipped to 16..235, grey
            images included, as in the code behind the published rows; network results are not clipped.
        """
        if self.lr_source not in ("uint8", "given"):
            sr = imresize(lr, numerator=scale, border=self.border)
            return sr.clamp(16 / 255, 235 / 255) if self._clips_bicubic else sr
        levels = (lr.double() * 255).round()
        sr = imresize(levels, numerator=scale, border=self.border, round_each_axis=True)
        return (sr / 255).to(lr.dtype)

    def measure(self, sr: Tensor, hr: Tensor, scale: int, *, grey: bool = False) -> tuple[Tensor, Tensor]:
        """PSNR in dB and SSIM of each image.

        Args:
            sr: Results ``(N, 3 or 1, H', W')`` in [0, 1], not clamped; a single channel is luma. H' and W'
                are those of ``hr`` cropped to multiples of ``scale``.
            hr: uint8 ``(N, 3, H, W)``.
            scale: Upscaling factor of the network.
            grey: The images come from files with one channel.

        Returns:
            Two tensors ``(N,)`` in float64.

        Raises:
            ConfigError: The results are luma, and the protocol measures RGB.
            ValueError: The sizes differ, or the crop leaves too few pixels.
        """
        target = mod_crop(hr, scale).double() / 255
        sr = sr.double()
        is_luma = sr.shape[1] == 1
        if is_luma:
            self.check_network("y")
        if self.quantise:
            sr = sr.clamp(0, 1) if is_luma and not self.round_luma else quantise(sr)
        if self.colour == "y":
            target = self._luma(target, grey)
            sr = sr if is_luma else self._luma(sr, grey)
            if self.round_luma:
                target = quantise(target)
                sr = sr if is_luma else quantise(sr)
        crop_border = self.crop_border(scale)
        return psnr(sr, target, crop_border=crop_border), ssim(sr, target, crop_border=crop_border)

    def _luma(self, rgb: Tensor, grey: bool) -> Tensor:
        # The full-range luma of a grey pixel is its value in the file.
        return rgb_to_y(rgb, full_range=self.luma_range == "full" or (grey and self.grey == "luma"))


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="rgb_uint8", reproduces="IMDN, PAN, RLFN, LBNet and A2F"),
        Protocol(
            name="rgb_double",
            lr_source="double",
            reproduces="BSRN and networks trained with BasicSR's images",
        ),
        Protocol(
            name="classic_y",
            lr_source="luma",
            round_luma=True,
            grey="luma",
            reproduces="SRCNN, VDSR, FSRCNN and the bicubic rows of Set5, Set14, B100 and Urban100",
        ),
        # Uses MATLAB's own functions on 8-bit images throughout.
        Protocol(name="matlab_uint8", round_luma=True, reproduces="the bicubic row of Manga109"),
    )
}


def variants(protocol: Protocol, *, colour: NetworkColour = "any") -> list[tuple[str, Protocol]]:
    """The other conventions in use, to show which PSNR and SSIM they would give.

    Args:
        protocol: The protocol of the measurement.
        colour: The network's colour; conventions that do not fit it are left out.

    Returns:
        Pairs of a label and a protocol; the label says what differs, and names the protocol if it has a name.
        The given protocol comes first, and every named protocol that fits the network is included.
    """
    other_border: Border = "replicate" if protocol.border == "symmetric" else "symmetric"
    changed = [("as measured", protocol)]
    if protocol.colour == "y":
        if protocol.lr_source != "luma":
            changed.append(("RGB instead of Y", replace(protocol, colour="rgb")))
        changed.append(("full-range Y", replace(protocol, luma_range="full")))
        rounding = "Y not rounded" if protocol.round_luma else "Y rounded"
        changed.append((rounding, replace(protocol, round_luma=not protocol.round_luma)))
        changed.append(("LR from luma", replace(protocol, lr_source="luma")))
        changed.append(("grey files as luma", replace(protocol, grey="luma")))
        changed.append(("grey files as RGB", replace(protocol, grey="rgb")))
    else:
        changed.append(("Y instead of RGB", replace(protocol, colour="y")))
    changed += [
        ("no border crop", replace(protocol, crop=0)),
        ("result not quantised", replace(protocol, quantise=False)),
        ("LR from 8-bit RGB", replace(protocol, lr_source="uint8")),
        ("LR from double RGB", replace(protocol, lr_source="double")),
        (f"LR with {other_border} border", replace(protocol, border=other_border)),
    ]
    if protocol.lr_source == "given":  # no border was used for given images
        changed = [(label, other) for label, other in changed if other.border == protocol.border]
    named = {other.settings: other for other in PROTOCOLS.values()}
    found = {protocol.settings: changed[0]}
    for label, other in changed[1:]:
        known = named.get(other.settings)
        found.setdefault(other.settings, (f"{label} ({known.name})", known) if known else (label, other))
    for settings, other in named.items():
        found.setdefault(settings, (other.name, other))
    return [(label, other) for label, other in found.values() if other is protocol or _fits(other, colour)]


def _fits(protocol: Protocol, colour: NetworkColour) -> bool:
    try:
        protocol.check_network(colour)
    except ConfigError:
        return False
    return True
