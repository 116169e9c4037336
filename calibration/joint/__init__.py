"""Joint calibration: WCS and flux scales of many visits fitted at once.

A run goes ``inputs`` -> ``stars`` (matching) -> ``build_astrometry`` / ``build_photometry`` (start values) -> ``fit``
(stages, rejection) over ``minimize`` (Newton) over ``elimination`` (stars out, sums over blocks) -> ``result``,
``outputs``, ``pictures``. ``task`` is the published front door, ``command`` the command line.
"""
