"""Why a model predicts what it does: Grad-CAM, occlusion, and where the evidence lies."""
