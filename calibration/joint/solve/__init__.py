"""How it is fitted: elimination of stars, Newton steps, rounds of rejection."""
