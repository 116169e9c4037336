"""Joint calibration: WCS and flux scales of many visits fitted at once.

A run goes ``inputs`` -> ``stars`` (matching) -> ``build_astrometry`` / ``build_photometry`` (start values) -> ``fit``
(stages, rejection) over ``minimize`` (Newton steps) over ``elimination`` (stars are eliminated, blocks are summed) ->
``result``, ``outputs``, ``pictures``. ``task`` holds the published task, ``command`` the command line.
"""
