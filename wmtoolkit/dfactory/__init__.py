"""The bridge to dFactory and VeOmni: a task for them, its configs, and the export that lays both out with the data."""
