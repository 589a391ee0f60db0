import numpy as np
import pytest
import report_tools

from clipjax.report_parts import loss_phases


def test_phases_begin_where_the_loss_turns():
    losses = np.concatenate(
        [np.linspace(4.3, 4.2, 80), np.linspace(4.2, 0.8, 80), np.full(160, 0.75)]
    )
    steps = 10 * np.arange(1, 321)
    found = loss_phases.phases(steps, losses)
    assert [x.kind for x in found] == ["plateau", "fast fall", "plateau"]
    assert found[0].first == 10 and found[-1].last == 3200
    assert abs(found[0].last - 800) <= 100 and abs(found[1].last - 1600) <= 100
    assert found[1].fall == pytest.approx((4.2 - 0.8) / 4.2, abs=0.05)
    assert [x.first for x in found[1:]] == [x.last + 10 for x in found[:-1]]


def test_a_straight_line_is_one_phase():
    steps = np.arange(1, 201)
    assert len(loss_phases.phases(steps, 5 - steps / 50)) == 1
    assert len(loss_phases.phases(steps, np.full(200, 3.0))) == 1


def test_a_rise_is_named():
    losses = np.concatenate([np.linspace(4, 1, 100), np.linspace(1, 3, 100)])
    kinds = [x.kind for x in loss_phases.phases(np.arange(200), losses)]
    assert kinds == ["fast fall", "rise"]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_few_rows(count):
    found = loss_phases.phases(np.arange(count), np.linspace(3, 1, count))
    assert len(found) == 1 and found[0].start == pytest.approx(3)


def test_course_of_a_published_run(tmp_path):
    """Epochs' losses of a CLIP trained from scratch on 200 images of Flickr30k."""
    losses = [4.3295, 4.0097, 3.3269, 1.7395, 0.7544, 0.5092, 0.3712, 0.3279, 0.3092]
    run = report_tools.logged(tmp_path, loss=[*losses, 0.2570, 0.2683])
    found = loss_phases.course(run)
    assert found.first == 4.3295 and found.last == 0.2683
    assert 100 * found.reduction == pytest.approx(93.8, abs=0.05)
    assert (found.best, found.best_step) == (0.2570, 10)
    assert found.settled == 7  # the first within 5 % of the fall, 0.203, of the end


def test_rows_that_are_not_finite_are_left_out(tmp_path):
    run = report_tools.logged(tmp_path, loss=[3.0, np.nan, 2.0, np.inf, 1.0])
    assert loss_phases.course(run).reduction == pytest.approx(2 / 3)
    (tmp_path / "b").mkdir()
    alone = report_tools.logged(tmp_path / "b", loss=[np.nan, 3.0])
    assert loss_phases.course(alone) is None
