"""Where a study's nodes run: processes of this machine, jobs of Slurm, or tasks of Ray."""
