"""What the paper and its authors' test logs say: data only, shown beside our own figures and always named as theirs.

Reference: Asai, Shao, Thompson, Wang, Zhao: U-Net Transfer Learning for Image Segmentation with Various Encoders.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """One row: Dice and IoU soft and averaged over batches, accuracy at a threshold of 0.5.

    Args:
        table1: Dice, IoU and accuracy on the validation pictures, to the digits of the paper.
        test: the same on the test pictures, from the authors' logs.
        parameters: how many weights the model has.
        trainable: how many of them are trained.
    """

    table1: tuple[float, float, float]
    test: tuple[float, float, float]
    parameters: int
    trainable: int


# D-Unet's and R-Unet's logs hold runs that were given up (12 epochs and 18) before those that count. D-Unet's has 100 epochs, of which
# table 1 has the 52nd; its test scores fit the last ones.
PUBLISHED = {
    "unet": Published(
        (0.8327, 0.7141, 0.8605), (0.827980, 0.707317, 0.858727), 31_031_745, 31_031_745
    ),
    "vunet": Published(
        (0.8989, 0.8167, 0.9160), (0.894880, 0.810112, 0.911621), 25_854_657, 11_139_969
    ),
    "vunet-finetuned": Published(
        (0.9345, 0.8773, 0.9461), (0.929021, 0.867807, 0.941617), 25_854_657, 25_854_657
    ),
    "dunet": Published(
        (0.8400, 0.7246, 0.8730), (0.894887, 0.810045, 0.909892), 19_227_008, 12_189_504
    ),
    "runet": Published(
        (0.7569, 0.6097, 0.7858), (0.762970, 0.617307, 0.786861), 71_939_392, 48_351_680
    ),
    "munet": Published(
        (0.8014, 0.6692, 0.9053), (0.801225, 0.668952, 0.919005), 16_628_156, 14_370_172
    ),
}

# Table 2 (pictures, dogs, cats). Its columns are swapped (1,475 of the 2,210 are dogs), and its validation row, 527 and 217, does not
# add up to 738: 520 and 218 do. The test row is what then remains of the 2,498 dogs and 1,188 cats of the data set.
PARTS = {"train": (2210, 1475, 735), "validation": (738, 520, 218), "test": (738, 503, 235)}
ERRATUM = (
    "Erratum of the paper's table 2: its columns are swapped (1,475 of the 2,210 training pictures are dogs), and its validation "
    "row is printed as 527 and 217, which does not add up to 738; 520 and 218 do. The paper's figures above are the mended "
    "ones; its test row is what remains of the 2,498 dogs and 1,188 cats of the whole set. Our split has the same sizes but "
    "its own members, since the authors' is not published."
)
