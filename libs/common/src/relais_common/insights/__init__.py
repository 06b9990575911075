"""Key figures of what was served: hourly rollups of the traces, and the figures that are read from them."""
