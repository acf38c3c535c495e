"""What the tables of tiled prediction count: borders of tiles, and steps across them and elsewhere."""

import numpy as np
import pytest
from tiling_table import VIEWS, borders, counts, mosaics, number_of_views, steps


def test_borders_are_where_tiles_begin_and_end_inside():
    assert borders(64, 32, 0) == [32]
    assert borders(96, 64, 32) == [32, 64]
    assert borders(64, 64, 0) == []


def test_a_seam_is_a_step_at_the_border_and_not_elsewhere():
    mask = np.full((64, 64, 1), 0.25)
    mask[32:] = 0.75
    (across, elsewhere) = (total / number for total, number in steps(mask, [32], ()))
    assert across == pytest.approx(
        0.25
    )  # of the two borders, of rows and of columns, one is a seam
    assert elsewhere == 0


def test_steps_near_a_joint_are_left_out():
    mask = np.zeros((64, 64, 1))
    mask[:, 20:] = 1
    assert steps(mask, [], [20])[1, 0] == 0
    assert steps(mask, [], [50])[1, 0] == 1


def test_joints_of_a_mosaic_lie_between_multiples_of_the_pictures_side():
    pictures = np.stack([np.full((16, 16, 3), value, "uint8") for value in (10, 90, 200)])
    (image,) = mosaics(pictures, 48, 1)
    assert image.shape == (48, 48, 3)
    changes = np.flatnonzero(np.diff(image[..., 0].astype(int), axis=0).any(axis=1)) + 1
    assert set(changes) <= {8, 24, 40}
    assert len(changes)


def test_intersection_and_union_are_those_of_each_image():
    truth, found = np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 1))
    truth[0, :2], found[0, 1:3] = 1, 0.9
    assert counts(found, truth).tolist() == [[4, 12], [0, 0]]


def test_views_are_counted():
    assert [number_of_views(augment) for augment in VIEWS.values()] == [1, 2, 4, 4, 3, 6]
