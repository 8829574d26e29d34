"""A model on fresh readings against one that is trained anew each night, in short."""

import json

import pytest

from benchmarks import fresh_data


@pytest.mark.parametrize("frequency", ["auto", "D"])
def test_fresh_readings_are_as_good_as_a_training_each_night(
    capsys: pytest.CaptureFixture[str], frequency: str
) -> None:
    arguments = ["--customers", "3", "--nights", "2", "--frequency", frequency]
    assert fresh_data.main(arguments) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["customers"], told["nights"]) == (3, 2)
    # The synthetic data are the same in each run, so that chance does not decide.
    assert told["ratio"] <= 1.05
    assert told["mae_ratio"] <= 1.05
    assert told["fresh"]["mase"] < 1
    assert told["readings_bytes"] < 64_000
