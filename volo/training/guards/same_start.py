"""Checks before the first step that all ranks start at the same place: each reads it on the disk of its own node."""

import platform
from dataclasses import replace
from pathlib import Path

from volo.errors import InputError, TrainingError
from volo.runs import checkpoint
from volo.runs.folder import Start, find_start
from volo.runs.home import Home
from volo.settings.buckets import is_in_bucket
from volo.settings.config import Settings
from volo.training.teacher import find_teacher
from volo.training.world import World


def bring(settings: Settings, home: Home, world: World) -> None:
    """Has the first rank of each node bring the run there, if it is kept elsewhere; all ranks call this.

    Raises:
        TrainingError: on every rank, if any node cannot.
    """
    if not settings.is_in_bucket:
        return
    refusal = None
    if world.local_rank == 0:
        try:
            home.bring()
        except TrainingError as error:
            refusal = f"rank {world.rank} on {platform.node()}: {error}"
    for one in world.gather(refusal):
        if one is not None:
            raise TrainingError(one)


def same_start(settings: Settings, world: World) -> Start:
    """Where rank 0 starts, with the checkpoint on this node's disk."""
    start = find_start(settings) if world.is_main else None
    is_own = start is not None and start.checkpoint is not None and start.checkpoint.is_relative_to(settings.run_dir)
    start, is_own = world.from_main((start, is_own))
    assert start is not None, "rank 0 has found it"
    if world.is_main or start.checkpoint is None:
        return start
    if settings.is_in_bucket and is_own:
        return replace(start, checkpoint=checkpoint.folder_of(settings.run_dir, start.step))
    asked = settings.run.resume_path
    if asked and not is_own and is_in_bucket(asked):
        found = find_start(settings)
        if found.step != start.step:
            raise InputError(
                f"--resume-path must name one checkpoint for all ranks, got step {found.step:,} on {platform.node()} "
                f"and {start.step:,} on rank 0's node; name one that is no longer trained"
            )
        return found
    return start


def same_teacher(settings: Settings, world: World) -> Path | None:
    """Rank 0's teacher, or a copy of it on this node's disk."""
    if is_in_bucket(settings.teaching.teacher or ""):
        return find_teacher(settings)
    return world.from_main(find_teacher(settings) if world.is_main else None)
