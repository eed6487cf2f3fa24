"""The two failures the command line tells apart: a wrong input, and a training that failed."""


class InputError(ValueError):
    """A user's mistake. The message holds the rule, the values and the remedy; the process ends with code 2."""


class TrainingError(RuntimeError):
    """Training began and could not go on. The process ends with code 3."""
