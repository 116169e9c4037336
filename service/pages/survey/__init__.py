"""Pages of the survey as a whole: its sky, its trends, the bodies of the solar system that it met."""
