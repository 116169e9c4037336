"""What turbulence leaves of each visit's positions: a Gaussian process of the place in the visit's tangent plane.

`correlation` measures how residuals of neighbouring stars go together, and finds the covariance that a gradient of a random
potential would have (`kernel`). `process` predicts the displacement on a grid from it. `fields` does so for each visit of a
fit, and judges the fields by stars that were held out.
"""
