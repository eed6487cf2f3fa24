"""Sizes as data: every named model of the project, as plain keyword arguments. No torch here, so `--help` is quick.

`stem_channels` lists the widths of overlapping 3x3 stride-2 convolutions before the patch projection;
parameters are counted at 32 x 32 pixels and 100 classes.
"""

VARIANTS: dict[str, dict] = {
    # 0.12 M parameters: learns the embedded shapes in about a minute on two cores.
    "quickstart": dict(
        patch_size=4, stem_channels=(32, 64), embed_dim=64, num_heads=2, local_depth=1, global_depth=1, mlp_ratio=3.0,
    ),
    # 0.52 M parameters, for CPUs.
    "nano": dict(
        patch_size=4, stem_channels=(32, 64), embed_dim=96, num_heads=3, local_depth=2, global_depth=3, mlp_ratio=3.0,
    ),
    # 2.4 M parameters.
    "tiny": dict(
        patch_size=4, stem_channels=(64, 128), embed_dim=192, num_heads=6, local_depth=2, global_depth=4, mlp_ratio=3.0,
    ),
    # 9.6 M parameters.
    "small": dict(
        patch_size=4, stem_channels=(64, 128), embed_dim=320, num_heads=10, local_depth=3, global_depth=6,
        mlp_ratio=3.0,
    ),
}
