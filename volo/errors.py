"""The failures that the command line distinguishes: invalid input, failed work, and a request to stop."""


class InputError(ValueError):
    """A user's mistake. The message states the rule, the values and the remedy; the process exits with code 2."""


class TrainingError(RuntimeError):
    """Training started and could not continue. The process exits with code 3."""


class OutOfRetries(TrainingError):
    """Workers were lost more often than they may be restarted. The process exits with code 4."""


class InferenceError(RuntimeError):
    """Inference with a trained model started and could not continue. The process exits with code 3."""


class Stopped(Exception):
    """A signal stopped training, which has saved if it had started. The process exits with code 128 + signal."""

    def __init__(self, signal_number: int, had_begun: bool = True):
        when = "after saving" if had_begun else "before a worker had started"
        super().__init__(f"stopped by signal {signal_number} {when}; the same command resumes")
        self.signal_number = signal_number
