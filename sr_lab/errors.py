"""A user's mistake in one sentence: where, what is wrong, what was given, what is allowed, what to do."""


class SRLabError(ValueError):
    """A mistake that the user can mend; the command line prints it without a traceback and exits with 2."""


class ConfigError(SRLabError):
    """A setting is unknown, has the wrong type, or does not fit another one."""


class DataError(SRLabError):
    """An image or a folder of images is missing, broken, too small, or does not match its partner."""


class CheckpointError(SRLabError):
    """A checkpoint cannot be opened safely, or does not fit the network."""


class FaultError(SRLabError):
    """A disk, memory or process failed a training."""


class DistributedError(SRLabError):
    """A process of a training on several devices did not come, does not answer, or is gone."""


# What a machine does to a run is no failure of the run: the same command goes on with it.
MACHINE_ERRORS = (FaultError, DistributedError, OSError)
