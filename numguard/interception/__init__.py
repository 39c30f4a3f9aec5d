"""Armed steps: the dispatch mode, sampling, budget, attribution, and the inspection of single calls."""
