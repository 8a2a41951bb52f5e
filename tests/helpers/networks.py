"""A network small enough to train in seconds."""

TINY = {
    "widths": (4, 4, 8, 8, 8),
    "depths": (1, 1, 1, 1, 1),
    "attn_features": 8,
    "hidden": 16,
    "image_size": 32,
    "train_count": 10,
    "val_count": 6,
    "batch_size": 4,
    "epochs": 2,
    "weights": "none",
    "freeze_backbone": False,
}
