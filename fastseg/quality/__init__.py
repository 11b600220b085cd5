"""What is wrong with labels and images: `fastseg.check`.

    Store ──> facts ──> rules ──> findings ──> findings_file (CSV, JSON)
                                     └───────> report (a page)

`check` asks each rule in turn. A rule is a small class: its docstring says what it
costs to ignore what it finds, and its fields are thresholds. What several rules need of
a store is in `facts`, computed once.
"""
