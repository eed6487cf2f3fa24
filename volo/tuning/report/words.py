"""The findings of a sweep in words, claiming no more than the numbers support."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from optuna.trial import TrialState

from volo.tuning.report.confirmation import Confirmed, Verdict, verdicts
from volo.tuning.report.importance import ALPHA, LEAST, Importances
from volo.tuning.report.scales import same, scales
from volo.tuning.report.trials import STATES, Sweep, Tried, apart, num, plain, shown


@dataclass(frozen=True)
class Choice:
    """One value of a parameter: how many trials took it, how many of those were trained to the end, the best value they
    reached, and the median at the epoch where trials can be compared."""

    name: str
    value: str
    num_trials: int
    num_complete: int
    best: float | None
    median: float | None


def findings(sweep: Sweep, confirmed: Sequence[Confirmed], found: Sequence[Importances]) -> list[str]:
    """Sentences for the top of the page."""
    sentences = [*_against_base(sweep, confirmed), *_spent(sweep), *_of_importance(sweep, found)]
    return [sentence for sentence in sentences if sentence]


def choices(sweep: Sweep) -> list[Choice]:
    """Each value that was taken, for every parameter with few values."""
    scores = {one.is_final: one for one in sweep.scores}
    final, shared = scores.get(True), scores.get(False) or scores.get(True)
    found = []
    for scale in (scale for scale in scales(sweep) if scale.choices):
        for value in scale.choices:
            trials = [t.number for t in sweep.trials if scale.name in t.params and same(t.params[scale.name], value)]
            ends = [final.values[number] for number in trials if number in final.values] if final else []
            compared = [shared.values[number] for number in trials if number in shared.values] if shared else []
            best = sweep.better(ends) if ends else None
            if trials:
                middle = median(compared) if compared else None
                found.append(Choice(scale.name, plain(value), len(trials), len(ends), best, middle))
    return found


def spread_of(confirmed: Sequence[Confirmed]) -> float | None:
    """The widest range over the seeds of one setting; None if none was trained on two."""
    return max((one.spread for one in confirmed if len(one.values) > 1), default=None)


def _against_base(sweep: Sweep, confirmed: Sequence[Confirmed]) -> Iterator[str]:
    judged = verdicts(list(confirmed), sweep.maximized[0])
    for verdict in judged:
        yield verdict_in_words(sweep.metric, verdict, len(judged))
    compared = {verdict.one.name for verdict in judged}
    for one in confirmed:
        if one.name != "base" and one.name not in compared:
            yield f"{_capital(one.label)} is not compared with the base: they were not trained equally long."
    if len(sweep.maximized) > 1:
        yield _of_the_front(sweep)
    elif not judged and sweep.best is not None:
        yield _unconfirmed(sweep, sweep.best)


def verdict_in_words(metric: str, verdict: Verdict, num_compared: int) -> str:
    """What the seeds of one setting and of the base show; `num_compared` settings are compared in total."""
    one, base = verdict.one, verdict.base
    failed = sum(x.num_failed for x in (one, base))
    means = (
        f"{_capital(one.label)}: {shown(metric, one.mean)} on average over {num(len(one.values), 'seed')}, the base "
        f"{shown(metric, base.mean)} over {len(base.values)}, after {num(one.epochs, 'epoch')} each"
    ) + (f" ({num(failed, 'run')} without a value)" if failed else "")
    if not verdict.separation:
        return f"{means}. Their seeds overlap, so neither is shown to be better."
    word, odds = "better" if verdict.separation > 0 else "worse", f"1 in {round(1 / verdict.chance)} times"
    if not verdict.holds:
        return (
            f"{means}. Every seed is {word} than every seed of the base, but by chance alone that happens {odds}: with "
            "so few seeds neither is shown to be better; three seeds each would be enough."
        )
    of_any = f"1 in {max(1, int(1 / (num_compared * verdict.chance)))} times"
    among = f" to each of the {num_compared} compared, to any of them up to {of_any}" if num_compared > 1 else ""
    return (
        f"{means}: {word} by {apart(metric, verdict.gain)}. Every seed is {word} than every seed of the base; by "
        f"chance alone that happens {odds}{among}."
    )


def _unconfirmed(sweep: Sweep, best: Tried) -> str:
    base, metric = sweep.base, sweep.metric
    begin = f"Trial {best.number} is the best: {metric} {shown(metric, best.values[0])}"
    if base is None or base.last is None:
        return f"{begin}. There is no base to compare it with."
    if base is best:
        return f"The base itself, trial {base.number}, is the best: no other trial trained to the end beats it."
    flags = sweep.facts.confirm_flags
    how = f" To find out, train both on several seeds: add {flags}." if flags else ""
    return (
        f"{begin}; {_at_equal_epochs(sweep, best, base)}. One seed each, and the best of "
        f"{num(len(sweep.trials), 'trial')} is partly luck, so it is not yet shown to be better.{how}"
    )


def _of_the_front(sweep: Sweep) -> str:
    base = sweep.base
    if base is None or not base.is_complete:
        return ""
    if base.number in sweep.front:
        return f"The base, trial {base.number}, is on the front: no trial beats it in all objectives. One seed each."
    pairs = [(trial, zip(trial.values, base.values, strict=True)) for trial in sweep.complete if trial is not base]
    beating = [
        trial.number for trial, values in pairs
        if all(sweep.gain(one, k) >= sweep.gain(other, k) for k, (one, other) in enumerate(values))
    ]  # fmt: skip
    return (
        f"{_capital(num(len(beating), 'trial'))} of {len(sweep.complete)} are at least as good as the base in all "
        "objectives. One seed each, so small differences in trained metrics may be chance."
    )


def _at_equal_epochs(sweep: Sweep, best: Tried, base: Tried) -> str:
    metric = sweep.metric
    if base.is_complete:
        return f"the base {shown(metric, base.values[0])}, {apart(metric, best.values[0] - base.values[0])} apart"
    epoch = max(base.curve)
    then = f", when trial {best.number} had {shown(metric, best.curve[epoch])}" if epoch in best.curve else ""
    return f"the base, {STATES[base.state]}, had {shown(metric, base.curve[epoch])} after {num(epoch, 'epoch')}{then}"


def _spent(sweep: Sweep) -> Iterator[str]:
    if failed := sweep.in_state(TrialState.FAIL):
        yield f"{_capital(num(len(failed), 'trial'))} failed; the reasons are listed below."
    if not sweep.complete and sweep.trials:
        yield "No trial has been trained to the end yet, so there is none to call the best."


def _of_importance(sweep: Sweep, found: Sequence[Importances]) -> Iterator[str]:
    for one in found:
        names = ", ".join(one.beyond_chance)
        when = f"After {num(one.epoch, 'epoch')}, of {num(one.num_trials, 'trial')}"
        if names:
            alone = f"chance alone would name any in at most 1 of {round(1 / ALPHA)} sweeps"
            yield f"{when}, these separate the best quarter by more than chance: {names} ({alone})."
        else:
            yield f"{when}, no parameter separates the best quarter by more than chance."
    if not found and sweep.params:
        yield f"Too few trials to say which parameters matter: at least {LEAST} different settings are needed."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
