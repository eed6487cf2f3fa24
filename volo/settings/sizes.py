"""Sizes as data: every named model in each of its forms, as plain keyword arguments. No torch here, so `--help` is
quick. The project's own are flat or pyramids; `volo_d1` to `volo_d5` are the published ones, a third form.

`stem_channels` lists the widths of the levels of overlapping 3x3 convolutions before the patch projection, `stem_depth`
of them a level; the stages of a pyramid go from the finest map to the coarsest. Parameters are counted at 32 x 32
pixels and 100 classes, the flat form's first.
"""

NUM_CLASS_BLOCKS = 2  # of class attention, in every published model
VARIANTS: dict[str, dict[str, dict]] = {
    # 0.12 and 0.15 M parameters: learns the drawn shapes in about a minute on two cores.
    "quickstart": {
        "flat": dict(
            patch_size=4, stem_channels=(24, 48), stem_depth=2, embed_dim=64, num_heads=2, local_depth=1,
            global_depth=1, mlp_ratio=2.0,
        ),
        "pyramid": dict(
            patch_size=4, stem_channels=(24, 48), stem_depth=2, stage_kinds=("local", "global"), stage_depths=(1, 1),
            stage_embed_dims=(64, 64), stage_num_heads=(2, 2), mlp_ratio=2.0,
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
    # 26.6, 58.7, 86.3, 193 and 295.5 M parameters at 224 x 224 pixels and 1000 classes (arXiv 2106.13112, table 2).
    "volo_d1": {"published": dict(
        patch_size=8, stem_dim=64, layers=(4, 4, 8, 2), embed_dims=(192, 384), stage_heads=(6, 12), mlp_ratio=3.0,
    )},
    "volo_d2": {"published": dict(
        patch_size=8, stem_dim=64, layers=(6, 4, 10, 4), embed_dims=(256, 512), stage_heads=(8, 16), mlp_ratio=3.0,
    )},
    "volo_d3": {"published": dict(
        patch_size=8, stem_dim=64, layers=(8, 8, 16, 4), embed_dims=(256, 512), stage_heads=(8, 16), mlp_ratio=3.0,
    )},
    "volo_d4": {"published": dict(
        patch_size=8, stem_dim=64, layers=(8, 8, 16, 4), embed_dims=(384, 768), stage_heads=(12, 16), mlp_ratio=3.0,
    )},
    "volo_d5": {"published": dict(
        patch_size=8, stem_dim=128, layers=(12, 12, 20, 4), embed_dims=(384, 768), stage_heads=(12, 16), mlp_ratio=4.0,
    )},
}  # fmt: skip


def forms_of(variant: str) -> tuple[str, ...]:
    """The forms that a named size has; the first is the default."""
    return tuple(VARIANTS[variant])
