"""Gathers the contents of the HTML report of a sweep. Its template is sweep_report.html.j2, beside this file, and looks
like the report of a model."""

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optuna.study import Study
from optuna.trial import TrialState

from volo.console import percent
from volo.errors import InputError
from volo.files import staging
from volo.plots.figures import shorten
from volo.plots.page import Figure, pictures, write_page
from volo.tuning.report.confirmation import Confirmed, Verdict, read_confirmation, verdicts
from volo.tuning.report.coordinates import save_parallel, save_slices
from volo.tuning.report.importance import Importances, importances
from volo.tuning.report.pictures import save_curves, save_front, save_history, save_importances, save_seeds
from volo.tuning.report.scales import same
from volo.tuning.report.trials import STATES, Sweep, SweepFacts, Tried, apart, num, plain, shown
from volo.tuning.report.words import choices, findings, spread_of

PAGE, PICTURES = "sweep_report.html", "figures"
FIGURES = ("history", "curves", "front", "seeds", "importances", "parallel", "slices")
TEMPLATE = Path(__file__).with_name("sweep_report.html.j2")
NUM_SHOWN = 15  # rows of the ranked table; all are in trials.csv
NUM_FAILED = 20
REASON_COLUMNS = 400


def write_sweep_report(study: Study, sweep_dir: Path, facts: SweepFacts) -> Path:
    """Writes sweep_report.html and its figures, figures/*.png, replacing earlier ones once all are drawn. The caller
    must hold a lock on the sweep.

    Any study works, even one that is still running or has no trial that was trained to the end; whatever cannot be
    shown is left out. Trials may have the user attributes that `volo.tuning.study` sets: metrics, reason. The seeds
    that `volo.tuning.report.confirmation` describes are shown if their file exists.

    Raises:
        ValueError: the facts do not match the study.
    """
    sweep = Sweep.of(study, facts)
    confirmed, mistakes = _confirmation(sweep_dir)
    found = importances(sweep)
    (sweep_dir / PICTURES).mkdir(parents=True, exist_ok=True)
    with staging(sweep_dir / PICTURES) as aside:
        page = write_page(
            sweep_dir / PAGE,
            TEMPLATE,
            facts=facts,
            objectives=[
                f"{name}, {_better(is_max)}" for name, is_max in zip(facts.metrics, sweep.maximized, strict=True)
            ],
            cards=_cards(sweep, confirmed),
            notes=[*findings(sweep, confirmed, found), *mistakes],
            pictures=pictures(_figures(sweep, confirmed, found, aside)),
            ranked=_ranked_rows(sweep, sweep_dir),
            num_others=max(0, len(sweep.trials) - NUM_SHOWN),
            seeds=_seed_rows(sweep, confirmed),
            failed=_failed_rows(sweep, sweep_dir),
            num_failed=len(sweep.in_state(TrialState.FAIL)),
            choices=_choice_rows(sweep),
            compared=_compared(sweep, confirmed),
            best_config=_best_config(sweep_dir, sweep),
        )
        _replace_figures(aside, sweep_dir / PICTURES)
    return page


def _replace_figures(drawn: Path, folder: Path) -> None:
    """Moves the figures into their folder, and removes those that only an earlier report has."""
    for name in FIGURES:
        if (drawn / f"{name}.png").exists():
            (drawn / f"{name}.png").rename(folder / f"{name}.png")
        else:
            (folder / f"{name}.png").unlink(missing_ok=True)


def _confirmation(sweep_dir: Path) -> tuple[list[Confirmed], list[str]]:
    """What was trained on more seeds, and notes if that cannot be read."""
    try:
        return read_confirmation(sweep_dir), []
    except InputError as error:
        return [], [str(error)]


def _better(is_maximized: bool) -> str:
    return "more is better" if is_maximized else "less is better"


def _cards(sweep: Sweep, confirmed: Sequence[Confirmed]) -> list[tuple[str, str, str]]:
    """(label, value, small print) of the available headline numbers."""
    best, base, facts = sweep.best, sweep.base, sweep.facts
    cards = []
    if len(facts.metrics) > 1:
        cards.append(("On the front", f"{len(sweep.front)}", f"of {num(len(sweep.complete), 'complete trial')}"))
    elif best is not None:
        small = f"trial {best.number}, {_over_seeds(best, confirmed, facts)}"
        cards.append((f"Best {facts.metrics[0]}", shown(facts.metrics[0], best.values[0]), small))
    if base is not None and base.last is not None:
        ended = "" if base.is_complete else f", {STATES[base.state]} after {num(base.num_epochs, 'epoch')}"
        ended = ended or f", {_over_seeds(base, confirmed, facts)}"
        cards.append((f"Base {facts.metrics[0]}", shown(facts.metrics[0], base.last), f"trial {base.number}{ended}"))
    states = Counter(STATES[trial.state] for trial in sweep.trials)
    in_words = ", ".join(f"{states[word]} {word}" for word in STATES.values() if states[word])
    cards.append(("Trials", f"{len(sweep.trials):,}", in_words or "none yet"))
    spent, full = sum(trial.num_epochs for trial in sweep.trials), facts.num_epochs * len(sweep.trials)
    if full:
        cards.append(("Epochs trained", f"{spent:,}", f"{percent(spent / full, 0)} of {full:,} without stopping early"))
    return cards


def _over_seeds(trial: Tried, confirmed: Sequence[Confirmed], facts: SweepFacts) -> str:
    """Small print: a trial's value on more seeds, if known."""
    for one in confirmed:
        if one.trial == trial.number:
            return f"{shown(facts.metrics[0], one.mean)} over {num(len(one.values), 'new seed')}"
    return "one seed"


def _figures(sweep: Sweep, confirmed: Sequence[Confirmed], found: Sequence[Importances], folder: Path) -> list[Figure]:
    """Draws the figures that can be drawn."""
    several = len(sweep.maximized) > 1
    epochs = " or ".join(num(count, "epoch") for count in sorted({one.epochs for one in confirmed}))
    goal = "the front" if several else f"{sweep.metric} in the best quarter"
    drawn: list[tuple[str, str, Callable[[Path], Path | None], str]] = [
        ("History", "history", lambda path: save_history(sweep, path),
         "What each trial reached, by its number. A trial that was stopped early is shown at its last value."),
        ("Learning curves", "curves", lambda path: save_curves(sweep, path),
         "A dot ends a trial that was stopped or is still running, a cross one that failed. Below: how many trials "
         "reached each epoch."),
        ("Pareto front", "front", lambda path: save_front(sweep, path),
         "No trial is better than one on the front in all objectives; the numbers are those of the trials."),
        ("Best against base, over seeds", "seeds", lambda path: save_seeds(sweep, confirmed, path),
         f"Trained again, {epochs} each. The sweep's own value of the best was selected for being good; new seeds are "
         "usually not quite as good."),
        ("Which parameters matter", "importances", lambda path: save_importances(found, path),
         f"PED-ANOVA: how much a parameter decides whether a trial reaches {goal}, including conditional parameters. "
         "A bar that does not pass its orange mark is no more than chance; if nothing matters, bars pass in at most "
         "1 of 20 sweeps."),
        ("Parallel coordinates", "parallel", lambda path: save_parallel(sweep, path),
         "Each line is a trial. The top of the last axis is the best value; within a choice, better trials are "
         "higher."),
        ("Slices", "slices", lambda path: save_slices(sweep, path),
         f"Each parameter against {sweep.metric}, over the trials that have it. Only points in the same row of a panel "
         "were trained equally long. Other parameters also differ, as the sampler chose."),
    ]  # fmt: skip
    figures = []
    for title, name, draw, caption in drawn:
        if path := draw(folder / f"{name}.png"):
            figures.append(Figure(title, path, caption, alt=f"{title}. {caption}"))
    return figures


def _ranked_rows(sweep: Sweep, sweep_dir: Path) -> list[dict[str, Any]]:
    """The first rows, plus the base if it is not among them. Settings that differ from the base's are marked."""
    ranks = list(enumerate(sweep.ranked, start=1))
    rows = ranks[:NUM_SHOWN] + [(rank, trial) for rank, trial in ranks[NUM_SHOWN:] if trial is sweep.base]
    return [
        {
            "rank": rank,
            "number": trial.number,
            "mark": "base" if trial is sweep.base else "front" if trial.number in sweep.front else "",
            "state": STATES[trial.state],
            "values": _values(sweep, trial),
            "epochs": trial.num_epochs,
            "settings": _settings(sweep, trial),
            "folder": _folder(trial, sweep_dir),
        }
        for rank, trial in rows
    ]


def _values(sweep: Sweep, trial: Tried) -> list[str]:
    values = trial.values or [trial.last, *[None] * (len(sweep.facts.metrics) - 1)]
    pairs = zip(sweep.facts.metrics, values, strict=True)
    return ["" if value is None else shown(name, value) for name, value in pairs]


def _settings(sweep: Sweep, trial: Tried) -> list[tuple[str, str, bool]]:
    """(name, value, whether it differs from the base's)."""
    base = sweep.base.params if sweep.base is not None and trial is not sweep.base else {}
    return [
        (name, shorten(plain(value), 24), bool(base) and not (name in base and same(base[name], value)))
        for name, value in trial.params.items()
    ]


def _folder(trial: Tried, sweep_dir: Path) -> str:
    return str(trial.run_dir.relative_to(sweep_dir) if trial.run_dir.is_relative_to(sweep_dir) else trial.run_dir)


def _seed_rows(sweep: Sweep, confirmed: Sequence[Confirmed]) -> list[tuple[str, ...]]:
    """(settings, seeds, mean, range, against the base), the base first."""
    judged = {one.one.name: one for one in verdicts(list(confirmed), sweep.maximized[0])}
    rows: list[tuple[str, ...]] = []
    is_unequal = len({one.epochs for one in confirmed}) > 1
    for one in confirmed:
        seeds = f"{len(one.values)} of {len(one.values) + one.num_failed}" if one.num_failed else f"{len(one.values)}"
        across = f"{shown(sweep.metric, one.lowest)} to {shown(sweep.metric, one.highest)}"
        verdict = _in_a_word(judged[one.name]) if one.name in judged else ""
        label = f"{one.label}, {num(one.epochs, 'epoch')}" if is_unequal else one.label
        rows.append((label, seeds, shown(sweep.metric, one.mean), across, verdict))
    return rows


def _in_a_word(verdict: Verdict) -> str:
    if not verdict.holds:
        return "too few seeds to say" if verdict.separation else "no clear difference"
    return "better" if verdict.separation > 0 else "worse"


def _failed_rows(sweep: Sweep, sweep_dir: Path) -> list[tuple[int, int, str, str]]:
    """(trial, epochs, reason, run folder)."""
    return [
        (trial.number, trial.num_epochs, shorten(trial.reason or "unknown", REASON_COLUMNS), _folder(trial, sweep_dir))
        for trial in sweep.in_state(TrialState.FAIL)[:NUM_FAILED]
    ]


def _choice_rows(sweep: Sweep) -> list[tuple[str | int, ...]]:
    """(parameter, value, trials, to the end, their best, median); a parameter is named in its first row."""
    rows: list[tuple[str | int, ...]] = []
    before = None
    for one in choices(sweep):
        values = ["" if value is None else shown(sweep.metric, value) for value in (one.best, one.median)]
        rows.append((one.name if one.name != before else "", one.value, one.num_trials, one.num_complete, *values))
        before = one.name
    return rows


def _compared(sweep: Sweep, confirmed: Sequence[Confirmed]) -> dict[str, str]:
    """What the table of choices compares, and how large a difference must be to mean anything."""
    epoch = sweep.scores[-1].epoch if sweep.scores else sweep.facts.num_epochs
    spread = spread_of(confirmed)
    if spread is None:
        caution = "The spread between seeds of one setting is not known here, so small differences mean nothing."
    else:
        caution = f"Seeds of one setting differ by {apart(sweep.metric, spread)}: smaller differences mean nothing."
    return {"median": f"Median after {num(epoch, 'epoch')}", "caution": caution}


def _best_config(sweep_dir: Path, sweep: Sweep) -> str:
    return shlex.quote(str(sweep_dir / "best_config.yaml")) if sweep.best is not None else ""
