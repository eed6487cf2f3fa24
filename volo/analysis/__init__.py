"""How well a checkpoint predicts and why: metrics, calibration, explanations, a report. Predictions for
unlabeled images.

Files that the analyses write to their folder:

    eval          eval_metrics.json    split, num_samples, loss, acc1, acc5, nll, brier, ece, mce, ece_by_chance,
                                       coarse_acc1 (if the data have superclasses), per_class (class: accuracy, null
                                       without images), per_class_images; of calibration temperature, nll_after,
                                       brier_after, ece_after, mce_after, ece_by_chance_after. Fractions and nats.
    confusion     confusion_matrix.npy (classes, classes) int64, row: true, column: predicted; confusion_matrix.png
    calibration   calibration_stats.npz, reliability_before.png, reliability_after.png    volo/analysis/calibration.py
    gradcam       gradcam.pt, gradcam_overlay.png                                         volo/analysis/explaining/
    occlusion     occlusion_heatmap.pt, occlusion_heatmap.png                             volo/analysis/explaining/
                  localisation.json, if the position of the objects is known           volo/analysis/explaining/
    predictions   predictions.csv, predictions_grid.png                                   volo/analysis/listing.py
                  near_duplicates.csv, if test images are like images trained on          volo/analysis/duplicates.py
    always        analysis.json                                                         volo/analysis/output.py
                  report.html, and learning_curves.png if the run's records are available
"""
