"""Sizes as data: every named model of the project in each form, as plain keyword arguments. No torch here, so `--help`
is quick.

`stem_channels` lists the widths of overlapping 3x3 stride-2 convolutions before the patch projection; the stages of a
pyramid go from the finest map to the coarsest. Parameters are counted at 32 x 32 pixels and 100 classes.
"""

VARIANTS: dict[str, dict[str, dict]] = {
    # 0.12 M parameters: learns the embedded shapes in about a minute on two cores.
    "quickstart": {
        "flat": dict(
            patch_size=4, stem_channels=(32, 64), embed_dim=64, num_heads=2, local_depth=1, global_depth=1,
            mlp_ratio=3.0,
        ),
        "pyramid": dict(
            patch_size=4, stem_channels=(32, 64), stage_kinds=("local", "global"), stage_depths=(1, 1),
            stage_embed_dims=(64, 64), stage_num_heads=(2, 2), mlp_ratio=3.0,
        ),
    },
    # 0.52 M parameters, for CPUs.
    "nano": {
        "flat": dict(
            patch_size=4, stem_channels=(24, 64), embed_dim=96, num_heads=3, local_depth=2, global_depth=3,
            mlp_ratio=3.0,
        ),
        "pyramid": dict(
            patch_size=2, stem_channels=(32,), stage_kinds=("local", "global"), stage_depths=(1, 3),
            stage_embed_dims=(48, 96), stage_num_heads=(2, 3), mlp_ratio=3.0,
        ),
    },
    # 2.4 M parameters.
    "tiny": {
        "flat": dict(
            patch_size=4, stem_channels=(64, 128), embed_dim=160, num_heads=5, local_depth=3, global_depth=5,
            mlp_ratio=3.0,
        ),
        "pyramid": dict(
            patch_size=2, stem_channels=(64,), stage_kinds=("local", "global"), stage_depths=(2, 4),
            stage_embed_dims=(96, 192), stage_num_heads=(3, 6), mlp_ratio=3.0,
        ),
    },
    # 9.6 M parameters.
    "small": {
        "flat": dict(
            patch_size=4, stem_channels=(64, 128), embed_dim=256, num_heads=8, local_depth=4, global_depth=8,
            mlp_ratio=3.0,
        ),
        "pyramid": dict(
            patch_size=2, stem_channels=(64,), stage_kinds=("local", "global"), stage_depths=(3, 6),
            stage_embed_dims=(160, 320), stage_num_heads=(5, 10), mlp_ratio=3.0,
        ),
    },
}  # fmt: skip
