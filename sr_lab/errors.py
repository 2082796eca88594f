"""Errors for users: one sentence with where, what is wrong, what was given, what is allowed, what to do."""


class SRLabError(ValueError):
    """A mistake that the user can correct; the command line prints it without traceback and exits with 2."""


class ConfigError(SRLabError):
    """A setting is unknown, has the wrong type, or does not fit another one."""


class DataError(SRLabError):
    """An image or a folder of images is missing, broken, too small, or does not match its counterpart."""


class CheckpointError(SRLabError):
    """A checkpoint cannot be opened safely, or does not fit the network."""


class FaultError(SRLabError):
    """A disk, memory or process failed a training."""


class DistributedError(SRLabError):
    """A process of a training on several devices did not start, does not answer, or is gone."""


# A fault of the machine is not a failure of the run: the same command resumes it.
MACHINE_ERRORS = (FaultError, DistributedError, OSError)
