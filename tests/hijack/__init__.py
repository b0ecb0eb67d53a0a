"""The hijack test: the suites of AgentDojo behind the rail, and an attacker who has every mind in hand.

`make hijack` runs it. No language model is asked: a user task's ground truth is the plan, and the attacker
does what a hijacked executor, a hijacked planner and whoever writes what tools return could do.
"""
