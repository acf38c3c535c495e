"""TensorFlow's `MirroredStrategy` on a processor split in two: not a test by itself, `test_mirrored.py` starts it as a process.

It trains both stages with the normalisation that it is told, evaluates on two devices and on one, and prints the scores as JSON.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf
from tiny import shallow_unet

import tl_unet


def main():
    processor = tf.config.list_physical_devices("CPU")[0]
    halves = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(processor, halves)
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    masks = (images[..., :1] > 127).astype("float32")
    masks[:4, :, 4:] = 0  # the two halves of a batch are not alike
    data = tf.data.Dataset.from_tensor_slices((images, masks)).batch(8)

    found = {}
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = shallow_unet(freeze=True, normalization=sys.argv[1])
        model.compile(
            keras.optimizers.Adam(1e-2),
            tl_unet.DiceLoss(average="image"),
            metrics=[tl_unet.IoU()],
            jit_compile=False,
        )
    found["devices"] = strategy.num_replicas_in_sync
    found["frozen"] = model.fit(data, epochs=3, verbose=0).history["loss"]
    with strategy.scope():
        tl_unet.unfreeze_encoder(model, learning_rate=1e-3)
    found["all"] = model.fit(data, epochs=3, verbose=0).history["loss"]
    found["on two"] = model.evaluate(data, verbose=0, return_dict=True)
    predictions = model(images, training=False)
    metric = tl_unet.IoU()
    metric.update_state(masks, predictions)
    found["on one"] = {
        "loss": float(tl_unet.DiceLoss(average="image")(masks, predictions)),
        "iou": float(metric.result()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
