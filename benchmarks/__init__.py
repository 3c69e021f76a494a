"""Speed, measured side by side: `make bench`, or `python -m benchmarks --help`.

Every benchmark times its sides in one run, interleaved, and reports medians and ratios; only ratios within one run
mean anything. The sides and what they hold equal are told in each module's docstring.
"""
