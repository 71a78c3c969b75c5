"""DVS128 Gesture: 11 gestures of 29 people, who are either in the training or in the test set."""

from spikingjelly.datasets import DVS128Gesture

from full_spike.utils.data.events import EventDataset

CLASSES = (  # of gesture_mapping.csv
    "hand clapping", "right hand wave", "left hand wave", "right arm clockwise", "right arm counter-clockwise",
    "left arm clockwise", "left arm counter-clockwise", "arm roll", "air drums", "air guitar", "other gestures",
)  # fmt: skip

GESTURE = EventDataset(
    "dvsgesture",
    DVS128Gesture,
    CLASSES,
    folders=tuple(str(label) for label in range(11)),
    count=1176 + 288,
    T_train=0.75,
)
load = GESTURE.load
