"""Search spaces, one per file: what to search, on top of which recipe, for which metric, and what to try first.

A space is a function of an Optuna trial. It asks the trial for values, which may depend on earlier ones, and returns
settings, nested as in a YAML file, that override those of the recipe. Every point must be a valid model.

    RECIPE          the recipe that the space modifies, unless --recipe or --config names another
    METRIC, MODE    the metric to compare, and whether more (max) or less (min) of it is better
    FIRST_POINTS    complete points to try before searching; the first is the recipe itself, in the space's parameters
    COST            what a trial costs

Your own file works the same way: --space path/to/file.py. Only the driver runs it; workers get plain settings.
NumPy numbers become Python numbers. A parameter must have the same choices, or the same kind of range, in every trial.
"""
