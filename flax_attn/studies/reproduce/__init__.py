"""Papers' experiments done again, each claim beside a number that can refute it.

``papers`` is the table of them: the article, and the parent paper. A plan (``experiment_plan``,
``parent_plan``) says what is trained; ``experiments`` does it stage by stage (``networks``,
``measure``; ``article`` and ``parent`` have what only one of them measures), and keeps each in
``stages``; ``evidence`` holds the outcome, from which ``sections`` make findings with verdicts
(``claims``) and ``report`` a page.

Read ``experiments`` first.
"""
