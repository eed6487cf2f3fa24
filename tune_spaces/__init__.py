"""Search spaces, one a file: what is searched, over which recipe, for which metric, and what is tried first.

A space is a function of an Optuna trial: it asks the trial for values, later ones depending on earlier ones where
that makes sense, and returns settings, nested as in a YAML file, that are laid over the recipe. Whatever it draws is a
model.

    RECIPE          the recipe that it lies over, unless --recipe or --config names another
    METRIC, MODE    what is compared, and whether more (max) or less (min) of it is better
    FIRST_POINTS    whole points to try before searching; the first one is the recipe itself, in the space's words
    COST            what a trial costs

A file of one's own works the same: --space path/to/file.py. It is run by the driver only; workers get plain settings.
NumPy's numbers become Python's. A parameter has the same choices in every trial, and the same kind of range.
"""
