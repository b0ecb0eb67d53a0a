"""Tools that are shut in: a process for each call, which can touch what the toolbox's profile lists.

`cell` starts the processes and speaks with them, `child` is what runs inside, `places` says which files exist
there, `bubblewrap` and `confine` are the two mechanisms, `mechanism` finds which of them this machine has,
`egress` is the way out to the hosts that are listed, `watch` bounds all processes of a call together.
"""
