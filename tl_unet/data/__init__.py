"""Data sets that feed a segmentation model: Oxford-IIIT Pet, a user's own folders, synthetic shapes.

Every function here returns `Subset`s: a batched, cached and prefetched `tf.data.Dataset` of
`(image, mask)`, ready for `model.fit` on any Keras backend, with a plain list of the names in it.
Images are float32 RGB in 0..255 (a model from `build_unet` normalises them itself), masks float32
0/1 for one class and int32 class indices for more, 255 where a pixel is to be ignored.

This is the only part of the library that needs TensorFlow whatever the backend is, so
`import tl_unet` leaves it alone: write `from tl_unet import data` or `import tl_unet.data`.
"""

from tl_unet.data.augment import augmentation
from tl_unet.data.folders import image_mask_dataset
from tl_unet.data.pets import oxford_pets
from tl_unet.data.pipeline import Subset
from tl_unet.data.shapes import shapes

__all__ = ["Subset", "augmentation", "image_mask_dataset", "oxford_pets", "shapes"]
