"""What a batch system needs beside the pipelines: the order of jobs, and configurations to start from (``*.yaml``)."""
