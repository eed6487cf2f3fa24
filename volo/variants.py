"""Sizes as data: every named model of the project in each form, as plain keyword arguments. No torch here, so `--help`
is quick.

`stem_channels` lists the widths of the levels of overlapping 3x3 convolutions before the patch projection, `stem_depth`
of them a level; the stages of a pyramid go from the finest map to the coarsest. Parameters are counted at 32 x 32
pixels and 100 classes, the flat form's first.
"""

VARIANTS: dict[str, dict[str, dict]] = {
    # 0.17 and 0.20 M parameters: learns the embedded shapes in about a minute on two cores.
    "quickstart": {
        "flat": dict(
            patch_size=4, stem_channels=(32, 64), stem_depth=2, embed_dim=64, num_heads=2, local_depth=1,
            global_depth=1, mlp_ratio=3.0,
        ),
        "pyramid": dict(
            patch_size=4, stem_channels=(32, 64), stem_depth=2, stage_kinds=("local", "global"), stage_depths=(1, 1),
            stage_embed_dims=(64, 64), stage_num_heads=(2, 2), mlp_ratio=3.0,
        ),
    },
    # 0.46 and 0.63 M parameters, for CPUs.
    "nano": {
        "flat": dict(
            patch_size=4, stem_channels=(48, 96), stem_depth=2, embed_dim=96, num_heads=3, local_depth=1,
            global_depth=2, mlp_ratio=3.0,
        ),
        "pyramid": dict(
            patch_size=4, stem_channels=(48, 96), stem_depth=2, stage_kinds=("local", "global"), stage_depths=(2, 2),
            stage_embed_dims=(96, 96), stage_num_heads=(3, 3), mlp_ratio=3.0,
        ),
    },
    # 2.4 and 2.2 M parameters.
    "tiny": {
        "flat": dict(
            patch_size=4, stem_channels=(64, 128), stem_depth=2, embed_dim=160, num_heads=5, local_depth=3,
            global_depth=5, mlp_ratio=3.0,
        ),
        "pyramid": dict(
            patch_size=2, stem_channels=(64,), stem_depth=2, stage_kinds=("local", "global"), stage_depths=(2, 5),
            stage_embed_dims=(96, 192), stage_num_heads=(3, 6), mlp_ratio=3.0,
        ),
    },
    # 8.4 and 8.5 M parameters.
    "small": {
        "flat": dict(
            patch_size=4, stem_channels=(64, 128), stem_depth=2, embed_dim=256, num_heads=8, local_depth=4,
            global_depth=8, mlp_ratio=3.0,
        ),
        "pyramid": dict(
            patch_size=2, stem_channels=(64,), stem_depth=2, stage_kinds=("local", "global"), stage_depths=(3, 7),
            stage_embed_dims=(160, 320), stage_num_heads=(5, 10), mlp_ratio=3.0,
        ),
    },
}  # fmt: skip
