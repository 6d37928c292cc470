"""qbench: what does quantizing this network cost in accuracy, and what does it buy?"""

__version__ = "0.1.0"
