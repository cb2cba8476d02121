"""The parts of the comparison with TRL: the parent's, and those of the two processes that train.

`gate`, `job` and `measures` are read in both environments and use torch alone; `train_trl` is read in TRL's only; all
others in ours.
"""
