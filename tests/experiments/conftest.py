import sys
from pathlib import Path

# An experiment is a script that imports its neighbours.
sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
