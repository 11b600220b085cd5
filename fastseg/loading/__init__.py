"""From a store to batches: the order of samples, their scaling, the threads."""
