"""What the paper and its authors' test logs say: data only, shown beside our own figures and always named as theirs.

Reference: Asai, Shao, Thompson, Wang, Zhao: U-Net Transfer Learning for Image Segmentation with Various Encoders.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """One row: Dice and IoU soft and averaged over batches, accuracy at a threshold of 0.5."""

    table1: tuple[float, float, float]
    test: tuple[float, float, float]
    parameters: int
    trainable: int
    note: str = ""


PUBLISHED = {
    "unet": Published((0.8327, 0.7141, 0.8605), (0.8280, 0.7073, 0.8587), 31_031_745, 31_031_745),
    "vunet": Published((0.8989, 0.8167, 0.9160), (0.8949, 0.8101, 0.9116), 25_854_657, 11_139_969),
    "vunet-finetuned": Published(
        (0.9345, 0.8773, 0.9461), (0.9290, 0.8678, 0.9416), 25_854_657, 25_854_657
    ),
    "dunet": Published(
        (0.8400, 0.7246, 0.8730),
        (0.8949, 0.8100, 0.9099),
        19_227_008,
        12_189_504,
        "restarted after a collapse; the test result is after 100 more epochs",
    ),
    "runet": Published(
        (0.7569, 0.6097, 0.7858),
        (0.7630, 0.6173, 0.7869),
        71_939_392,
        48_351_680,
        "restarted after a collapse",
    ),
    "munet": Published((0.8014, 0.6692, 0.9053), (0.8012, 0.6690, 0.9190), 16_628_156, 14_370_172),
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
