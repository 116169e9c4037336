"""Compiled code is ready after the installation."""

import subprocess
import sys

from service.local import compile_ahead

# a process of its own: in this one other tests may have called the functions before
_NAMES_WHAT_WAS_NOT_CALLED = """
from calibration.joint.model.linearise import add_map_gradient, expand, map_pixels, subtract_stars
from calibration.joint.solve.elimination import contributions, pulls, soften, star_steps
from diffim.pixels import masked_image, warp
from exposure.stamps import gather, shift_stamps
from service.local.compile_ahead import compile_joint_fit, compile_subtraction

of_fits = map_pixels, subtract_stars, add_map_gradient, expand, contributions, pulls, soften, star_steps
of_pairs = gather, shift_stamps, warp._resample, warp._mark, masked_image._window
for compiling, functions in ((compile_joint_fit, of_fits), (compile_subtraction, of_pairs)):
    early = [f.__name__ for f in functions if f.signatures]
    compiling()
    print(early, [f.__name__ for f in functions if not f.signatures])
"""


def test_tiny_data_call_what_fits_and_subtractions_are_made_of():
    made = subprocess.run(
        [sys.executable, "-c", _NAMES_WHAT_WAS_NOT_CALLED], capture_output=True, text=True, check=False, timeout=300
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines() == ["[] []", "[] []"]


def test_what_cannot_be_compiled_stops_nothing_else(monkeypatch, caplog, capsys):
    def fails() -> float:
        raise OSError("no room")

    monkeypatch.setattr(compile_ahead, "compile_subtraction", fails)
    monkeypatch.setattr(compile_ahead, "compile_joint_fit", lambda: 2.0)
    assert compile_ahead.main() == 1
    assert capsys.readouterr().out == "the joint fit's code is compiled (2 s)\n"
    assert "the code of differences is not compiled ahead" in caplog.text
    monkeypatch.setattr(compile_ahead, "compile_subtraction", lambda: 1.0)
    monkeypatch.setattr(compile_ahead, "compile_joint_fit", fails)
    assert compile_ahead.main() == 1
    assert "the joint fit's code is not compiled ahead" in caplog.text
