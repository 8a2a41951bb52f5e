"""The article's experiments done again, each of its claims beside a number that can refute it.

``experiment_plan`` says what is trained and measured; ``experiments`` does it stage by stage
(``networks``, ``measure``), and keeps each in ``stages``; ``evidence`` holds the outcome, from
which ``sections`` make findings with verdicts (``claims``) and ``report`` a page.

Read ``experiments`` first.
"""
