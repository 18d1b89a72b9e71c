"""The report: records beside what the paper printed, as tables, figures and verdicts. No torch.

`paper.py` has the printed numbers, `evidence.py` what our records say of the same settings, with its
uncertainty; tables (`exhibits.py`), figures (`series.py`, `result_figures.py`) and verdicts (`claims.py`,
`ledger.py`) put the two side by side, and `book/report/` has a page for each.
"""
